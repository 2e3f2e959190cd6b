"""Train propensity models side by side, choose one on validation, calibrate it, and judge all once on test.

``python -m engine.training.propensity --data DIR --out DIR --models logistic,lightgbm,mllib,dnn,gru``

Each framework runs in a process of its own. What is written: per model its predictions, report and artefacts under
``models/``; ``comparison.json`` with every figure; ``reliability.svg``; ``scores.parquet`` with the chosen, calibrated probability of every
row, matured or not; the calibrator's parameters are in ``comparison.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.jobs import children
from engine.models.calibration import Calibrator, choose_calibrator, cross_calibrated
from engine.models.dataset import SequenceDataset
from engine.models.metrics import (
    average_precision,
    evaluate,
    expected_calibration_error,
    expit,
    log_loss,
    logit,
    paired_difference,
    roc_auc,
)
from engine.models.segments import segments_of
from engine.training.candidates import CANDIDATES, known_candidate
from engine.training.fit_one import checked_part
from engine.training.plots import reliability, reliability_svg
from engine.training.scoring import words_digests
from policies.errors import InvalidInputError, NextofferError
from policies.records import FloatArray

DEFAULT_MODELS = ("logistic", "lightgbm", "mllib", "dnn", "gru")
REFERENCE = "logistic"
PLAIN = "reference"
BLEND = "blend"
# A framework that hangs must not hang the comparison with it.
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One comparison.

    Parameters
    ----------
    models
        Names from ``engine.training.candidates``; ``logistic`` is added, it is the reference.
    quick
        Smaller fits that prove the path.
    jobs
        Processes at once.
    ignore
        Columns no model may use (names, or prefixes ending in ``*``), for example ``customer_*``.
    reference_ignore
        Columns that the reference alone may not use: what a plain model without the newer columns would have had. The logistic
        regression with all columns then stands beside it.
    n_folds
        Folds of whole subjects over train and validation together: the choice then rests on all of their rows, each scored by
        a model that never saw its subject, the scores are the mean of the folds' models, a sequence encoder is fitted once more on all of
        them, and other artefacts are the first fold's. 1: the two splits as they are; a quick run does that.
    n_resamples
        Bootstrap resamples of subjects behind each interval.
    resume
        Go on with a run that was cut off: folds that are done are not fitted again.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    quick: bool = False
    jobs: int = 2
    seed: int = 0
    ignore: tuple[str, ...] = ()
    reference_ignore: tuple[str, ...] = ()
    n_folds: int = 5
    n_resamples: int = 400
    resume: bool = False

    def __post_init__(self) -> None:
        if self.n_folds == 2 or self.n_folds < 1:
            raise InvalidInputError(
                f"n_folds is {self.n_folds}; expected 1 (no folds) or at least 3: one fold is scored, one stops the fit, the rest train"
            )

    @property
    def reference(self) -> str:
        """Name of the model that others are compared with."""
        return PLAIN if self.reference_ignore else REFERENCE

    @property
    def folds(self) -> int:
        """Folds this run uses."""
        return 1 if self.quick else self.n_folds


Progress = Callable[[str, str], None]


def train_propensity(
    data_folder: Path, out: Path, *, config: TrainingConfig, progress: Progress | None = None
) -> dict[str, Any]:
    """Fit, choose, calibrate and compare; returns what ``comparison.json`` holds.

    Raises
    ------
    InvalidInputError
        If ``out`` holds an earlier run, or a split cannot train or judge a model.
    JobError
        If a model's process fails; the text says what it said.
    """
    started = time.monotonic()
    if (out / "models").exists() and not (config.resume and not (out / "comparison.json").exists()):
        raise InvalidInputError(
            f"{out} holds an earlier run; choose another folder or remove it, or go on with one that was cut off (--resume)"
        )
    models = tuple(dict.fromkeys((config.reference, REFERENCE, *config.models)))
    for name in models:
        known_candidate(name)
    data = SequenceDataset.read(data_folder)
    for split in ("train", "validation", "calibration", "test"):
        checked_part(data, split)
    predictions = _fit_all(data_folder, out, models=models, config=config, progress=progress or (lambda *_: None))
    reports = {n: json.loads((out / "models" / n / "report.json").read_text()) for n in models}
    result = compare(data, predictions, config=config)
    result |= {
        "vocabularies": words_digests(data.manifest),
        "encoder": _encoder_of(result, models),
        "kept": judge_kept(data, {n: _kept_of(out / "models" / n) for n in models}, seed=config.seed),
        "data": str(data.manifest.get("source", data_folder.name)),
        "fits": {
            n: {k: r[k] for k in ("n_rows", "n_folds", "best_steps", "seconds", "scoring_seconds", "notes")}
            for n, r in reports.items()
        },
        "config": {
            "models": list(models),
            "quick": config.quick,
            "seed": config.seed,
            "n_folds": config.folds,
            "ignore": list(config.ignore),
        },
        "seconds": time.monotonic() - started,
    }
    _write(out, data, predictions, result)
    return result


def _fit_all(
    data_folder: Path, out: Path, *, models: Sequence[str], config: TrainingConfig, progress: Progress
) -> dict[str, FloatArray]:
    # The slow starters first, so that two processes end at about the same time.
    order = sorted(
        models, key=lambda n: ("torch", "spark", "tensorflow", "lightgbm", "numpy").index(CANDIDATES[n].framework)
    )

    def fit(name: str) -> None:
        fit_in_process(name, data_folder, out / "models" / name, config=config, progress=progress)
        progress(name, "done")

    with ThreadPoolExecutor(max_workers=config.jobs) as pool:
        for done in [pool.submit(fit, name) for name in order]:
            done.result()
    return {n: pq.read_table(out / "models" / n / "predictions.parquet")["probability"].to_numpy() for n in models}


def fit_in_process(name: str, data_folder: Path, out: Path, *, config: TrainingConfig, progress: Progress) -> None:
    """Fit one model in a process of its own and wait for it.

    Raises
    ------
    JobError
        If the process fails or takes longer than a quarter of an hour.
    """
    ignore = (*config.ignore, *(config.reference_ignore if name == PLAIN else ()))
    arguments = ["--data", str(data_folder), "--out", str(out), "--model", name, "--seed", str(config.seed)]
    arguments += ["--ignore", ",".join(ignore), "--folds", str(config.folds), *(["--quick"] if config.quick else [])]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}

    def told(line: str) -> None:
        if line.startswith(f"{name}:"):
            progress(name, line)

    job = children.Job(f"training {name}", "engine.training.fit_one", arguments, environment, longest_s=_TIMEOUT_S)
    children.run(job, log=out.parent.parent / "logs" / f"{name}.log", on_line=told)


def compare(data: SequenceDataset, predictions: Mapping[str, FloatArray], *, config: TrainingConfig) -> dict[str, Any]:
    """Choose on validation, calibrate on calibration, judge every model on test against the reference.

    ``predictions`` holds an uncalibrated probability of every row of ``data`` by model; the equal-weight mean of
    their log odds joins as ``blend`` where there are at least two models beside the reference.
    """
    predictions = dict(predictions)
    reference = config.reference
    if len(_blended(predictions)) > 2:
        predictions[BLEND] = _blend(predictions)
    judged_on = ("train", "validation") if config.folds > 1 else ("validation",)
    rows = {s: np.flatnonzero((data.split == s) & data.is_matured) for s in ("calibration", "test")}
    rows["validation"] = np.flatnonzero(np.isin(data.split, judged_on) & data.is_matured)
    on_validation = {
        name: {
            "log_loss": log_loss(data.label[rows["validation"]], p[rows["validation"]]),
            "roc_auc": roc_auc(data.label[rows["validation"]], p[rows["validation"]]),
            "average_precision": average_precision(data.label[rows["validation"]], p[rows["validation"]]),
            # Before calibration: what rebalancing, or its correction, left of the level.
            "ece": expected_calibration_error(data.label[rows["validation"]], p[rows["validation"]]),
        }
        for name, p in predictions.items()
    }
    chosen, reason = choose(data, predictions, rows=rows["validation"], config=config)
    calibrators: dict[str, Calibrator] = {}
    table: dict[str, Any] = {}
    calibrated: dict[str, FloatArray] = {}
    part = rows["calibration"]
    for name, p in predictions.items():
        calibrators[name], kind, losses = choose_calibrator(
            data.label[part], p[part], data.subject[part], seed=config.seed
        )
        calibrated[name] = calibrators[name](p)
        table[name] = {
            "members": _blended(predictions) if name == BLEND else [name],
            "calibration": {"kind": kind, "log_loss": losses, **calibrators[name].to_manifest()},
        }
    test, label = rows["test"], data.label[rows["test"]]
    for name, p in calibrated.items():
        rng = np.random.default_rng(config.seed)  # the same resamples for every model
        table[name]["validation"] = on_validation[name]
        # The score as it is deployed, on rows of its own period that trained nothing, calibrated without their subjects.
        own = predictions[name][part]
        table[name]["in_period"] = evaluate(
            data.label[part],
            cross_calibrated(data.label[part], own, data.subject[part], seed=config.seed),
            data.subject[part],
            rng=np.random.default_rng(config.seed),
            n_resamples=config.n_resamples // 4,
        ).to_json()
        # More rows, but each scored by one fold's model, which is more extreme than the mean that is deployed.
        table[name]["single_folds"] = evaluate(
            data.label[rows["validation"]],
            p[rows["validation"]],
            data.subject[rows["validation"]],
            rng=np.random.default_rng(config.seed),
            n_resamples=config.n_resamples // 4,
        ).to_json()
        table[name]["test"] = evaluate(
            label, p[test], data.subject[test], rng=rng, n_resamples=config.n_resamples
        ).to_json()
        table[name]["test_against_reference"] = {
            metric: _as_json(
                paired_difference(
                    metric,
                    label,
                    p[test],
                    calibrated[reference][test],
                    data.subject[test],
                    rng=np.random.default_rng(config.seed),
                    n_resamples=config.n_resamples,
                )
            )
            for metric in ("roc_auc", "average_precision", "log_loss")
        }
    return {
        "chosen": chosen,
        "reason": reason,
        "reference": reference,
        "verdict": _verdict(chosen, reference, table[chosen]["test_against_reference"]),
        "rows": {
            split: {"rows": len(r), "positives": int(data.label[r].sum()), "subjects": len(np.unique(data.subject[r]))}
            for split, r in rows.items()
        },
        "validated_by": f"{config.folds} folds of whole subjects over train and validation"
        if config.folds > 1
        else "the validation split, which also stopped the fits",
        "not_matured": int((~data.is_matured).sum()),
        "models": table,
        "segments": segments_of(
            data.take(test), calibrated[chosen][test], calibrated[reference][test], seed=config.seed
        ),
    }


def _encoder_of(result: Mapping[str, Any], models: Sequence[str]) -> dict[str, str] | None:
    """Which trained model's sequence encoder is to be served: the one with the lowest log loss on validation; None where none has one."""
    able = [n for n in models if CANDIDATES[n].exports_encoder]
    if not able:
        return None
    best = min(able, key=lambda n: float(result["models"][n]["validation"]["log_loss"]))
    return {"model": best, "artifact": f"models/{best}/artifacts/sequence_encoder"}


