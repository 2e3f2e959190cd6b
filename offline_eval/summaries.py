"""Summaries of rows in bounded memory; those of two parts of a log merge into that of both."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_eval.moments import UIntArray
from policies.records import BoolArray, FloatArray, IntArray

MAX_SAMPLE = 1 << 16
MAX_IDS = 1 << 25
MAX_TIME_BUCKETS = 1 << 12
N_CALIBRATION_BINS = 10


@dataclass(slots=True, eq=False)
class SampledWeights:
    """Every so-many-th weight of a log, the step doubling as the log grows."""

    parts: list[FloatArray] = field(default_factory=list)
    step: int = 1
    held: int = 0

    def add(self, weights: FloatArray) -> None:
        """Add the weights of some rows."""
        kept = weights[:: self.step].copy()  # a view would keep all weights alive
        self.parts.append(kept)
        self.held += len(kept)
        while self.held > MAX_SAMPLE:
            self._thin()

    def merge(self, other: SampledWeights) -> SampledWeights:
        """Both samples, at the coarser step."""
        out = SampledWeights(list(self.parts), self.step, self.held)
        theirs = SampledWeights(list(other.parts), other.step, other.held)
        while out.step != theirs.step:
            (out if out.step < theirs.step else theirs)._thin()
        out.parts += theirs.parts
        out.held += theirs.held
        while out.held > MAX_SAMPLE:
            out._thin()
        return out

    def values(self) -> FloatArray:
        """The sample."""
        return np.concatenate(self.parts) if self.parts else np.zeros(0)

    def _thin(self) -> None:
        whole = self.values()[::2].copy()
        self.parts, self.step, self.held = [whole], self.step * 2, len(whole)


@dataclass(slots=True, eq=False)
class RepeatedIds:
    """How many rows repeat an earlier id, from hashes of the ids.

    Attributes
    ----------
    parts, held
        Hashes kept, and their number: all up to 33 million, then those that begin with so many zeros in binary that no more are
        kept. An id and its repetition have one hash, so both are among them or neither is.
    n_zeros
        How many leading zeros.
    """

    parts: list[UIntArray] = field(default_factory=list)
    held: int = 0
    n_zeros: int = 0

    def add(self, hashed: UIntArray) -> None:
        """Add the hashes of some rows' ids."""
        kept = self._chosen(hashed)
        self.parts.append(kept)
        self.held += len(kept)
        while self.held > MAX_IDS:
            self.n_zeros += 1
            self.parts = [self._chosen(part) for part in self.parts]
            self.held = sum(map(len, self.parts))

    def merge(self, other: RepeatedIds) -> RepeatedIds:
        """Those of both, with as many zeros as the stricter part has."""
        out = RepeatedIds(n_zeros=max(self.n_zeros, other.n_zeros))
        for part in (*self.parts, *other.parts):
            out.add(part)
        return out

    def count(self) -> int:
        """Rows that repeat an earlier id: exact while all hashes are kept, else estimated from those that are."""
        repeated = 0
        n_rounds = 1 << max(
            0, (self.held - 1).bit_length() - 20
        )  # a million at a time, so that sorting needs no memory to speak of
        for low in range(n_rounds):
            some = np.concatenate(
                [np.zeros(0, dtype=np.uint64), *(x[x % np.uint64(n_rounds) == low] for x in self.parts)]
            )
            some.sort()
            repeated += int(np.count_nonzero(some[1:] == some[:-1]))
        return repeated << self.n_zeros

    def _chosen(self, hashed: UIntArray) -> UIntArray:
        return hashed if self.n_zeros == 0 else hashed[hashed >> np.uint64(64 - self.n_zeros) == 0]


@dataclass(slots=True, eq=False)
class CountsByOffer:
    """How often offers were shown and how often the log says they should have been, in rows that have something in common.

    Attributes
    ----------
    rows
        Number of rows.
    shown, could
        Rows that showed each offer, and rows in which it was eligible, shape ``(k,)``.
    inverse, inverse2
        Sums over the rows that showed it of 1 / propensity and of its square.
    said, variance
        Sum of logged probabilities, and of p (1 - p); None where only the shown offer's propensity was logged.
    """

    rows: float
    shown: FloatArray
    could: FloatArray
    inverse: FloatArray
    inverse2: FloatArray
    said: FloatArray | None
    variance: FloatArray | None

    @classmethod
    def of(
        cls,
        chosen: IntArray,
        propensity: FloatArray,
        eligible: BoolArray | None,
        logged: FloatArray | None,
        *,
        n_offers: int,
    ) -> CountsByOffer:
        """Count some rows; ``eligible`` is None where every offer could be shown in every row."""
        n, inverse = len(chosen), 1.0 / propensity
        ones = np.ones(n)
        could = np.full(n_offers, float(n)) if eligible is None else np.asarray(ones @ eligible.astype(np.float64))
        said = variance = None
        if logged is not None:
            said = ones @ logged
            variance = said - np.einsum("ij,ij->j", logged, logged)
        return cls(
            float(n),
            np.bincount(chosen, minlength=n_offers).astype(np.float64),
            could,
            np.asarray(np.bincount(chosen, weights=inverse, minlength=n_offers), dtype=np.float64),
            np.asarray(np.bincount(chosen, weights=inverse**2, minlength=n_offers), dtype=np.float64),
            said,
            variance,
        )

    def merge(self, other: CountsByOffer) -> CountsByOffer:
        """Both together."""
        return CountsByOffer(
            self.rows + other.rows,
            self.shown + other.shown,
            self.could + other.could,
            self.inverse + other.inverse,
            self.inverse2 + other.inverse2,
            merged(self.said, other.said),
            merged(self.variance, other.variance),
        )


