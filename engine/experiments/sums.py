"""The sums of an experiment as they lie in the store, and as the statistics take them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Table, select

from engine.experiments.parts import DAY_US, EDGES, HOUR_US, MEASURES
from engine.experiments.records import Experiment
from engine.rewards.definition import DAY_S
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us
from offline_eval.abtest import ExperimentPlan, Timeline
from offline_eval.abtest.histogram import ValueHistogram
from offline_eval.abtest.survival import SurvivalCurve, kaplan_meier
from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray

_HOURS_A_DAY = 24
_WHOLE = frozenset({"phase", "hour", "bin", "day", "stayed"})
_TEXTS = frozenset({"variant", "segments", "measure"})


class _Columns:
    """Arrays of one length, one per column of a table."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(getattr(self, "phase"))  # noqa: B009 - every table of sums has it

    def where(self, rows: NDArray[np.bool_]) -> Self:
        """Some of the rows."""
        names: tuple[str, ...] = self.__slots__
        return type(self)(*(getattr(self, name)[rows] for name in names))


@dataclass(frozen=True, slots=True, eq=False)
class Cells(_Columns):
    """Sums by phase, variant, hour of first exposure and segments; x is the covariate. Each array of shape ``(n_cells,)``."""

    phase: IntArray
    variant: NDArray[np.str_]
    hour: IntArray
    segments: NDArray[np.str_]
    n: FloatArray
    n_subscribed: FloatArray
    n_kept: FloatArray
    sum_margin: FloatArray
    sum_margin_squared: FloatArray
    sum_revenue: FloatArray
    sum_revenue_squared: FloatArray
    sum_x: FloatArray
    sum_xx: FloatArray
    sum_x_subscribed: FloatArray
    sum_x_kept: FloatArray
    sum_x_margin: FloatArray
    sum_x_revenue: FloatArray

    def is_matured(self, window_s: float, as_of: datetime) -> NDArray[np.bool_]:
        """Whether a window has closed for everyone in a cell, shape ``(n_cells,)``."""
        return np.asarray((self.hour + 1) * HOUR_US + round(window_s * 1e6) <= to_us(as_of))


@dataclass(frozen=True, slots=True, eq=False)
class Values(_Columns):
    """Money of subjects that have any, by size as well; bins as ``parts.EDGES`` has them. Each array of shape ``(n_rows,)``."""

    measure: NDArray[np.str_]
    phase: IntArray
    variant: NDArray[np.str_]
    hour: IntArray
    segments: NDArray[np.str_]
    bin: IntArray
    n: FloatArray
    total: FloatArray
    total_squares: FloatArray
    sum_x: FloatArray
    sum_xy: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Stays(_Columns):
    """Subscribers by day of subscribing and whole days that they stayed (-1: still there). Each array of shape ``(n_rows,)``."""

    phase: IntArray
    variant: NDArray[np.str_]
    day: IntArray
    stayed: IntArray
    n: FloatArray

    def curve(self, variant: str, *, as_of: datetime) -> SurvivalCurve | None:
        """Share still there after each day, over days that are over for certain; None without a subscriber of that age.

        Somebody who subscribed on day d has been followed for at least ``as_of - d - 1`` whole days, whatever the hour was.
        """
        followed = to_us(as_of) // DAY_US - self.day - 1
        mine = (self.variant == variant) & (followed >= 0)
        if not mine.any():
            return None
        followed, stayed, n = followed[mine], self.stayed[mine], self.n[mine]
        has_left = (stayed >= 0) & (stayed <= followed)
        length = int(followed.max()) + 1
        left = np.bincount(stayed[has_left], n[has_left], minlength=length)
        censored = np.bincount(followed[~has_left], n[~has_left], minlength=length)
        return kaplan_meier(left.astype(np.int64), censored.astype(np.int64))


def read_cells(database: Database, experiment: Experiment, *, as_of: datetime) -> Cells:
    """Sums of subjects exposed by a moment."""
    table = tables.experiment_cells
    within = table.c.hour <= to_us(as_of) // HOUR_US
    return Cells(*_columns(database, table, Cells.__slots__, experiment, within))


def read_values(database: Database, experiment: Experiment, *, as_of: datetime) -> Values:
    """Money by size of subjects exposed by a moment."""
    table = tables.experiment_values
    within = table.c.hour <= to_us(as_of) // HOUR_US
    return Values(*_columns(database, table, Values.__slots__, experiment, within))


def read_stays(database: Database, experiment: Experiment) -> Stays:
    """Subscribers by day and stay; whoever was seen in several variants is no variant's."""
    table = tables.experiment_stays
    return Stays(*_columns(database, table, Stays.__slots__, experiment, table.c.variant != ""))


def _columns(
    database: Database, table: Table, names: tuple[str, ...], experiment: Experiment, condition: Any
) -> list[NDArray[Any]]:
    query = select(*(table.c[n] for n in names)).where(table.c.experiment == experiment.id, condition)
    with database.reading() as connection:
        rows = connection.execute(query.order_by(*(table.c[k.name] for k in table.primary_key.columns))).all()
    kinds = {n: np.int64 if n in _WHOLE else np.str_ if n in _TEXTS else np.float64 for n in names}
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return [np.asarray(column, dtype=kinds[n]) for n, column in zip(names, columns, strict=True)]


_NO_TEXT, _NO_WHOLE, _NO_NUMBER = np.zeros(0, np.str_), np.zeros(0, np.int64), np.zeros(0)
NO_VALUES = Values(
    _NO_TEXT, _NO_WHOLE, _NO_TEXT, _NO_WHOLE, _NO_TEXT, _NO_WHOLE, _NO_NUMBER, _NO_NUMBER, _NO_NUMBER, _NO_NUMBER, _NO_NUMBER
)  # fmt: skip