def _kept_of(folder: Path) -> FloatArray | None:
    table = pq.read_table(folder / "predictions.parquet")
    return np.asarray(table["kept"].to_numpy()) if "kept" in table.column_names else None


def judge_kept(data: SequenceDataset, predictions: Mapping[str, FloatArray | None], *, seed: int) -> dict[str, Any]:
    """Calibrate and judge the second target of the models that have a head for it; empty where there is none to judge.

    Calibrated on the calibration split, judged on test, over rows whose second outcome is known.
    """
    out: dict[str, Any] = {}
    if data.kept is None:
        return out
    known = np.isfinite(data.kept)
    part, test = (np.flatnonzero((data.split == s) & known) for s in ("calibration", "test"))
    for name, p in predictions.items():
        if p is None or any(len(np.unique(data.kept[rows])) < 2 for rows in (part, test)):
            continue
        calibrator, kind, _ = choose_calibrator(data.kept[part], p[part], data.subject[part], seed=seed)
        judged = evaluate(
            data.kept[test], calibrator(p[test]), data.subject[test], rng=np.random.default_rng(seed), n_resamples=100
        )
        out[name] = {"calibration": {"kind": kind, **calibrator.to_manifest()}, "test": judged.to_json()}
    return out


def _blended(predictions: Mapping[str, FloatArray]) -> list[str]:
    """Members of the blend; the same regression fitted twice (by numpy and by MLlib) counts once."""
    return [n for n in predictions if n not in (PLAIN, BLEND) and not (n == "mllib" and REFERENCE in predictions)]


