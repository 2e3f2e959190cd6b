"""Fit one propensity model in a process of its own and leave files: predictions, a report, artefacts.

``python -m engine.training.fit_one --data DIR --out DIR --model NAME``; started by ``engine.training.propensity``.
TensorFlow, PyTorch and Spark never meet in one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.models.dataset import SequenceDataset
from engine.models.propensity import PropensityModel
from engine.training.candidates import build_model, known_candidate
from policies.artifact import save_artifact
from policies.errors import InvalidInputError, NextofferError


def fit_one(
    data: SequenceDataset, out: Path, *, name: str, seed: int, quick: bool = False, ignore: tuple[str, ...] = ()
) -> PropensityModel:
    """Fit on ``train``, stop on ``validation``, score every row, write everything under ``out``.

    Raises
    ------
    InvalidInputError
        If a split is empty or has one class only.
    """
    train, validation = checked_part(data, "train"), checked_part(data, "validation")
    if known_candidate(name).framework == "torch":
        import torch

        torch.set_num_threads(1)
    model = build_model(name, seed=seed, quick=quick, ignore=ignore, progress=_say)
    report = model.fit(train, validation)
    started = time.monotonic()
    probability = model.predict(data)
    scoring_seconds = time.monotonic() - started
    out.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"probability": probability}), out / "predictions.parquet")
    for artifact_name, artifact in model.to_artifacts().items():
        save_artifact(artifact, out / "artifacts" / artifact_name)
    described = {"model": name, "seed": seed, **asdict(report), "scoring_seconds": scoring_seconds}
    (out / "report.json").write_text(json.dumps(described, indent=1))
    return model


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
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--ignore", default="", help="columns not to use, separated by commas")
    options = parser.parse_args()
    ignore = tuple(rule for rule in options.ignore.split(",") if rule)
    try:
        data = SequenceDataset.read(options.data)
        fit_one(data, options.out, name=options.model, seed=options.seed, quick=options.quick, ignore=ignore)
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
