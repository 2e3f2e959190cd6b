"""One feature space for training, simulation, logs and serving: fitted, versioned, hashed.

It takes columns of named features to a neutral form, *(namespace, name, value)*, of which the dense
matrix is one rendering and VW's sparse examples another: ``context_names[j]`` names column ``j`` of
``encode_contexts``, and a consumer that wants sparse features pushes the non-zero ones. Numbers are
standardised, text becomes one indicator per known level plus one for unknown, a missing number gets
an indicator of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from policies.errors import SchemaError
from policies.records import (
    DecisionOfOne,
    DecisionTable,
    Features,
    FeatureValue,
    OfferSet,
    RowColumns,
    feature_column,
)

FORMAT_VERSION = 1
MAX_LEVELS = 256
_LOWEST, _HIGHEST = np.float32(-10.0), np.float32(10.0)

Matrix = NDArray[np.float32]


class FeatureName(NamedTuple):
    """Name of one number a model sees."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Numeric:
    """A standardised number: ``(x - mean) / scale``, 0 and an indicator where missing."""

    name: str
    mean: float
    scale: float
    may_be_missing: bool

    @property
    def width(self) -> int:
        """Columns it takes."""
        return 2 if self.may_be_missing else 1

    def labels(self) -> list[str]:
        """Names of its columns."""
        return [self.name, f"{self.name}=missing"] if self.may_be_missing else [self.name]

    def encode(self, column: NDArray[Any] | None, out: Matrix) -> None:
        """Write into ``out``, shape ``(n, width)``, of zeros."""
        if column is None:
            if self.may_be_missing:
                out[:, 1] = 1.0
            return
        if column.dtype.kind != "f":
            raise _not_a_number(self.name)
        missing = np.isnan(column)
        # Clipped: one value far outside what was fitted must not swamp a linear model or overflow float32.
        out[:, 0] = np.where(missing, 0.0, np.clip((np.nan_to_num(column) - self.mean) / self.scale, -10.0, 10.0))
        if self.may_be_missing:
            out[:, 1] = missing


@dataclass(frozen=True, slots=True)
class Categorical:
    """Text as one indicator per known level; the last column is for levels not seen when fitted."""

    name: str
    levels: tuple[str, ...]

    @property
    def width(self) -> int:
        """Columns it takes."""
        return len(self.levels) + 1

    def labels(self) -> list[str]:
        """Names of its columns."""
        return [*(f"{self.name}={level}" for level in self.levels), f"{self.name}=?"]

    def encode(self, column: NDArray[Any] | None, out: Matrix) -> None:
        """Write into ``out``, shape ``(n, width)``, of zeros."""
        # A column in which every value is missing does not tell text from numbers.
        if column is None or (column.dtype.kind == "f" and np.isnan(column).all()):
            out[:, -1] = 1.0
            return
        if column.dtype.kind != "U":
            raise _not_text(self.name)
        levels = np.asarray(self.levels, dtype=np.str_)
        position = np.searchsorted(levels, column).clip(max=len(levels) - 1)
        known = levels[position] == column
        out[np.arange(len(column)), np.where(known, position, len(levels))] = 1.0


@dataclass(frozen=True)
class Block:
    """A named vector, standardised by one mean and scale per component."""

    name: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    @cached_property
    def width(self) -> int:
        """Columns it takes."""
        return len(self.mean)

    def labels(self) -> list[str]:
        """Names of its columns."""
        return [f"{self.name}[{i}]" for i in range(self.width)]

    def encode(self, block: NDArray[Any] | None, out: Matrix) -> None:
        """Write into ``out``, shape ``(n, width)``, of zeros; a missing vector stays at the mean."""
        if block is None:
            return
        if block.shape[1] != self.width:
            raise SchemaError(
                f"vector {self.name!r} has {block.shape[1]} components; the model was fitted on {self.width}"
            )
        if len(block) == 1:  # a single decision: rows cost half of what matrices of one row do
            block, out = block[0], out[0]
        mean, scale, lowest, highest = self._arrays
        standard = block - mean
        standard /= scale
        # Two plain calls with arrays: np.clip's own checks cost as much as the rest of a single decision's encoding, and a bare
        # number is made into an array each time.
        np.maximum(standard, lowest, out=standard)
        np.minimum(standard, highest, out=out)

    @cached_property
    def _arrays(self) -> tuple[Matrix, Matrix, Matrix, Matrix]:
        mean, scale = np.asarray(self.mean, dtype=np.float32), np.asarray(self.scale, dtype=np.float32)
        return mean, scale, np.full_like(mean, _LOWEST), np.full_like(mean, _HIGHEST)


Spec = Numeric | Categorical


def _not_a_number(name: str) -> SchemaError:
    return SchemaError(f"feature {name!r} is text; the model was fitted on a number: send a number")


