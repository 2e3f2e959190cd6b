"""What a fit has done so far, on disk after each fold: a run that was cut off goes on where it was."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from engine.jobs.kept import Kept, whole
from engine.models.dataset import SEQUENCE_COLUMNS, SequenceDataset
from engine.models.propensity import FitReport
from policies.records import FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class FoldResult:
    """One fold's model on every row.

    Parameters
    ----------
    score
        Log odds of the label, shape ``(n,)``.
    kept
        Log odds of being kept, shape ``(n,)``; None without such a head.
    """

    score: FloatArray
    kept: FloatArray | None
    report: FitReport
    scoring_seconds: float


class Checkpoints:
    """Finished folds below one folder.

    Raises
    ------
    InvalidInputError
        If the folder holds folds of other data or another configuration.
    """

    def __init__(self, folder: Path, *, of: dict[str, Any]) -> None:
        self._kept = Kept(folder, of=of)

    def load(self, fold: int) -> FoldResult | None:
        """What a fold left; None where it was not finished."""
        path = self._kept.path(str(fold), suffix=".npz")
        if not path.is_file():
            return None
        with np.load(path) as found:
            report = json.loads(str(found["report"]))
            report["history"] = {name: tuple(values) for name, values in report["history"].items()}
            report["notes"] = tuple(report["notes"])
            kept = found.get("kept")
            return FoldResult(found["score"], kept, FitReport(**report), float(found["scoring_seconds"]))

    def save(self, fold: int, result: FoldResult) -> None:
        """Keep a fold, whole or not at all; whatever else it leaves has to be on disk before."""
        arrays: dict[str, Any] = {
            "score": result.score,
            "report": np.array(json.dumps(asdict(result.report))),
            "scoring_seconds": np.array(result.scoring_seconds),
        }
        if result.kept is not None:
            arrays["kept"] = result.kept
        with whole(self._kept.path(str(fold), suffix=".npz")) as scratch:
            np.savez(scratch, **arrays)


def data_digest(data: SequenceDataset) -> str:
    """Digest of everything a model is fitted on."""
    digest = hashlib.sha256()
    arrays = [getattr(data, name) for name in SEQUENCE_COLUMNS]
    plain = {f.name for f in fields(data)} - {*SEQUENCE_COLUMNS, "columns", "manifest"}
    arrays += [getattr(data, name) for name in sorted(plain) if getattr(data, name) is not None]
    arrays += [data.columns[name] for name in sorted(data.columns)]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    digest.update("".join(sorted(data.columns)).encode())
    return digest.hexdigest()