def _blend(predictions: Mapping[str, FloatArray]) -> FloatArray:
    return expit(np.mean([logit(predictions[n]) for n in _blended(predictions)], axis=0))


def choose(
    data: SequenceDataset, predictions: Mapping[str, FloatArray], *, rows: Any, config: TrainingConfig
) -> tuple[str, str]:
    """One model by validation alone: the lowest log loss, and a sequence model only if it clearly earns its cost.

    A model that reads sequences has to beat the boosted trees (where trained) in average precision by more than the paired
    interval over subjects; else it is passed over.
    """
    label, subject = data.label[rows], data.subject[rows]
    ranking = sorted(predictions, key=lambda n: log_loss(label, predictions[n][rows]))
    passed: list[str] = []
    for name in ranking:
        candidate = CANDIDATES.get(name)
        if candidate is not None and candidate.reads_sequence and "lightgbm" in predictions:
            gain = paired_difference(
                "average_precision",
                label,
                predictions[name][rows],
                predictions["lightgbm"][rows],
                subject,
                rng=np.random.default_rng(config.seed),
                n_resamples=config.n_resamples,
            )
            if gain.low <= 0:
                passed.append(
                    f"{name} passed over: its average precision differs from lightgbm's by {gain.value:+.4f} "
                    f"[{gain.low:+.4f}, {gain.high:+.4f}] on validation"
                )
                continue
        return name, "; ".join(["lowest log loss on validation", *passed])
    return config.reference, "; ".join(["the reference stays", *passed])


