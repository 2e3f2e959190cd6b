"""What is kept of a log: totals of columns, by group of units; everything else is arithmetic on it.

A *unit* is what is independent of the others: a subject, or a row where no subjects are known. Units are assigned to
*groups* (a unit each while there are few, else by a hash of the unit, so that one subject always falls into one group,
in whatever chunk or partition its rows are). Sums of independent units are independent, so the spread between groups
gives the clustered variance, and resampling groups gives the clustered bootstrap, in memory that does not grow with the
log. Two halves of a log merge by addition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray

N_HASHED_GROUPS = 1 << 16
N_BOOTSTRAP_GROUPS = 1 << 13
# Up to this many subjects each has a group of its own and the clustered variance is the textbook one to the last digit.
MAX_EXACT_UNITS = 1 << 17

UIntArray = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Totals of a log.

    Attributes
    ----------
    names
        Column names; the first is the number of rows.
    totals
        Shape ``(n_columns,)``.
    scatter
        Centred cross-products of the totals of independent units, shape ``(n_columns, n_columns)``.
    n_scattered
        Units in ``scatter``: rows, or groups that hold any.
    rows_are_units
        Whether each row is independent of the others; else groups of whole subjects are.
    groups
        Totals by group, shape ``(n_groups, n_columns)``; empty groups stay in it.
    n_rows, n_units
        Rows, and units (subjects or rows); ``n_units`` is None where it was not counted.
    """

    names: tuple[str, ...]
    totals: FloatArray
    scatter: FloatArray
    n_scattered: int
    rows_are_units: bool
    groups: FloatArray
    n_rows: int
    n_units: int | None

    @classmethod
    def of_groups(cls, names: Sequence[str], groups: FloatArray, *, n_rows: int, n_units: int | None) -> Moments:
        """Moments of a log whose units are groups of whole subjects."""
        totals = groups.sum(axis=0)
        filled = groups[:, 0] > 0
        m = int(np.count_nonzero(filled))
        mean, scatter = totals / max(m, 1), np.zeros((len(totals), len(totals)))
        for start in range(0, len(groups), N_BOOTSTRAP_GROUPS):
            rows = slice(start, start + N_BOOTSTRAP_GROUPS)
            centred = groups[rows] - mean * filled[rows, None]  # empty groups stay zero: they are not units
            scatter += centred.T @ centred
        return cls(tuple(names), totals, scatter, m, False, groups, n_rows, n_units)

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together; groups must have been assigned by hash in both.

        Raises
        ------
        InvalidInputError
            If the parts hold different columns, groups or units.
        """
        mine, theirs = (
            (self.names, self.groups.shape, self.rows_are_units),
            (other.names, other.groups.shape, other.rows_are_units),
        )
        if mine != theirs:
            raise InvalidInputError(
                f"parts hold {len(self.names)} and {len(other.names)} columns in {len(self.groups)} and {len(other.groups)} groups "
                f"of {_unit(self)} and {_unit(other)}; "
                "merge parts made with the same estimators, candidates and number of groups, all with subjects or all without"
            )
        groups, n_rows = self.groups + other.groups, self.n_rows + other.n_rows
        if not self.rows_are_units:
            return Moments.of_groups(self.names, groups, n_rows=n_rows, n_units=None)
        totals = self.totals + other.totals
        return Moments(self.names, totals, _merged_scatter(self, other), n_rows, True, groups, n_rows, n_rows)

    def covariance(self, gradients: FloatArray) -> FloatArray:
        """Covariance of smooth functions of the totals by the delta method, clustered by unit.

        Parameters
        ----------
        gradients
            Shape ``(n_functions, n_columns)``.

        Notes
        -----
        For functions of degree 0 in the totals (means, ratios) the influence of a unit is the gradient times its totals;
        these sum to zero, so centred and plain cross-products agree and the centred ones are used for their precision.
        """
        m = self.n_scattered
        return np.asarray(gradients @ self.scatter @ gradients.T * (m / max(m - 1, 1)))

    def folded(self) -> FloatArray:
        """Groups that hold rows, added up to at most 8,192: independent sums for resamples and for kurtosis."""
        has_rows = self.groups[:, 0] > 0
        filled = self.groups if has_rows.all() else self.groups[has_rows]
        if len(filled) <= N_BOOTSTRAP_GROUPS:
            return filled
        folded = np.zeros((N_BOOTSTRAP_GROUPS, filled.shape[1]))
        for start in range(0, len(filled), N_BOOTSTRAP_GROUPS):
            part = filled[start : start + N_BOOTSTRAP_GROUPS]
            folded[: len(part)] += part
        return folded

    def as_mapping(self, totals: FloatArray | None = None) -> dict[str, Any]:
        """Totals by column name; of resamples where ``totals`` of shape ``(B, n_columns)`` is given."""
        t = self.totals if totals is None else totals
        return {name: t[..., j] for j, name in enumerate(self.names)}


class Accumulator:
    """Adds rows to moments, chunk by chunk.

    Parameters
    ----------
    names
        Columns in the order of the blocks that will be added; the first must be ``one``.
    n_groups
        Number of groups.
    rows_are_units
        Whether each row is independent of the others.
    """

    def __init__(self, names: Sequence[str], *, n_groups: int, rows_are_units: bool) -> None:
        t = len(names)
        self.names = tuple(names)
        self.n_groups = n_groups
        self.rows_are_units = rows_are_units
        self._n = 0
        self._mean = np.zeros(t)
        self._scatter = np.zeros((t, t))
        self._groups = np.zeros((t, n_groups))

    def add(self, block: FloatArray, groups: IntArray) -> None:
        """Add rows: their columns, shape ``(n_columns, n)``, and their groups, shape ``(n,)``."""
        n = block.shape[1]
        if n == 0:
            return
        if self.rows_are_units:
            mean = block.mean(axis=1)
            centred = block - mean[:, None]
            delta = mean - self._mean
            total = self._n + n
            self._scatter += centred @ centred.T + np.outer(delta, delta) * (self._n * n / total)
            self._mean += delta * (n / total)
        self._n += n
        for j, column in enumerate(block):
            self._groups[j] += np.bincount(groups, weights=column, minlength=self.n_groups)

    def moments(self, *, n_units: int | None = None) -> Moments:
        """What was added so far."""
        groups = self._groups.T
        if not self.rows_are_units:
            return Moments.of_groups(self.names, groups, n_rows=self._n, n_units=n_units)
        totals = groups.sum(axis=0)
        return Moments(self.names, totals, self._scatter.copy(), self._n, True, groups, self._n, self._n)


def _unit(moments: Moments) -> str:
    return "rows" if moments.rows_are_units else "subjects"


def _merged_scatter(a: Moments, b: Moments) -> FloatArray:
    if a.n_rows == 0 or b.n_rows == 0:
        return a.scatter + b.scatter
    delta = b.totals / b.n_rows - a.totals / a.n_rows
    return a.scatter + b.scatter + np.outer(delta, delta) * (a.n_rows * b.n_rows / (a.n_rows + b.n_rows))


_HASHED_AT_ONCE = 1 << 13  # rows whose letters stay in the processor's cache


def hash_text(values: NDArray[np.str_]) -> UIntArray:
    """A 64-bit hash of each text, the same whatever the width of the array's type."""
    if len(values) == 0:
        return np.zeros(0, dtype=np.uint64)
    letters = np.ascontiguousarray(values).view(np.uint32).reshape(len(values), -1)
    multipliers = _mix(np.arange(1, letters.shape[1] + 1)) | np.uint64(1)
    total = np.zeros(len(values), dtype=np.uint64)
    for start in range(0, len(values), _HASHED_AT_ONCE):
        part, sums = letters[start : start + _HASHED_AT_ONCE].T, total[start : start + _HASHED_AT_ONCE]
        for letter, multiplier in zip(part, multipliers, strict=True):
            if letter.any():  # padding is 0 and adds nothing, so the width does not matter
                sums += letter * multiplier
        sums[:] = _mix(sums)
    return total