def _not_text(name: str) -> SchemaError:
    return SchemaError(f"feature {name!r} is a number; the model was fitted on text: send text")


def _fit_column(name: str, column: NDArray[Any]) -> Spec:
    if column.dtype.kind == "U":
        levels = tuple(sorted({str(v) for v in np.unique(column)} - {""}))
        if len(levels) > MAX_LEVELS:
            raise SchemaError(
                f"feature {name!r} has {len(levels)} levels; more than {MAX_LEVELS} is an identifier, not a feature: leave it out"
            )
        return Categorical(name, levels or ("",))
    known = column[~np.isnan(column)]
    mean = float(known.mean()) if known.size else 0.0
    scale = float(known.std()) if known.size else 1.0
    return Numeric(name, round(mean, 9), round(scale, 9) if scale > 1e-9 else 1.0, bool(known.size < column.size))


@dataclass(frozen=True)
class FeatureSpace:
    """From named features to numbers, the same way everywhere.

    Parameters
    ----------
    context
        Specifications of context features, sorted by name.
    blocks
        Specifications of context vectors, sorted by name.
    offer
        Specifications of offer features, sorted by name.
    offer_levels
        Ids of offers that get an indicator of their own; an offer not among them is known by its features only.
    """

    context: tuple[Spec, ...]
    blocks: tuple[Block, ...]
    offer: tuple[Spec, ...]
    offer_levels: tuple[str, ...] = ()
    _offer_cache: dict[str, Matrix] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def fit(cls, table: DecisionTable, *, ignore: Sequence[str] = (), identify_offers: bool = True) -> Self:
        """Learn levels, means and scales from a table.

        Parameters
        ----------
        ignore
            Context features to leave out.
        identify_offers
            Whether each offer of the table gets an indicator beside its features.
        """
        names = sorted({name for offer in table.offers for name in offer.features})
        return cls(
            context=tuple(_fit_column(n, table.columns[n]) for n in sorted(table.columns) if n not in ignore),
            blocks=tuple(_fit_block(n, table.vectors[n]) for n in sorted(table.vectors) if n not in ignore),
            offer=tuple(_fit_column(n, _offer_column(table.offers, n)) for n in names),
            offer_levels=tuple(sorted(table.offers.ids)) if identify_offers else (),
        )

    @cached_property
    def context_names(self) -> tuple[FeatureName, ...]:
        """Name of each column of ``encode_contexts``."""
        plain = [FeatureName("context", label) for spec in self.context for label in spec.labels()]
        return (*plain, *(FeatureName(block.name, label) for block in self.blocks for label in block.labels()))

    @cached_property
    def offer_names(self) -> tuple[FeatureName, ...]:
        """Name of each column of ``encode_offers``."""
        plain = [FeatureName("offer", label) for spec in self.offer for label in spec.labels()]
        return (*plain, *(FeatureName("offer", f"id={level}") for level in self.offer_levels))

    @cached_property
    def context_width(self) -> int:
        """Number of context columns."""
        return len(self.context_names)

    @property
    def offer_width(self) -> int:
        """Number of offer columns."""
        return len(self.offer_names)

    def encode_contexts(self, table: DecisionTable) -> Matrix:
        """Context features of each decision, shape ``(n, context_width)``, float32."""
        out = np.zeros((len(table), self.context_width), dtype=np.float32)
        self.encode_contexts_into(out, table)
        return out

    def encode_contexts_into(self, out: Matrix, table: DecisionTable) -> None:
        """Write context features into the first columns of ``out``, zeros of shape ``(n, at least context_width)``."""
        columns, vectors = table.columns, table.vectors
        if isinstance(columns, RowColumns):
            positions, values = self._row(columns.row)
            out[0, positions] = values
        else:
            for name, place, encode in self._column_plan:
                encode(columns.get(name), out[:, place])
        for name, place, encode in self._block_plan:
            encode(vectors.get(name), out[:, place])

    @cached_property
    def _column_plan(self) -> list[_Step]:
        return _plan(self.context, start=0)

    @cached_property
    def _block_plan(self) -> list[_Step]:
        return _plan(self.blocks, start=sum(spec.width for spec in self.context))

    def sparse_row(self, table: DecisionOfOne) -> tuple[list[int], list[float]]:
        """Columns of ``encode_contexts`` that are not zero for a single decision, in their order, and their values."""
        if self.blocks:
            row = self.encode_contexts(table)[0]
            positions: list[int] = row.nonzero()[0].tolist()
            return positions, row[positions].tolist()
        return self._row(table.columns.row)  # type: ignore[attr-defined]  # a DecisionOfOne has no other columns

    def _row(self, features: Features) -> tuple[list[int], list[float]]:
        """What the specifications' ``encode`` writes for one row of plain values: where, and which number."""
        positions: list[int] = []
        values: list[float] = []
        for name, at, levels, mean, scale, may_be_missing in self._row_plan:
            value: Any = features.get(name)
            if levels is not None:
                position = levels.get(value, at)
                if position == at and value is not None and not isinstance(value, str):
                    raise _not_text(name)
                positions.append(position)
                values.append(1.0)
            elif isinstance(value, str):
                raise _not_a_number(name)
            elif value is None or value != value:  # noqa: PLR0124 - nan
                if may_be_missing:
                    positions.append(at + 1)
                    values.append(1.0)
            else:
                standard = (value - mean) / scale
                if standard:
                    positions.append(at)
                    values.append(standard if -10.0 <= standard <= 10.0 else math.copysign(10.0, standard))
        return positions, values

    @cached_property
    def _row_plan(self) -> list[tuple[str, int, dict[FeatureValue, int] | None, float, float, bool]]:
        """For each feature: its column (of text: that of the unknown, and of each level), mean, scale, may be missing."""
        plan: list[tuple[str, int, dict[FeatureValue, int] | None, float, float, bool]] = []
        at = 0
        for spec in self.context:
            if isinstance(spec, Categorical):
                levels: dict[FeatureValue, int] = {level: at + i for i, level in enumerate(spec.levels)}
                plan.append((spec.name, at + spec.width - 1, levels, 0.0, 1.0, False))
            else:
                plan.append((spec.name, at, None, spec.mean, spec.scale, spec.may_be_missing))
            at += spec.width
        return plan

    def encode_offers(self, offers: OfferSet) -> Matrix:
        """Offer features, shape ``(k, offer_width)``, float32, read-only; cached by the set's revision."""
        cached = self._offer_cache.get(offers.revision)
        if cached is not None:
            return cached
        out = np.zeros((len(offers), self.offer_width), dtype=np.float32)
        at = 0
        for spec in self.offer:
            column = _offer_column(offers, spec.name) if any(spec.name in o.features for o in offers) else None
            spec.encode(column, out[:, at : at + spec.width])
            at += spec.width
        for j, level in enumerate(self.offer_levels):
            if level in offers.ids:
                out[offers.index_of(level), at + j] = 1.0
        out.flags.writeable = False
        if len(self._offer_cache) >= 256:
            self._offer_cache.clear()
        self._offer_cache[offers.revision] = out
        return out

    def to_manifest(self) -> dict[str, Any]:
        """Plain JSON values that ``from_manifest`` reads back to an equal space."""
        return {
            "format": FORMAT_VERSION,
            "context": [_spec_to_json(s) for s in self.context],
            "blocks": [{"name": b.name, "mean": list(b.mean), "scale": list(b.scale)} for b in self.blocks],
            "offer": [_spec_to_json(s) for s in self.offer],
            "offer_levels": list(self.offer_levels),
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Read back what ``to_manifest`` wrote."""
        return cls(
            context=tuple(_spec_from_json(s) for s in manifest["context"]),
            blocks=tuple(Block(b["name"], tuple(b["mean"]), tuple(b["scale"])) for b in manifest["blocks"]),
            offer=tuple(_spec_from_json(s) for s in manifest["offer"]),
            offer_levels=tuple(manifest["offer_levels"]),
        )

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits that go into artefacts and decisions."""
        return hashlib.sha256(json.dumps(self.to_manifest(), sort_keys=True).encode()).hexdigest()[:16]


_Step = tuple[str, slice, Callable[[NDArray[Any] | None, Matrix], None]]


def _plan(specs: Sequence[Spec | Block], *, start: int) -> list[_Step]:
    """Which columns each specification writes, worked out once instead of in every decision."""
    out: list[_Step] = []
    for spec in specs:
        out.append((spec.name, slice(start, start + spec.width), spec.encode))
        start += spec.width
    return out


def _fit_block(name: str, block: NDArray[Any]) -> Block:
    scale = block.std(axis=0, dtype=np.float64)
    return Block(
        name,
        tuple(round(float(m), 9) for m in block.mean(axis=0, dtype=np.float64)),
        tuple(round(float(s), 9) if s > 1e-9 else 1.0 for s in scale),
    )


def _offer_column(offers: OfferSet, name: str) -> NDArray[Any]:
    values: list[FeatureValue] = [o.features.get(name) for o in offers]
    return feature_column(f"offer.{name}", values)


def _spec_to_json(spec: Spec) -> dict[str, Any]:
    if isinstance(spec, Numeric):
        return {"numeric": spec.name, "mean": spec.mean, "scale": spec.scale, "may_be_missing": spec.may_be_missing}
    return {"categorical": spec.name, "levels": list(spec.levels)}


def _spec_from_json(spec: Mapping[str, Any]) -> Spec:
    if "numeric" in spec:
        return Numeric(spec["numeric"], spec["mean"], spec["scale"], spec["may_be_missing"])
    return Categorical(spec["categorical"], tuple(spec["levels"]))
