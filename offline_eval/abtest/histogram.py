"""Winsorising without rows: a histogram with sums per bin gives the exact moments under any cap that is a bin's edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_eval.abtest.records import FloatArray
from policies.errors import InvalidInputError, SchemaError


@dataclass(frozen=True, slots=True)
class ValueHistogram:
    """Values of subjects by size, with sums; histograms of parts add up.

    Parameters
    ----------
    edges
        Increasing upper edges of the bins but the last, shape ``(n_bins - 1,)``; a value belongs to the first bin whose
        edge is not below it, and to the last bin above all edges.
    count, total, total_squares
        Per bin, shape ``(n_bins,)``.
    """

    edges: FloatArray
    count: FloatArray
    total: FloatArray
    total_squares: FloatArray

    def __post_init__(self) -> None:
        if not (len(self.count) == len(self.total) == len(self.total_squares) == len(self.edges) + 1):
            raise SchemaError(
                f"histogram has {len(self.edges)} edges and {len(self.count)} counts; expected one count more than edges"
            )
        if (np.diff(self.edges) <= 0).any():
            raise SchemaError("histogram edges do not increase; sort them and drop repeated ones")

    @classmethod
    def of(cls, values: FloatArray, edges: FloatArray) -> ValueHistogram:
        """Sort values into bins."""
        place = np.searchsorted(edges, values, side="left")
        n = len(edges) + 1
        return cls(
            edges,
            np.bincount(place, minlength=n).astype(np.float64),
            np.bincount(place, values, minlength=n).astype(np.float64),
            np.bincount(place, values**2, minlength=n).astype(np.float64),
        )

    def __add__(self, other: ValueHistogram) -> ValueHistogram:
        if not np.array_equal(self.edges, other.edges):
            raise SchemaError("histograms have different edges; use the edges of the metric's definition for all")
        return ValueHistogram(
            self.edges, self.count + other.count, self.total + other.total, self.total_squares + other.total_squares
        )

    def cap_at(self, quantile: float) -> float:
        """Smallest edge with at least this share of subjects at or below it; pool all variants first.

        Raises
        ------
        InvalidInputError
            If the quantile lies above the last edge: the histogram cannot cap there.
        """
        reached = np.cumsum(self.count)[:-1] >= quantile * self.count.sum()
        if not reached.any():
            raise InvalidInputError(
                f"the {quantile:.1%} quantile lies above the last edge {self.edges[-1]}; add larger edges"
            )
        return float(self.edges[int(np.argmax(reached))])

    def moments(self, cap: float | None = None) -> tuple[float, float, float]:
        """Number, sum and sum of squares of the values, capped at an edge where one is given."""
        if cap is None:
            return float(self.count.sum()), float(self.total.sum()), float(self.total_squares.sum())
        at = int(np.searchsorted(self.edges, cap))
        if at >= len(self.edges) or self.edges[at] != cap:
            raise InvalidInputError(f"cap {cap} is no edge of the histogram; take one from cap_at")
        above = float(self.count[at + 1 :].sum())
        return (
            float(self.count.sum()),
            float(self.total[: at + 1].sum()) + above * cap,
            float(self.total_squares[: at + 1].sum()) + above * cap * cap,
        )
