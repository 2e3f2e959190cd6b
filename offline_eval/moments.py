"""What is kept of a log: totals of columns, by group of units; everything else is arithmetic on it.

A *unit* is what is independent of the others: a subject, or a row where no subjects are known. Units are assigned to
*groups* (a unit each while there are few, else by a hash of the unit, so that one subject always falls into one group,
in whatever chunk or partition its rows are). Sums of independent units are independent, so the spread between groups
gives the clustered variance, and resampling groups gives the clustered bootstrap, in memory that does not grow with the
log. Two halves of a log merge by addition, and neither groups nor resamples depend on the order of the rows: a log gives
the same figures in memory, in parts and from executors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray

N_HASHED_GROUPS = 1 << 16  # a multiple of the next: groups by hash fold into it as single units do
N_BOOTSTRAP_GROUPS = 1 << 13
# Up to this many subjects each has a group of its own and the clustered variance is the textbook one to the last digit.
MAX_EXACT_UNITS = 1 << 17

UIntArray = NDArray[np.uint64]


@dataclass(slots=True, eq=False)
class Grouping:
    """Which group each unit falls into: one of its own while there are few, else the one its hash gives.

    Attributes
    ----------
    rows_are_units
        Whether each row is independent of the others; groups then serve resamples and kurtosis only.
    labels
        Hash of the unit in each group, shape ``(n_groups,)``; None once groups hold all units of one remainder of the hash.
    """

    rows_are_units: bool
    labels: UIntArray | None = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))

    @property
    def max_exact(self) -> int:
        """Most units with a group of their own."""
        return N_BOOTSTRAP_GROUPS if self.rows_are_units else MAX_EXACT_UNITS

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        if self.labels is not None:
            return len(self.labels)
        return N_BOOTSTRAP_GROUPS if self.rows_are_units else N_HASHED_GROUPS

    def number(self, hashed: UIntArray) -> IntArray:
        """Group of each unit, shape ``(n,)``; new units open groups, and if that makes too many, all are grouped by hash."""
        if self.labels is not None and self.rows_are_units and len(hashed) > self.max_exact:
            self.labels = None  # rows differ: no need to look at them
        if self.labels is not None:
            import pyarrow as pa
            import pyarrow.compute as pc

            number, distinct = numbered(hashed)
            found = pc.index_in(pa.array(distinct), value_set=pa.array(self.labels))
            is_new = np.asarray(found.is_null())
            n_new = int(np.count_nonzero(is_new))
            if len(self.labels) + n_new <= self.max_exact:
                place = np.asarray(found.fill_null(0), dtype=np.int64)
                place[is_new] = len(self.labels) + np.arange(n_new)
                self.labels = np.concatenate([self.labels, distinct[is_new]])
                return np.asarray(place[number], dtype=np.int64)
            self.labels = None
        return groups_of(hashed, self.n_groups)


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
    labels
        Hash of the unit in each group, see ``Grouping``.
    n_rows, n_units
        Rows, and units (subjects or rows); ``n_units`` is None where it was not counted.
    """

    names: tuple[str, ...]
    totals: FloatArray
    scatter: FloatArray
    n_scattered: int
    rows_are_units: bool
    groups: FloatArray
    labels: UIntArray | None
    n_rows: int
    n_units: int | None

    @classmethod
    def of_groups(
        cls, names: Sequence[str], groups: FloatArray, labels: UIntArray | None, *, n_rows: int, n_units: int | None
    ) -> Moments:
        """Moments of a log whose units are groups of whole subjects."""
        totals = groups.sum(axis=0)
        filled = groups[:, 0] > 0
        m = int(np.count_nonzero(filled))
        mean, scatter = totals / max(m, 1), np.zeros((len(totals), len(totals)))
        for start in range(0, len(groups), N_BOOTSTRAP_GROUPS):
            rows = slice(start, start + N_BOOTSTRAP_GROUPS)
            centred = groups[rows] - mean * filled[rows, None]  # empty groups stay zero: they are not units
            add_cross_products(scatter, centred)
        return cls(tuple(names), totals, scatter, m, False, groups, labels, n_rows, n_units)

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together.

        Raises
        ------
        InvalidInputError
            If the parts hold different columns or units.
        """
        if (self.names, self.rows_are_units) != (other.names, other.rows_are_units):
            raise InvalidInputError(
                f"parts hold {len(self.names)} and {len(other.names)} columns by {_unit(self)} and {_unit(other)}; "
                "merge parts made with the same estimators and candidates, all with subjects or all without"
            )
        grouping = Grouping(self.rows_are_units, None if other.labels is None else self.labels)
        number = np.arange(len(other.groups)) if other.labels is None else grouping.number(other.labels)
        groups = regrouped(self.groups, self.labels, grouping).copy()
        np.add.at(groups, number, other.groups)
        labels, n_rows = grouping.labels, self.n_rows + other.n_rows
        if not self.rows_are_units:
            n_units = None if labels is None else len(labels)
            return Moments.of_groups(self.names, groups, labels, n_rows=n_rows, n_units=n_units)
        totals, scatter = self.totals + other.totals, _merged_scatter(self, other)
        return Moments(self.names, totals, scatter, n_rows, True, groups, labels, n_rows, n_rows)

    def variance(self, gradient: FloatArray) -> float:
        """Variance of a smooth function of the totals by the delta method, clustered by unit.

        Parameters
        ----------
        gradient
            Shape ``(n_columns,)``.

        Notes
        -----
        For functions of degree 0 in the totals (means, ratios) the influence of a unit is the gradient times its totals;
        these sum to zero, so centred and plain cross-products agree and the centred ones are used for their precision. Still,
        rewards that differ little beside their size (an amount of 1,000 more or less a cent) make cross-products cancel, twice as
        many digits as the influences themselves lose: these are then taken from the groups, if a group holds one unit.
        """
        m = self.n_scattered
        parts = gradient[:, None] * self.scatter * gradient
        total, size = float(parts.sum()), float(np.abs(parts).sum())
        if total < (1e-4 if self.labels is not None else 1e-12) * size:
            groups = self.groups if self.labels is not None else self.folded()
            influence = np.einsum("ij,j->i", groups, gradient)
            total, m = squared(influence), len(influence)
            # What is no more than rounding is nothing: two candidates that show the same differ by 0, for certain.
            rounding = len(gradient) * np.finfo(np.float64).eps * np.einsum("ij,j->i", np.abs(groups), np.abs(gradient))
            if total <= 4.0 * squared(rounding):
                return 0.0
        return max(total, 0.0) * (m / max(m - 1, 1))

    def folded(self) -> FloatArray:
        """Groups that hold rows, added up to at most 8,192: independent sums for resamples and for kurtosis.

        Which units are added up together, and in which order the sums stand, is given by their hashes alone.
        """
        if self.labels is not None and len(self.labels) <= N_BOOTSTRAP_GROUPS:
            return self.groups[np.argsort(self.labels)]
        by_hash = np.arange(len(self.groups), dtype=np.uint64) if self.labels is None else self.labels
        where = groups_of(by_hash, N_BOOTSTRAP_GROUPS)
        folded = np.empty((N_BOOTSTRAP_GROUPS, len(self.names)))
        for j, column in enumerate(self.groups.T):
            folded[:, j] = np.bincount(where, weights=column, minlength=N_BOOTSTRAP_GROUPS)
        return np.asarray(folded[folded[:, 0] > 0])

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
    grouping
        Groups of units; they may grow while rows are added.
    """

    def __init__(self, names: Sequence[str], grouping: Grouping) -> None:
        t = len(names)
        self.names = tuple(names)
        self.grouping = grouping
        self._n = 0
        self._mean = np.zeros(t)
        self._scatter = np.zeros((t, t))
        self._groups = np.zeros((t, grouping.n_groups))

    def add_units(self, block: FloatArray, hashed: UIntArray) -> None:
        """Add rows: their columns, shape ``(n_columns, n)``, and hashes of their units, shape ``(n,)``."""
        labels = self.grouping.labels
        groups = self.grouping.number(hashed)
        if self.grouping.labels is not labels:
            self._groups = np.ascontiguousarray(regrouped(self._groups.T, labels, self.grouping).T)
        self.add(block, groups)

    def add(self, block: FloatArray, groups: IntArray) -> None:
        """Add rows: their columns, shape ``(n_columns, n)``, and their groups, shape ``(n,)``."""
        n = block.shape[1]
        if n == 0:
            return
        if self.grouping.rows_are_units:
            mean = block.mean(axis=1)
            centred = block - mean[:, None]
            delta = mean - self._mean
            total = self._n + n
            add_cross_products(self._scatter, centred.T)
            self._scatter += np.outer(delta, delta) * (self._n * n / total)
            self._mean += delta * (n / total)
        self._n += n
        for j, column in enumerate(block):
            self._groups[j] += np.bincount(groups, weights=column, minlength=self._groups.shape[1])

    def moments(self, *, n_units: int | None = None) -> Moments:
        """What was added so far; ``n_units`` where it is known although units share groups."""
        groups, labels = self._groups.T, self.grouping.labels
        if not self.grouping.rows_are_units:
            if labels is not None:
                n_units = len(labels)
            return Moments.of_groups(self.names, groups, labels, n_rows=self._n, n_units=n_units)
        totals = groups.sum(axis=0)
        return Moments(self.names, totals, self._scatter.copy(), self._n, True, groups, labels, self._n, self._n)


