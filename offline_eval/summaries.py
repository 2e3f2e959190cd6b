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
        could = np.full(n_offers, float(n)) if eligible is None else eligible.sum(axis=0, dtype=np.float64)
        said = variance = None
        if logged is not None:
            said = np.einsum("ij->j", logged)
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
    """Sums of weighted rewards in time buckets, by ``microseconds >> shift``.

    Attributes
    ----------
    keys
        Numbers of the buckets that have rows, ascending.
    sums
        By bucket: rows, weight, weight x reward, and squared weight x (1, reward, squared reward); shape ``(n_buckets, 6)``.
    """

    shift: int = 0
    keys: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    sums: FloatArray = field(default_factory=lambda: np.zeros((0, 6)))

    def add(self, at: NDArray[np.datetime64], reward: FloatArray, weight: FloatArray | None = None) -> None:
        """Add rows; each weighs 1 where there is no weight."""
        us = at.astype("datetime64[us]").astype(np.int64)
        first, last = int(us.min()), int(us.max())
        while (last >> self.shift) - (first >> self.shift) > 4 * MAX_TIME_BUCKETS:
            self._widen()
        key = us >> self.shift
        w = np.ones(len(key)) if weight is None else weight
        w2 = w if weight is None else w * w
        columns = (None, w, w * reward, w2, w2 * reward, w2 * reward**2)
        offset = int(key.min())
        found = np.stack([np.bincount(key - offset, weights=column) for column in columns], axis=1)
        has_rows = np.flatnonzero(found[:, 0])
        self._put(has_rows.astype(np.int64) + offset, np.asarray(found[has_rows], dtype=np.float64))

    def merge(self, other: TimeSums) -> TimeSums:
        """Both, in the wider buckets."""
        out, theirs = (TimeSums(s.shift, s.keys, s.sums) for s in (self, other))
        while out.shift != theirs.shift:
            (out if out.shift < theirs.shift else theirs)._widen()
        out._put(theirs.keys, theirs.sums)
        return out

    def span_days(self) -> float:
        """Days from the first row to the last, to the width of a bucket."""
        return 0.0 if len(self.keys) < 2 else float(int(self.keys[-1] - self.keys[0]) << self.shift) / 86_400e6

    def parts(self, n_parts: int) -> list[dict[str, Any]]:
        """Weighted mean reward in consecutive stretches of about equal numbers of rows: start, mean, its standard error, rows.

        The standard error is that of a ratio of sums over independent rows; a stretch without weight is left out.
        """
        rows = self.sums[:, 0]
        before = np.cumsum(rows) - rows / 2
        part = np.minimum((before / max(rows.sum(), 1.0) * n_parts).astype(np.int64), n_parts - 1)
        out = []
        for p in np.unique(part):
            mine = part == p
            n, weight, earned, square, crossed, earned2 = self.sums[mine].sum(axis=0)
            if n < 2 or not weight > 0:
                continue
            mean = earned / weight
            scatter = earned2 - 2 * mean * crossed + mean**2 * square
            variance = (
                scatter / weight**2 * n / (n - 1) if scatter > 1e-12 * mean**2 * square else 0.0
            )  # what rounding leaves
            start = np.datetime64(int(self.keys[int(np.argmax(mine))]) << self.shift, "us")
            out.append(
                {
                    "from": str(start),
                    "mean": float(mean),
                    "standard_error": float(np.sqrt(variance)),
                    "rows": int(n),
                    "effective_rows": float(weight**2 / square),
                }
            )
        return out

    def _put(self, keys: IntArray, sums: FloatArray) -> None:
        """Add sums to their buckets, in wider ones where there are too many."""
        self._gather(np.concatenate([self.keys, keys]), np.concatenate([self.sums, sums]))
        while len(self.keys) > MAX_TIME_BUCKETS:
            self._widen()

    def _widen(self) -> None:
        self.shift += 1
        self._gather(self.keys >> 1, self.sums)

    def _gather(self, keys: IntArray, sums: FloatArray) -> None:
        self.keys, where = np.unique(keys, return_inverse=True)
        self.sums = np.zeros((len(self.keys), sums.shape[1]))
        np.add.at(self.sums, where.ravel(), sums)


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
        where = np.zeros(len(values), dtype=np.int8)
        for edge in self.edges:  # few edges: faster than a search
            where += (values >= edge).view(np.int8)
        residual = reward - values
        n_bins = len(self.sums)
        for j, w in enumerate((None, values, reward, residual**2)):
            self.sums[:, j] += np.bincount(where, weights=w, minlength=n_bins)

    def merge(self, other: Calibration) -> Calibration:
        """Both, if their bins are the same."""
        assert np.array_equal(self.edges, other.edges)
        return Calibration(self.edges, self.sums + other.sums)


def log_bins(weights: FloatArray, *, n_bins: int = 40) -> tuple[FloatArray, IntArray]:
    """Edges of equally wide bins on a logarithmic axis, and how many weights above 0 lie in each; both empty without any."""
    positive = weights[np.isfinite(weights) & (weights > 0)]
    if not len(positive):
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    low, high = np.floor(np.log10(positive.min()) * 4) / 4, np.ceil(np.log10(positive.max()) * 4) / 4
    edges = np.logspace(low, max(high, low + 0.25), n_bins + 1)
    return edges, np.histogram(positive, bins=edges)[0]


def merged(a: Any, b: Any) -> Any:
    """Sum of two parts, None where one of them does not know."""
    return None if a is None or b is None else a + b