def cap_of(
    cells: Cells, values: Values, measure: str, *, quantile: float, window_s: float, as_of: datetime, n_first: float
) -> float | None:
    """Value above which money is capped: the quantile of buyers, all variants together, rounded up to an edge.

    Taken from the first ``n_first`` visitors whose window has closed, and then it stays: a cap that moved with every new visitor
    would change looks that were read already. None while nobody has bought.
    """
    is_closed = cells.is_matured(window_s, as_of)
    hours, at = np.unique(cells.hour[is_closed], return_inverse=True)
    followed = np.bincount(at, cells.n[is_closed], minlength=len(hours)).cumsum()
    if not len(hours):
        return None
    last = hours[min(int(np.searchsorted(followed, n_first)), len(hours) - 1)]
    rows = (values.measure == measure) & (values.hour <= last) & (values.bin > 0)
    n = len(EDGES) + 1
    place = values.bin[rows]

    def by_size(part: FloatArray) -> FloatArray:
        return np.bincount(place, part[rows], minlength=n).astype(np.float64)

    count = by_size(values.n)
    if not count.any():
        return None
    sizes = ValueHistogram(np.asarray(EDGES), count, by_size(values.total), by_size(values.total_squares))
    try:
        return sizes.cap_at(quantile)
    except InvalidInputError:
        return None  # beyond a billion nothing is capped


def timeline(cells: Cells, values: Values, plan: ExperimentPlan, *, as_of: datetime) -> Timeline:
    """Cells as the statistics take them; days count from the first hour with an exposure.

    Parameters
    ----------
    values
        Of the same subjects; used for metrics of money that have a cap, which has to be one of ``parts.EDGES``.
    """
    hours = np.unique(cells.hour)
    grid = _Grid(hours, plan, cells)
    n, subscribed, kept, x = (grid.total(v) for v in (cells.n, cells.n_subscribed, cells.n_kept, cells.sum_x))
    xx, none = grid.total(cells.sum_xx), np.zeros(grid.shape)
    x_subscribed, x_kept = grid.total(cells.sum_x_subscribed), grid.total(cells.sum_x_kept)
    if not plan.primary.covariate:
        x = xx = x_subscribed = x_kept = none
    money = {m.name: _money(m.name, m.cap, cells, values, plan, hours) for m in plan.metrics if m.name in MEASURES}
    start = int(hours[0]) if len(hours) else 0
    is_mixed = cells.variant == ""
    return Timeline(
        opens=(hours - start) / _HOURS_A_DAY,
        closes=(hours - start + 1) / _HOURS_A_DAY,
        exposed=n.astype(np.int64),
        # Kept implies subscribed, so that the product of the two is kept.
        moments={
            "conversion": np.stack([n, subscribed, subscribed, x, xx, x_subscribed]),
            "kept": np.stack([n, kept, kept, x, xx, x_kept]),
            "retention": np.stack([n, kept, kept, subscribed, subscribed, kept]),
            **{
                name: np.stack([n, y, yy, x, xx, xy if plan.primary.covariate else none])
                for name, (y, yy, xy) in money.items()
            },
        },
        as_of_day=(to_us(as_of) - start * HOUR_US) / (DAY_S * 1e6),
        n_multiple_exposed=int(cells.n[is_mixed].sum()),
        n_leaked=int(cells.n[~grid.is_planned & ~is_mixed].sum()),
    )


def _money(
    measure: str, cap: float | None, cells: Cells, values: Values, plan: ExperimentPlan, hours: IntArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Sum, sum of squares and sum with the covariate of a measure, larger values counted as the cap."""
    if cap is None:
        grid = _Grid(hours, plan, cells)
        names = (f"sum_{measure}", f"sum_{measure}_squared", f"sum_x_{measure}")
        y, yy, xy = (grid.total(getattr(cells, name)) for name in names)
        return y, yy, xy
    mine = values.where((values.measure == measure) & np.isin(values.hour, hours))
    is_above = mine.bin > EDGES.index(cap)
    below, above = mine.where(~is_above), mine.where(is_above)
    under, over = _Grid(hours, plan, below), _Grid(hours, plan, above)
    n_over = over.total(above.n)
    return (
        under.total(below.total) + cap * n_over,
        under.total(below.total_squares) + cap * cap * n_over,
        under.total(below.sum_xy) + cap * over.total(above.sum_x),
    )


class _Grid:
    """Places of rows in an array by hour, phase and variant; rows that the plan sends nobody to have none."""

    def __init__(self, hours: IntArray, plan: ExperimentPlan, rows: Cells | Values) -> None:
        phases = {p.key: i for i, p in enumerate(plan.all_phases)}
        variants = {v: i for i, v in enumerate(plan.variants)}
        phase = np.asarray([phases.get(str(p), -1) for p in rows.phase.tolist()], dtype=np.int64)
        variant = np.asarray([variants.get(str(v), -1) for v in rows.variant.tolist()], dtype=np.int64)
        weights = np.array([[p.weights_bp[v] for v in plan.variants] for p in plan.all_phases])
        planned = (phase >= 0) & (variant >= 0)
        planned[planned] = weights[phase[planned], variant[planned]] > 0
        self.is_planned: NDArray[np.bool_] = planned
        self.shape = (len(hours), len(phases), len(variants))
        at = np.searchsorted(hours, rows.hour)
        self._flat = np.ravel_multi_index((at[planned], phase[planned], variant[planned]), self.shape)

    def total(self, values: FloatArray) -> FloatArray:
        """Sums of rows in their places, shape ``(n_hours, n_phases, n_variants)``."""
        summed = np.bincount(self._flat, values[self.is_planned], minlength=int(np.prod(self.shape)))
        return np.asarray(summed.reshape(self.shape), dtype=np.float64)