def _verdict(chosen: str, reference: str, against: Mapping[str, Any]) -> str:
    if chosen == reference:
        return "the reference logistic regression itself was chosen: no model did better on validation"
    auc = against["roc_auc"]
    span = f"{auc['value']:+.4f} AUC [{auc['low']:+.4f}, {auc['high']:+.4f}] against the reference logistic on test"
    if auc["low"] > 0:
        return f"{chosen} is better: {span}"
    if auc["high"] < 0:
        return f"{chosen} is worse: {span}; validation chose wrongly"
    return f"{chosen} cannot be told from the reference: {span}"


def _as_json(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _write(out: Path, data: SequenceDataset, predictions: Mapping[str, FloatArray], result: dict[str, Any]) -> None:
    from engine.models.calibration import from_manifest

    chosen = result["chosen"]
    raw = _blend(predictions) if chosen == BLEND else predictions[chosen]
    calibrator = from_manifest(result["models"][chosen]["calibration"])
    scores = pa.table(
        {
            "subject": pa.array(data.subject.tolist()),
            "offer": pa.array(data.offer.tolist()),
            "as_of": pa.array(data.as_of, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC")),
            "split": pa.array(data.split.tolist()),
            "is_matured": pa.array(data.is_matured),
            "label": pa.array(data.label, from_pandas=True),
            "probability": pa.array(calibrator(raw)),
        }
    )
    pq.write_table(scores, out / "scores.parquet")
    p = calibrator(raw)
    parts = {
        name: reliability(data.label[rows], p[rows])
        for name, splits in (("single folds", ("train", "validation")), ("test", ("test",)))
        if len(rows := np.flatnonzero(np.isin(data.split, splits) & data.is_matured))
    }
    (out / "reliability.svg").write_text(reliability_svg(parts, title=f"{result['data']}: {chosen}"))
    (out / "comparison.json").write_text(json.dumps(result, indent=1))


def table_text(result: Mapping[str, Any]) -> str:
    """The comparison as a table for a person: every figure on the one test split, intervals over subjects."""
    width = _name_width(result["models"])
    head = f"{'model':<{width}}{'AUC-ROC':>24}{'PR-AUC':>24}{'P@10%':>8}{'log loss':>10}{'Brier sk.':>10}{'ECE (floor)':>18}{'slope':>7}  {'AUC − reference':<26}"
    lines = [head, "-" * len(head)]
    for name, row in sorted(result["models"].items(), key=lambda item: item[1]["validation"]["log_loss"]):
        test, against = row["test"], row["test_against_reference"]["roc_auc"]
        mark = "*" if name == result["chosen"] else " "
        lines.append(
            f"{name + mark:<{width}}{_span(test['roc_auc']):>24}{_span(test['average_precision']):>24}"
            f"{test['precision_at_10pct']:>8.3f}{test['log_loss']:>10.4f}{test['brier_skill']:>10.3f}"
            f"{test['ece']:>9.4f} ({test['ece_floor']['upper']:.4f}){test['calibration_slope']['value']:>7.2f}  "
            f"{against['value']:+.4f} [{against['low']:+.4f}, {against['high']:+.4f}]"
        )
    own, rows = result["models"][result["chosen"]]["in_period"], result["rows"]
    later = result["models"][result["chosen"]]["test"]
    slope = own["calibration_slope"]
    level = (
        f"level of {result['chosen']}: in its own period slope {slope['value']:.2f} [{slope['low']:.2f}, {slope['high']:.2f}], "
        f"ECE {own['ece']:.4f} (floor {own['ece_floor']['upper']:.4f}), mean {own['mean_probability']:.3f} where {own['rate']:.3f} occurred; "
        f"on test slope {later['calibration_slope']['value']:.2f}, mean {later['mean_probability']:.3f} where {later['rate']:.3f} occurred"
    )
    for name, row in result.get("kept", {}).items():
        kept = row["test"]
        lines.append(
            f"kept, by {name}'s second head: AUC {_span(kept['roc_auc'])}, slope {kept['calibration_slope']['value']:.2f}, "
            f"mean {kept['mean_probability']:.3f} where {kept['rate']:.3f} occurred ({kept['n_positives']} of {kept['n_rows']} rows)"
        )
    sizes = ", ".join(f"{s} {r['rows']} rows / {r['positives']} positive" for s, r in rows.items())
    lines += [
        f"* chosen: {result['reason']}",
        result["verdict"],
        level,
        f"{sizes}; not matured, never used: {result['not_matured']}",
    ]
    return "\n".join(lines)


def runs_under(folder: Path) -> list[dict[str, Any]]:
    """Every comparison below a folder, oldest first, with the folder it lies in as ``run``.

    Raises
    ------
    InvalidInputError
        If there is none.
    """
    files = sorted(folder.rglob("comparison.json"), key=lambda f: f.stat().st_mtime)
    if not files:
        raise InvalidInputError(f"{folder} holds no run (no comparison.json below it); train with --out below it first")
    return [{"run": str(f.parent.relative_to(folder)), **json.loads(f.read_text())} for f in files]


def runs_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """One line a model and run: the figures on each run's test split."""
    width = _name_width([name for run in runs for name in run["models"]])
    head = f"{'run':<24}{'data':<20}{'model':<{width}}{'AUC-ROC':>24}{'PR-AUC':>24}{'log loss':>10}  {'AUC − reference':<26}"
    lines = [head, "-" * len(head)]
    for run in runs:
        for name, row in run["models"].items():
            test, against = row["test"], row["test_against_reference"]["roc_auc"]
            lines.append(
                f"{run['run']:<24}{run['data']:<20}{name + ('*' if name == run['chosen'] else ''):<{width}}"
                f"{_span(test['roc_auc']):>24}{_span(test['average_precision']):>24}{test['log_loss']:>10.4f}  "
                f"{against['value']:+.4f} [{against['low']:+.4f}, {against['high']:+.4f}]"
            )
    return "\n".join(lines)


def _name_width(names: Iterable[str]) -> int:
    """Characters of the column of names: the longest, its mark and a space."""
    return max(len(name) for name in names) + 2


def _span(interval: Mapping[str, float]) -> str:
    return f"{interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line: 0 done, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of decision points")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into; must not hold an earlier run")
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS), help=f"among {', '.join(CANDIDATES)}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folds", type=int, default=TrainingConfig().n_folds)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ignore", default="", help="columns not to use, separated by commas; prefixes end in *")
    parser.add_argument("--reference-ignore", default="", help="columns only the reference may not use")
    parser.add_argument("--runs", type=Path, help="SQLite file to keep the runs in (MLflow)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    parser.add_argument("--json", action="store_true", help="print comparison.json instead of the table")
    options = parser.parse_args(arguments)
    try:
        config = _config(options)
        result = _with_bar(options.data, options.out, config)
        if options.runs is not None:
            from engine.training.tracking import track

            track(result, options.out, data_folder=options.data, store=options.runs)
    except NextofferError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 2
    print(json.dumps(result, indent=1) if options.json else table_text(result))  # noqa: T201
    return 0


def _config(options: argparse.Namespace) -> TrainingConfig:
    return TrainingConfig(
        models=tuple(name for name in options.models.split(",") if name),
        quick=options.quick,
        jobs=options.jobs,
        seed=options.seed,
        n_folds=options.folds,
        resume=options.resume,
        ignore=tuple(rule for rule in options.ignore.split(",") if rule),
        reference_ignore=tuple(rule for rule in options.reference_ignore.split(",") if rule),
    )


def _with_bar(data: Path, out: Path, config: TrainingConfig) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed}/{task.total} models"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=len({config.reference, REFERENCE, *config.models}))

        def show(_name: str, line: str) -> None:
            bar.update(task, description=line, advance=1 if line == "done" else 0)

        return train_propensity(data, out, config=config, progress=show)


if __name__ == "__main__":
    sys.exit(main())
