"""``nextoffer train``: propensity models side by side, each framework in a process of its own."""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path

from cyclopts import App

app = App(name="train", help="Train and compare models")


@app.command
def propensity(
    *,
    data: Path | None = None,
    out: Path | None = None,
    models: str = "",
    quick: bool = False,
    folds: int = 5,
    jobs: int = 2,
    seed: int = 0,
    ignore: str = "",
    reference_ignore: str = "",
    forbid_customer: bool = False,
    resume: bool = False,
    runs: Path | None = None,
    compare: Path | None = None,
    json: bool = False,
) -> int:
    """Fit propensity models, choose one on validation, calibrate it, and judge all of them once on the test split.

    Parameters
    ----------
    data
        Folder of decision points (``nextoffer sequences build``).
    out
        Folder to write into; must not hold an earlier run.
    models
        Names separated by commas; all of them if empty.
    quick
        Smaller fits that prove the path.
    folds
        Folds of whole subjects that the choice rests on; 1 uses the train and validation splits as they are.
    jobs
        Processes at once.
    seed
        Seed of everything that uses chance.
    ignore
        Columns no model may use, separated by commas; prefixes end in ``*`` (for example ``customer_*``).
    reference_ignore
        Columns that the reference logistic regression alone may not use.
    forbid_customer
        No model may use who somebody is (``customer_*``): only what was done.
    resume
        Go on with a run in ``out`` that was cut off: folds that are done are not fitted again.
    runs
        SQLite file that keeps the runs, one a model (MLflow): data hash, configuration, figures, plot, artefacts.
    compare
        Instead of training: a folder of runs, or the SQLite file of ``--runs``, compared in one table.
    json
        Print the comparison as JSON on stdout.
    """
    from engine.training.comparison import DEFAULT_MODELS
    from engine.training.comparison_tables import runs_table, runs_under
    from engine.training.propensity import main
    from policies.errors import InvalidInputError

    if compare is not None and (compare.is_file() or compare.suffix in (".db", ".sqlite")):
        from engine.training.tracking import tracked_runs, tracked_table

        tracked = tracked_runs(compare)
        print(json_module.dumps(tracked, indent=1) if json else tracked_table(tracked))  # noqa: T201 - data on stdout
        return 0
    if compare is not None:
        found = runs_under(compare)
        print(json_module.dumps(found, indent=1) if json else runs_table(found))  # noqa: T201 - data on stdout
        return 0
    if forbid_customer:
        ignore = ",".join(rule for rule in (ignore, "customer_*") if rule)
    if data is None or out is None:
        raise InvalidInputError(
            "training needs --data (a folder of decision points) and --out (a folder to write into); "
            "--compare FOLDER prints a table over earlier runs instead"
        )
    arguments = ["--data", str(data), "--out", str(out), "--models", models or ",".join(DEFAULT_MODELS)]
    arguments += ["--folds", str(folds), "--jobs", str(jobs), "--seed", str(seed), "--ignore", ignore]
    arguments += [
        "--reference-ignore",
        reference_ignore,
        *(["--runs", str(runs)] if runs else []),
        *(["--quick"] if quick else []),
        *(["--resume"] if resume else []),
        *(["--json"] if json else []),
    ]
    return main(arguments)


@app.command
def audit(*, data: Path, seed: int = 0, json: bool = False) -> int:
    """Look for leakage: columns that alone nearly equal the model, and what random folds would have flattered it by.

    Parameters
    ----------
    data
        Folder of decision points.
    seed
        Seed of the folds.
    json
        Print the findings as JSON on stdout.
    """
    from engine.models.dataset import SequenceDataset
    from engine.training.audit import audit_text, leakage_audit

    found = leakage_audit(SequenceDataset.read(data), seed=seed, progress=_say)
    print(json_module.dumps(found, indent=1) if json else audit_text(found))  # noqa: T201 - data on stdout
    return 1 if found["suspects"] else 0


@app.command
def explain(*, run: Path, data: Path, subject: str = "", model: str = "", seed: int = 0, json: bool = False) -> int:
    """Say what a trained model goes by: columns its ranking rests on, what customer attributes move, or why one subject scores as it does.

    Parameters
    ----------
    run
        Folder that ``train propensity --out`` wrote.
    data
        Folder of decision points.
    subject
        Explain the latest row of this subject instead of the model as a whole.
    model
        Name of a model of the run; the chosen one where it can be loaded again, else the best that can.
    seed
        Seed of the shuffling.
    json
        Print the findings as JSON on stdout.
    """
    import numpy as np

    from engine.models.dataset import SequenceDataset
    from engine.training import explain as ask
    from policies.errors import InvalidInputError

    comparison = json_module.loads((run / "comparison.json").read_text())
    name, fitted = ask.model_of_run(run, comparison, name=model)
    points, rng = SequenceDataset.read(data), np.random.default_rng(seed)
    judged = points.part("test")
    _say(f"model {name} (as its first fold left it), of the run whose choice was {comparison['chosen']}")
    if subject:
        rows = np.flatnonzero(points.subject == subject)
        if not len(rows):
            raise InvalidInputError(
                f"{data} has no subject {subject!r}; take one from the column `subject` of its points"
            )
        row = int(rows[np.argmax(points.as_of[rows])])
        reasons = ask.explain_row(fitted, points, row, background=points.part("train"), rng=rng)
        probability = float(fitted.predict(points.take(np.array([row])))[0])
        told = {"subject": subject, "model": name, "probability": probability, "reasons": reasons}
        print(json_module.dumps(told, indent=1) if json else ask.explanation_text(subject, probability, reasons))  # noqa: T201 - data on stdout
        return 0
    falls = ask.permutation_importance(fitted, judged, rng=rng)
    moved = ask.customer_effects(fitted, judged, rng=rng)
    if json:
        print(json_module.dumps({"model": name, "importance": falls, "customer": moved}, indent=1))  # noqa: T201 - data on stdout
        return 0
    lines = ["fall of AUC when shuffled:", *(f"  {n:<36}{fall:+.4f}" for n, fall in list(falls.items())[:15])]
    lines.append(
        "customer attributes: mean change of the probability when they are another customer's, share of rows that move"
    )
    lines += [f"  {n:<36}{m['mean_change']:.4f}{m['share_moved']:>8.1%}" for n, m in moved.items()]
    print("\n".join(lines))  # noqa: T201 - data on stdout
    return 0


@app.command
def score(*, run: Path, data: Path, out: Path, name: str = "propensity", by_offer: bool = False) -> int:
    """Score every decision point with the model a run chose, in Spark: probabilities by row, and traits by subject for the service.

    ``nextoffer sequences traits --file OUT/traits`` hands the traits to the service.

    Parameters
    ----------
    run
        Folder that ``train propensity --out`` wrote.
    data
        Folder of decision points, numbered by the words of the training (``sequences build --words``).
    out
        Folder for ``scores`` and ``traits``.
    name
        Name of the trait.
    by_offer
        One trait an offer of a subject's latest moment, instead of their mean.
    """
    from engine.jobs.children import run_in_front

    arguments = ["--run", str(run), "--data", str(data), "--out", str(out), "--name", name]
    return run_in_front("engine.training.batch_scores", [*arguments, *(["--by-offer"] if by_offer else [])])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - words on stderr
