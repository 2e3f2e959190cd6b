"""Fit one propensity model in a process of its own and leave files: predictions, a report, artefacts.

``python -m engine.training.fit_one --data DIR --out DIR --model NAME``; started by ``engine.training.propensity``.
TensorFlow, PyTorch and Spark never meet in one process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, logit
from engine.models.propensity import FitReport, KeptModel, PropensityModel, RefittedModel
from engine.training.candidates import build_model, known_candidate
from engine.training.checkpoints import Checkpoints, FoldResult, data_digest
from policies.artifact import Artifact, save_artifact
from policies.errors import InvalidInputError, NextofferError
from policies.records import FloatArray, IntArray

SERVED = "served"


def fit_one(
    data: SequenceDataset,
    out: Path,
    *,
    name: str,
    seed: int,
    quick: bool = False,
    ignore: tuple[str, ...] = (),
    n_folds: int = 1,
) -> None:
    """Fit on ``train``, stop on ``validation``, score every row, write everything under ``out``.

    Folds that an earlier call finished in ``out`` are not fitted again.

    With ``n_folds`` of 3 or more the two splits are pooled and dealt into folds of whole subjects: each model trains on
    all but two of them, stops on one and scores the other, so that every row of the pool is scored by a model that never
    saw its subject; rows outside the pool get the mean log odds of the models. One split of a small table says little
    about which model is better; the pool says it with all its positives.

    Raises
    ------
    InvalidInputError
        If a split is empty or has one class only, or ``out`` was begun with other data or options.
    """
    of = {"model": name, "seed": seed, "quick": quick, "ignore": list(ignore), "n_folds": n_folds}
    checkpoints = Checkpoints(out / "folds", of={**of, "data": data_digest(data)})
    if (out / "report.json").is_file():
        return
    checked_part(data, "train"), checked_part(data, "validation")
    if known_candidate(name).framework == "torch":
        import torch

        torch.set_num_threads(1)
    pool = np.isin(data.split, ("train", "validation")) & data.is_matured
    fold = subject_folds(data.subject, n_folds=n_folds, seed=seed) if n_folds > 1 else (data.split == "validation") * 1
    scores, held_out = np.zeros(len(data)), np.zeros(len(data))
    kept_scores: FloatArray | None = None
    reports: list[FitReport] = []
    scoring_seconds = 0.0
    for k in range(n_folds):
        result = checkpoints.load(k)
        if result is None:
            stop = (k + 1) % n_folds if n_folds > 1 else 1
            aside = {stop, k} if n_folds > 1 else {stop}
            model = build_model(name, seed=seed + k, quick=quick, ignore=ignore, progress=_say)
            report = model.fit(data.take(pool & ~np.isin(fold, list(aside))), data.take(pool & (fold == stop)))
            # Scores are the mean over the folds' models, so all of them are served; of other artefacts the first fold's are kept.
            _save(model, out, fold=k)
            result = _scored(model, data, report)
            checkpoints.save(k, result)
        scores += result.score / n_folds
        held_out[fold == k] = result.score[fold == k]
        if result.kept is not None:
            kept_scores = (np.zeros(len(data)) if kept_scores is None else kept_scores) + result.kept / n_folds
        reports.append(result.report)
        scoring_seconds += result.scoring_seconds
        _say(f"{name}: fold {k + 1} of {n_folds} done")
    # Without folds the rows that stopped the fit are scored by it: slightly flattering, said in the report.
    probability = expit(np.where(pool, held_out, scores) if n_folds > 1 else scores)
    report = reports[0]
    notes = list(report.notes)
    if n_folds > 1 and known_candidate(name).exports_encoder:
        # What is served should know the whole pool, and no fold's model does. A network that folds left at its start has an encoder
        # that was never trained: it gets one epoch.
        n_epochs = max(1, round(float(np.median([r.best_step for r in reports]))))
        model = build_model(name, seed=seed, quick=quick, ignore=ignore, progress=_say)
        parts = data.take(pool & (fold != 0)), data.take(pool & (fold == 0))
        cast(RefittedModel, model).refit(data.take(pool), start_from=parts, n_epochs=n_epochs)
        _replace(model.to_artifacts()["sequence_encoder"], out / "artifacts" / "sequence_encoder")
        notes.append(f"encoder fitted on all {int(pool.sum())} rows of train and validation for {n_epochs} epochs")
    out.mkdir(parents=True, exist_ok=True)
    columns = {"probability": probability}
    if kept_scores is not None:
        columns["kept"] = expit(kept_scores)
    pq.write_table(pa.table(columns), out / "predictions.parquet")
    described = {"model": name, "seed": seed, "n_folds": n_folds, **asdict(report), "scoring_seconds": scoring_seconds}
    described |= {"notes": notes}
    described |= {"seconds": sum(r.seconds for r in reports), "best_steps": [r.best_step for r in reports]}
    (out / "report.json").write_text(json.dumps(described, indent=1))


def _scored(model: PropensityModel, data: SequenceDataset, report: FitReport) -> FoldResult:
    started = time.monotonic()
    score = logit(model.predict(data))
    seconds = time.monotonic() - started
    kept = cast(KeptModel, model).predict_kept(data) if hasattr(model, "predict_kept") else None
    return FoldResult(score, None if kept is None else logit(kept), report, seconds)


def _save(model: PropensityModel, out: Path, *, fold: int) -> None:
    for name, artifact in model.to_artifacts().items():
        if name == SERVED:
            _replace(artifact, out / SERVED / str(fold))
        elif fold == 0:
            _replace(artifact, out / "artifacts" / name)


def _replace(artifact: Artifact, folder: Path) -> None:
    """Save in the place of what a fit that was cut off may have left."""
    shutil.rmtree(folder, ignore_errors=True)
    save_artifact(artifact, folder)


def subject_folds(subjects: NDArray[np.str_], *, n_folds: int, seed: int) -> IntArray:
    """Fold of each row, ``(n,)``: all rows of a subject in one, subjects dealt at random."""
    names, member = np.unique(subjects, return_inverse=True)
    dealt = np.random.default_rng(seed).permutation(len(names)) % n_folds
    return dealt[member].astype(np.int64)


def checked_part(data: SequenceDataset, split: str) -> SequenceDataset:
    """Matured rows of a split, refused where they cannot train or judge a model."""
    part = data.take((data.split == split) & data.is_matured)
    positives = int(np.nansum(part.label))
    if not 0 < positives < len(part):
        raise InvalidInputError(
            f"split {split!r} has {len(part)} matured rows, {positives} of them positive; both outcomes have to occur: "
            "widen the split in the source description"
        )
    return part


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the parent turns these lines into a progress bar


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ignore", default="", help="columns not to use, separated by commas")
    options = parser.parse_args()
    ignore = tuple(rule for rule in options.ignore.split(",") if rule)
    try:
        data = SequenceDataset.read(options.data)
        fit_one(
            data,
            options.out,
            name=options.model,
            seed=options.seed,
            quick=options.quick,
            ignore=ignore,
            n_folds=options.folds,
        )
    except NextofferError as error:
        _say(f"error: {error}")
        return 2
    except Exception as error:
        _say(traceback.format_exc())
        # Last, where the parent looks: a Java stack trace must not hide what went wrong.
        _say(f"error: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
