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
    runs
        SQLite file that keeps the runs, one a model (MLflow): data hash, configuration, figures, plot, artefacts.
    compare
        Instead of training: a folder of runs, or the SQLite file of ``--runs``, compared in one table.
    json
        Print the comparison as JSON on stdout.
    """
    from engine.training.propensity import DEFAULT_MODELS, main, runs_table, runs_under
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


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - words on stderr
