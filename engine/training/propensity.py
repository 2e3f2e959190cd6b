"""Train propensity models side by side, choose one on validation, calibrate it, and judge all once on test.

``python -m engine.training.propensity --data DIR --out DIR --models logistic,lightgbm,mllib,dnn,gru``

Each model is fitted in a process of its own. What is written: per model its predictions, report and artefacts under
``models/``; ``comparison.json`` with every figure; ``reliability.svg``; ``scores.parquet`` with the chosen, calibrated probability of every
row, matured or not; the calibrator's parameters are in ``comparison.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.jobs import children
from engine.models.dataset import SequenceDataset
from engine.training.candidates import CANDIDATES, known_candidate
from engine.training.comparison import (
    BLEND,
    DEFAULT_MODELS,
    PLAIN,
    REFERENCE,
    TrainingConfig,
    blend_of,
    compare,
    judge_kept,
)
from engine.training.comparison_tables import table_text
from engine.training.fit_one import checked_part
from engine.training.plots import reliability, reliability_svg
from engine.training.scoring import words_digests
from policies.errors import InvalidInputError, NextofferError
from policies.records import FloatArray

# A framework that hangs must not hang the comparison with it.
_TIMEOUT_S = 900.0


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


def _write(out: Path, data: SequenceDataset, predictions: Mapping[str, FloatArray], result: dict[str, Any]) -> None:
    from engine.models.calibration import from_manifest

    chosen = result["chosen"]
    raw = blend_of(predictions) if chosen == BLEND else predictions[chosen]
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