@dataclass(slots=True, eq=False)
class TimeSums:
    """Sums of rewards in time buckets: number, reward, squared reward, by ``microseconds >> shift``."""

    shift: int = 0
    sums: dict[int, FloatArray] = field(default_factory=dict)

    def add(self, at: NDArray[np.datetime64], reward: FloatArray) -> None:
        """Add rows."""
        us = at.astype("datetime64[us]").astype(np.int64)
        first, last = int(us.min()), int(us.max())
        while (last >> self.shift) - (first >> self.shift) > 4 * MAX_TIME_BUCKETS:
            self._widen()
        key = us >> self.shift
        offset = int(key.min())
        where = key - offset
        found = np.stack([np.bincount(where, weights=w) for w in (np.ones(len(key)), reward, reward**2)], axis=1)
        for j in np.flatnonzero(found[:, 0]):
            self._put(offset + int(j), found[j])
        while len(self.sums) > MAX_TIME_BUCKETS:
            self._widen()

    def merge(self, other: TimeSums) -> TimeSums:
        """Both, in the wider buckets."""
        out, theirs = TimeSums(self.shift, dict(self.sums)), TimeSums(other.shift, dict(other.sums))
        while out.shift != theirs.shift:
            (out if out.shift < theirs.shift else theirs)._widen()
        for key, value in theirs.sums.items():
            out._put(key, value)
        while len(out.sums) > MAX_TIME_BUCKETS:
            out._widen()
        return out

    def span_days(self) -> float:
        """Days from the first row to the last, to the width of a bucket."""
        if len(self.sums) < 2:
            return 0.0
        return float((max(self.sums) - min(self.sums)) << self.shift) / 86_400e6

    def parts(self, n_parts: int) -> list[dict[str, Any]]:
        """Consecutive stretches of about equal numbers of rows: start, mean, its standard error, rows."""
        keys = sorted(self.sums)
        table = np.asarray([self.sums[k] for k in keys]).reshape(-1, 3)
        before = np.cumsum(table[:, 0]) - table[:, 0] / 2
        part = np.minimum((before / max(table[:, 0].sum(), 1.0) * n_parts).astype(np.int64), n_parts - 1)
        out = []
        for p in np.unique(part):
            rows = part == p
            n, total, square = table[rows].sum(axis=0)
            if n < 2:
                continue
            mean = total / n
            variance = (square / n - mean**2) * n / (n - 1)
            variance = variance if variance > 1e-12 * mean**2 else 0.0  # what rounding leaves of a constant
            start = np.datetime64(keys[int(np.argmax(rows))] << self.shift, "us")
            out.append(
                {
                    "from": str(start),
                    "mean": float(mean),
                    "standard_error": float(np.sqrt(variance / n)),
                    "rows": int(n),
                }
            )
        return out

    def _put(self, key: int, value: FloatArray) -> None:
        known = self.sums.get(key)
        self.sums[key] = value if known is None else known + value

    def _widen(self) -> None:
        old, self.sums, self.shift = self.sums, {}, self.shift + 1
        for key, value in old.items():
            self._put(key >> 1, value)


@dataclass(slots=True, eq=False)
class Calibration:
    """Model's values of shown offers against rewards, in bins of the model's values.

    Attributes
    ----------
    edges
        Between the bins, shape ``(at most 9,)``: tenths of the first rows' values.
    sums
        By bin: rows, values, rewards, squared residuals; shape ``(n_bins, 4)``.
    """

    edges: FloatArray
    sums: FloatArray

    @classmethod
    def starting_with(cls, values: FloatArray) -> Calibration:
        """Empty, with edges at tenths of some values."""
        inner = np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1]
        edges = np.unique(np.quantile(values, inner)) if len(values) else np.zeros(0)
        return cls(edges, np.zeros((len(edges) + 1, 4)))

    def add(self, values: FloatArray, reward: FloatArray) -> None:
        """Add rows."""
        where = np.zeros(len(values), dtype=np.int64)
        for edge in self.edges:  # few edges: faster than a search
            where += values >= edge
        residual = reward - values
        n_bins = len(self.sums)
        for j, w in enumerate((None, values, reward, residual**2)):
            self.sums[:, j] += np.bincount(where, weights=w, minlength=n_bins)

    def merge(self, other: Calibration) -> Calibration:
        """Both, if their bins are the same."""
        assert np.array_equal(self.edges, other.edges)
        return Calibration(self.edges, self.sums + other.sums)


def merged(a: Any, b: Any) -> Any:
    """Sum of two parts, None where one of them does not know."""
    return None if a is None or b is None else a + b