def resampled(folded: FloatArray, *, n_resamples: int, rng: np.random.Generator) -> FloatArray:
    """Totals of bootstrap resamples of groups, shape ``(n_resamples, n_columns)``; one draw serves all columns."""
    m = len(folded)
    counts = np.empty((n_resamples, m))
    for b in range(n_resamples):
        counts[b] = np.bincount(rng.integers(0, m, size=m), minlength=m)
    return np.asarray(counts @ folded)


def degrees_of_freedom(folded: FloatArray, gradient: FloatArray) -> float:
    """How well the variance of an estimate is known: that of a chi-square of so many degrees of freedom.

    Few rows that weigh much make the variance itself uncertain, and normal intervals too short. With kappa the kurtosis of the
    m influences, the relative variance of their sum of squares is ``(kappa - 1) / m``, which a chi-square over nu has at
    ``nu = 2 m / (kappa - 1)``; never more than m - 1.

    References
    ----------
    Satterthwaite (1946), "An approximate distribution of estimates of variance components".
    """
    m = len(folded)
    influence = folded @ gradient
    square = influence**2
    total = float(square.sum())
    if m < 2 or total <= 0:
        return float(max(m - 1, 1))
    kurtosis = m * float(square @ square) / total**2
    return float(np.clip(2 * m / max(kurtosis - 1.0, 1e-12), 1.0, m - 1))


