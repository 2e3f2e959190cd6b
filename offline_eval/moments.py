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
        Column names.
    totals
        Shape ``(n_columns,)``.
    scatter
        Centred cross-products of unit totals, shape ``(n_columns, n_columns)``, where units are rows; None where units
        are subjects: the groups then give it.
    groups
        Totals by group, shape ``(n_groups, n_columns)``; empty groups stay in it.
    n_rows, n_units
        Rows, and units (subjects or rows); ``n_units`` is None where it was not counted.
    """

    names: tuple[str, ...]
    totals: FloatArray
    scatter: FloatArray | None
    groups: FloatArray
    n_rows: int
    n_units: int | None

    def merge(self, other: Moments) -> Moments:
        """The moments of both parts together; groups must have been assigned by hash in both.

        Raises
        ------
        InvalidInputError
            If the parts hold different columns or groups.
        """
        if self.names != other.names or self.groups.shape != other.groups.shape:
            raise InvalidInputError(
                f"parts hold {len(self.names)} and {len(other.names)} columns in {len(self.groups)} and {len(other.groups)} groups; "
                "merge parts made with the same estimators, candidates and number of groups"
            )
        return Moments(
            self.names,
            self.totals + other.totals,
            _merged_scatter(self, other),
            self.groups + other.groups,
            self.n_rows + other.n_rows,
            None,
        )

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
        if self.scatter is not None:
            m = self.n_rows
            return np.asarray(gradients @ self.scatter @ gradients.T * (m / max(m - 1, 1)))
        filled = self.groups[self.groups[:, 0] > 0]
        m = len(filled)
        influence = (filled - filled.mean(axis=0)) @ gradients.T
        return np.asarray(influence.T @ influence * (m / max(m - 1, 1)))

    def resampled(self, *, n_resamples: int, rng: np.random.Generator) -> FloatArray:
        """Totals of bootstrap resamples of the groups, shape ``(n_resamples, n_columns)``; one draw serves all columns."""
        filled = self.groups[self.groups[:, 0] > 0]
        if len(filled) > N_BOOTSTRAP_GROUPS:
            folded = np.zeros((N_BOOTSTRAP_GROUPS, filled.shape[1]))
            for start in range(0, len(filled), N_BOOTSTRAP_GROUPS):
                part = filled[start : start + N_BOOTSTRAP_GROUPS]
                folded[: len(part)] += part
            filled = folded
        m = len(filled)
        counts = np.empty((n_resamples, m))
        for b in range(n_resamples):
            counts[b] = np.bincount(rng.integers(0, m, size=m), minlength=m)
        return np.asarray(counts @ filled)

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
        return Moments(
            self.names,
            self._groups.sum(axis=1),
            self._scatter.copy() if self.rows_are_units else None,
            np.ascontiguousarray(self._groups.T),
            self._n,
            self._n if self.rows_are_units else n_units,
        )


def _merged_scatter(a: Moments, b: Moments) -> FloatArray | None:
    if a.scatter is None or b.scatter is None:
        return None
    if a.n_rows == 0 or b.n_rows == 0:
        return a.scatter + b.scatter
    delta = b.totals / b.n_rows - a.totals / a.n_rows
    return a.scatter + b.scatter + np.outer(delta, delta) * (a.n_rows * b.n_rows / (a.n_rows + b.n_rows))


def hash_text(values: NDArray[np.str_]) -> UIntArray:
    """A 64-bit hash of each text, the same whatever the width of the array's type."""
    if len(values) == 0:
        return np.zeros(0, dtype=np.uint64)
    letters = np.ascontiguousarray(values).view(np.uint32).reshape(len(values), -1)
    total = np.zeros(len(values), dtype=np.uint64)
    for j in range(letters.shape[1]):
        # Padding is 0 and adds nothing, so the width does not matter.
        multiplier = np.uint64(_mix(np.asarray([j + 1], dtype=np.uint64))[0] | np.uint64(1))
        total += letters[:, j].astype(np.uint64) * multiplier
    return _mix(total)


def hash_numbers(values: NDArray[Any]) -> UIntArray:
    """A 64-bit hash of whole numbers."""
    return _mix(values.astype(np.uint64))


def _mix(x: UIntArray) -> UIntArray:
    """Finish of SplitMix64 (Steele, Lea and Flood 2014): a bijection that spreads every bit."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
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
    unique, inverse = np.unique(hashed, return_inverse=True)
    if len(unique) == n_rows:
        return unit_groups(None, n_rows)
    if len(unique) <= MAX_EXACT_UNITS:
        return np.asarray(inverse, dtype=np.int64).ravel(), len(unique), len(unique), False
    return groups_of(hashed, N_HASHED_GROUPS), N_HASHED_GROUPS, len(unique), False


def gradient_matrix(gradients: Sequence[Mapping[str, float]], names: Sequence[str]) -> FloatArray:
    """Gradients by name as a matrix over the columns, shape ``(n_functions, n_columns)``."""
    position = {name: j for j, name in enumerate(names)}
    out = np.zeros((len(gradients), len(names)))
    for i, gradient in enumerate(gradients):
        for name, slope in gradient.items():
            out[i, position[name]] += float(slope)
    return out
