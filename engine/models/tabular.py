"""What stands beside the sequence as one matrix: numbers standardised, text as indicators, missing marked.

Fitted on the training split and saved with the model. The same specification is rendered by numpy here
and by Spark expressions in ``engine.models.mllib``; a test proves the two equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from policies.errors import SchemaError

# More often than this a level is learned; rarer ones share the unknown indicator.
_MIN_LEVEL_ROWS = 10
_MAX_LEVELS = 64
# Non-negative columns more skewed than this are taken as log(1 + x): amounts and counts, not shares.
_LOG_SKEWNESS = 2.0
_CLIP = 10.0


@dataclass(frozen=True, slots=True)
class NumberSpec:
    """A number: ``(x - mean) / scale`` (of ``log(1 + x)`` where ``is_log``), 0 and an indicator where missing."""

    name: str
    mean: float
    scale: float
    is_log: bool
    may_be_missing: bool

    def labels(self) -> list[str]:
        """Names of its columns."""
        return [self.name, f"{self.name}=missing"] if self.may_be_missing else [self.name]

    def encode(self, column: NDArray[Any]) -> NDArray[np.float32]:
        """Shape ``(n, width)``."""
        missing = np.isnan(column)
        filled = np.where(missing, 0.0, column)
        raw = np.log1p(np.maximum(filled, 0.0)) if self.is_log else filled
        scaled = np.where(missing, 0.0, np.clip((raw - self.mean) / self.scale, -_CLIP, _CLIP))
        parts = [scaled, missing] if self.may_be_missing else [scaled]
        return np.stack(parts, axis=1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class TextSpec:
    """Text: one indicator per level seen often enough, and one for everything else."""

    name: str
    levels: tuple[str, ...]

    def labels(self) -> list[str]:
        """Names of its columns."""
        return [*(f"{self.name}={level or 'missing'}" for level in self.levels), f"{self.name}=?"]

    def encode(self, column: NDArray[Any]) -> NDArray[np.float32]:
        """Shape ``(n, width)``."""
        levels = np.asarray(self.levels, dtype=np.str_)
        hit = column[:, None] == levels[None, :]
        return np.concatenate([hit, ~hit.any(axis=1, keepdims=True)], axis=1).astype(np.float32)


Spec = NumberSpec | TextSpec


@dataclass(frozen=True, slots=True)
class TabularEncoder:
    """Specifications in the order of their columns."""

    specs: tuple[Spec, ...]

    @classmethod
    def fit(cls, data: SequenceDataset, *, ignore: Sequence[str] = ()) -> Self:
        """Learn means, scales and levels; columns that never vary are left out.

        Parameters
        ----------
        ignore
            Names, or prefixes ending in ``*``, of columns that must not be used (for example ``customer_*``).
        """
        specs: list[Spec] = []
        for name in sorted(data.columns):
            if any(name == rule or (rule.endswith("*") and name.startswith(rule[:-1])) for rule in ignore):
                continue
            column = data.columns[name]
            spec = _fit_text(name, column) if column.dtype.kind == "U" else _fit_number(name, column)
            if spec is not None:
                specs.append(spec)
        return cls(tuple(specs))

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column of ``encode``."""
        return tuple(label for spec in self.specs for label in spec.labels())

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.names)

    def encode(self, data: SequenceDataset) -> NDArray[np.float32]:
        """Shape ``(n, width)``, float32.

        Raises
        ------
        SchemaError
            If a column is missing or changed its type since the fit.
        """
        blocks = [spec.encode(_checked(data, spec)) for spec in self.specs]
        return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(data), 0), np.float32)

    def to_manifest(self) -> list[dict[str, Any]]:
        """Plain JSON values that ``from_manifest`` reads back."""
        return [
            {
                "number": s.name,
                "mean": s.mean,
                "scale": s.scale,
                "is_log": s.is_log,
                "may_be_missing": s.may_be_missing,
            }
            if isinstance(s, NumberSpec)
            else {"text": s.name, "levels": list(s.levels)}
            for s in self.specs
        ]

    @classmethod
    def from_manifest(cls, manifest: Sequence[Mapping[str, Any]]) -> Self:
        """Read back what ``to_manifest`` wrote."""
        return cls(
            tuple(
                NumberSpec(s["number"], s["mean"], s["scale"], s["is_log"], s["may_be_missing"])
                if "number" in s
                else TextSpec(s["text"], tuple(s["levels"]))
                for s in manifest
            )
        )


def _checked(data: SequenceDataset, spec: Spec) -> NDArray[Any]:
    column = data.columns.get(spec.name)
    kind = "f" if isinstance(spec, NumberSpec) else "U"
    if column is None or column.dtype.kind != kind:
        found = "missing" if column is None else f"of type {column.dtype}"
        raise SchemaError(
            f"column {spec.name!r} is {found}; the model was fitted on {'a number' if kind == 'f' else 'text'}: "
            "build the decision points with the same source description"
        )
    return column


def _fit_number(name: str, column: NDArray[Any]) -> NumberSpec | None:
    known = column[np.isfinite(column)]
    if not len(known):
        return None
    spread = known.std()
    skewness = float(((known - known.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0
    is_log = bool(known.min() >= 0 and known.max() > 1 and skewness > _LOG_SKEWNESS)
    values = np.log1p(known) if is_log else known
    may_be_missing = len(known) < len(column)
    scale = float(values.std())
    if scale < 1e-9 and not may_be_missing:
        return None
    return NumberSpec(name, round(float(values.mean()), 9), round(scale, 9) or 1.0, is_log, may_be_missing)


def _fit_text(name: str, column: NDArray[Any]) -> TextSpec | None:
    levels, counts = np.unique(column, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MAX_LEVELS]
    kept = sorted(str(levels[i]) for i in order if counts[i] >= _MIN_LEVEL_ROWS)
    return TextSpec(name, tuple(kept)) if len(levels) > 1 and kept else None