def hash_numbers(values: NDArray[Any]) -> UIntArray:
    """A 64-bit hash of whole numbers."""
    return _mix(values)


def count_distinct(hashed: UIntArray) -> int:
    """Number of different hashes; in the time of a hash table, not of a sort."""
    import pyarrow.compute as pc  # a twentieth of a second to import, needed for logs with ids only

    return int(pc.count_distinct(hashed).as_py())


def numbered(hashed: UIntArray) -> tuple[IntArray, int]:
    """Each hash as a number from 0 in the order of first appearance, and how many there are."""
    import pyarrow as pa

    coded = pa.array(hashed).dictionary_encode()
    return np.asarray(coded.indices.to_numpy(), dtype=np.int64), len(coded.dictionary)


def _mix(x: NDArray[Any]) -> UIntArray:
    """Finish of SplitMix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit."""
    x = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def groups_of(hashed: UIntArray, n_groups: int) -> IntArray:
    """Group of each unit from its hash."""
    return np.asarray(hashed % np.uint64(n_groups), dtype=np.int64)


def unit_groups(subjects: NDArray[np.str_] | None, n_rows: int) -> tuple[IntArray, int, int, bool]:
    """Groups for a log that is in memory: ``(group of each row, n_groups, n_units, rows_are_units)``."""
    if subjects is None:
        if n_rows <= N_BOOTSTRAP_GROUPS:
            return np.arange(n_rows), n_rows, n_rows, True
        return groups_of(hash_numbers(np.arange(n_rows)), N_BOOTSTRAP_GROUPS), N_BOOTSTRAP_GROUPS, n_rows, True
    hashed = hash_text(subjects)
    number, n_units = numbered(hashed)
    if n_units == n_rows:
        return unit_groups(None, n_rows)
    if n_units <= MAX_EXACT_UNITS:
        return number, n_units, n_units, False
    return groups_of(hashed, N_HASHED_GROUPS), N_HASHED_GROUPS, n_units, False


def gradient_matrix(gradients: Sequence[Mapping[str, float]], names: Sequence[str]) -> FloatArray:
    """Gradients by name as a matrix over the columns, shape ``(n_functions, n_columns)``."""
    position = {name: j for j, name in enumerate(names)}
    out = np.zeros((len(gradients), len(names)))
    for i, gradient in enumerate(gradients):
        for name, slope in gradient.items():
            out[i, position[name]] += float(slope)
    return out