def regrouped(groups: FloatArray, labels: UIntArray | None, grouping: Grouping) -> FloatArray:
    """Totals by group, made with ``labels``, as a grouping that has gone on since has them; shape ``(n_groups, n_columns)``."""
    if labels is None or (grouping.labels is not None and len(labels) == len(grouping.labels)):
        return groups
    out = np.zeros((grouping.n_groups, groups.shape[1]))
    if grouping.labels is None:
        np.add.at(out, groups_of(labels, grouping.n_groups), groups)
    else:
        out[: len(groups)] = groups
    return out


# Products of at most so many terms are left to one thread by linear algebra libraries. Larger ones wake others, which then wait
# for more to do and take longer over that than the whole product takes.
_BY_ONE_THREAD = 1 << 18


def add_cross_products(total: FloatArray, rows: FloatArray) -> None:
    """Add the sum of ``outer(row, row)`` over rows of shape ``(n, t)`` to ``total`` of shape ``(t, t)``."""
    step = max(16, _BY_ONE_THREAD // max(total.size, 1))
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        total += part.T @ part


def squared(values: FloatArray) -> float:
    """Sum of squares; not by linear algebra, whose threads wait for each other longer than so small a sum takes."""
    return float(np.einsum("i,i->", values, values))


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
        part = letters[start : start + _HASHED_AT_ONCE]
        n = part.shape[1]
        while n and not part[:, n - 1].any():  # padding is 0 and adds nothing, so the width does not matter
            n -= 1
        total[start : start + len(part)] = _mix(part[:, :n].astype(np.uint64) @ multipliers[:n])
    return total


def resampled(folded: FloatArray, *, n_resamples: int, rng: np.random.Generator) -> FloatArray:
    """Totals of bootstrap resamples of groups, shape ``(n_resamples, n_columns)``; one draw serves all columns."""
    m = len(folded)
    out = np.empty((n_resamples, folded.shape[1]))
    at_once = max(1, _BY_ONE_THREAD // max(folded.size, 1))
    for start in range(0, n_resamples, at_once):
        some = out[start : start + at_once]
        counts = np.empty((len(some), m))
        for row in counts:
            row[:] = np.bincount(rng.integers(0, m, size=m), minlength=m)
        np.matmul(counts, folded, out=some)
    return out


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
    influence = np.einsum("ij,j->i", folded, gradient)
    square = influence**2
    total = float(square.sum())
    if m < 2 or total <= 0:
        return float(max(m - 1, 1))
    kurtosis = m * squared(square) / total**2
    return float(np.clip(2 * m / max(kurtosis - 1.0, 1e-12), 1.0, m - 1))


def hash_numbers(values: NDArray[Any]) -> UIntArray:
    """A 64-bit hash of whole numbers."""
    return _mix(values)


def count_distinct(hashed: UIntArray) -> int:
    """Number of different hashes; in the time of a hash table, not of a sort."""
    import pyarrow.compute as pc  # a twentieth of a second to import, needed for logs with ids only

    return int(pc.count_distinct(hashed).as_py())


def numbered(hashed: UIntArray) -> tuple[IntArray, UIntArray]:
    """Each hash as a number from 0 in the order of first appearance, and the hashes by number."""
    import pyarrow as pa

    coded = pa.array(hashed).dictionary_encode()
    return np.asarray(coded.indices.to_numpy(), dtype=np.int64), np.asarray(coded.dictionary.to_numpy())


def _mix(x: NDArray[Any]) -> UIntArray:
    """Finish of SplitMix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit."""
    x = x.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def groups_of(hashed: UIntArray, n_groups: int) -> IntArray:
    """Group of each unit from its hash."""
    return np.asarray(hashed % np.uint64(n_groups), dtype=np.int64)


def subject_groups(subjects: NDArray[np.str_]) -> tuple[IntArray, Grouping, int]:
    """Groups for a log that is in memory: ``(group of each row, grouping, n_subjects)``; rows are units if none repeats."""
    hashed = hash_text(subjects)
    number, labels = numbered(hashed)
    grouping = Grouping(len(labels) == len(subjects), labels)
    if len(labels) > grouping.max_exact:
        grouping.labels = None
        number = groups_of(hashed, grouping.n_groups)
    return number, grouping, len(labels)


def gradient_vector(gradient: Mapping[str, float], names: Sequence[str]) -> FloatArray:
    """A gradient by name as a vector over the columns, shape ``(n_columns,)``."""
    position = {name: j for j, name in enumerate(names)}
    out = np.zeros(len(names))
    for name, slope in gradient.items():
        out[position[name]] += float(slope)
    return out
