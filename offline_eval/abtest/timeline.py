"""An experiment as sums by moment of first exposure: enough to read it as of any day.

A subject's values are fixed once its window has closed, so the sums of those exposed by a moment are what a reader on the day
their windows closed would have seen (with facts that came late added). From a store this is one row per hour, phase and variant,
whatever the number of subjects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np

from offline_eval.abtest.records import ExperimentPlan, FloatArray, IntArray, Moments, Rollup, SubjectOutcomes
from policies.errors import InvalidInputError, SchemaError

_MOMENTS = tuple(f.name for f in fields(Moments))
# Rows whose days are more than this many different moments are put into hours.
_MAX_EXACT = 5_000


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """Sums by cell of time, phase and variant.

    Parameters
    ----------
    opens, closes
        Day at which each cell begins and ends, increasing, shape ``(n_cells,)``: a subject counts as exposed from the first,
        and its windows run from the second, so that nobody is taken for matured too early.
    exposed
        Subjects, shape ``(n_cells, n_phases, n_variants)``.
    moments
        By metric name, the six sums of ``Moments`` in their order, shape ``(6, n_cells, n_phases, n_variants)``.
    as_of_day
        Day of the reading, on the same scale.
    """

    opens: FloatArray
    closes: FloatArray
    exposed: IntArray
    moments: Mapping[str, FloatArray]
    as_of_day: float
    n_multiple_exposed: int = 0
    n_leaked: int = 0
    _sums: dict[str, FloatArray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.closes)
        if self.opens.shape != (n,) or self.exposed.shape[:1] != (n,):
            raise SchemaError(
                f"a timeline has {n} cells, opens {self.opens.shape} and exposed {self.exposed.shape}; expected one per cell"
            )
        for name, sums in self.moments.items():
            if sums.shape != (len(_MOMENTS), *self.exposed.shape):
                raise SchemaError(
                    f"sums of {name!r} have shape {sums.shape}; expected {(len(_MOMENTS), *self.exposed.shape)}"
                )
            self._sums[name] = _cumulative(sums, axis=1)
        self._sums[""] = _cumulative(self.exposed.astype(np.float64), axis=0)

    @classmethod
    def of(cls, data: SubjectOutcomes, plan: ExperimentPlan) -> Timeline:
        """Sum rows of subjects; each moment of exposure is a cell, or each hour where there are more than 5,000.

        Raises
        ------
        InvalidInputError
            If the rows have no days.
        """
        if data.exposed_day is None or data.as_of_day is None:
            raise InvalidInputError(
                "the rows have no exposed_day; replaying looks needs to know when each subject came"
            )
        days = data.exposed_day
        moments = np.unique(days)
        if len(moments) > _MAX_EXACT:
            days = np.ceil(days * 24) / 24
            moments = np.unique(days)
        cell, planned = data.cells(plan)
        shape = (len(plan.all_phases), len(plan.variants))
        at = np.searchsorted(moments, days) * shape[0] * shape[1] + cell
        full = (len(moments), *shape)
        summed: dict[str, FloatArray] = {}
        for metric in plan.metrics:
            rows = planned & data.matured(metric.window_days)
            y, x = data.of_metric(metric, rows)
            flat = Moments.of(y, cell=at[rows], shape=(full[0] * full[1], full[2]), x=x, cap=metric.cap)
            summed[metric.name] = np.stack([getattr(flat, name).reshape(full) for name in _MOMENTS])
        exposed = np.bincount(at[planned], minlength=int(np.prod(full))).reshape(full).astype(np.int64)
        return cls(moments, moments, exposed, summed, data.as_of_day, data.n_multiple_exposed, int((~planned).sum()))

    def rollup(self, plan: ExperimentPlan, day: float) -> Rollup:
        """Sums of subjects that had matured by a day, and of those exposed by then."""
        moments = {}
        for metric in plan.metrics:
            i = int(np.searchsorted(self.closes + metric.window_days, day, side="right"))
            moments[metric.name] = Moments(*self._sums[metric.name][:, i])
        exposed = self._sums[""][int(np.searchsorted(self.opens, day, side="right"))]
        return Rollup(moments, exposed.astype(np.int64), self.n_multiple_exposed, self.n_leaked)

    def matured_by_cell(self, metric: str) -> FloatArray:
        """Subjects of a metric up to and with each cell, shape ``(n_cells, n_phases, n_variants)``."""
        return self._sums[metric][0, 1:]

    def exposed_by_cell(self) -> IntArray:
        """Subjects exposed up to and with each cell, shape ``(n_cells, n_phases, n_variants)``."""
        return self._sums[""][1:].astype(np.int64)


def _cumulative(values: FloatArray, *, axis: int) -> FloatArray:
    """Sums of the first 0, 1, 2, … cells."""
    empty = list(values.shape)
    empty[axis] = 1
    return np.concatenate([np.zeros(empty), values.cumsum(axis=axis)], axis=axis)
