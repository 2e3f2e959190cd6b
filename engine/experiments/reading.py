"""The one reading of an experiment: counts, every planned look, and a verdict where a plan was fixed.

The API, the console, the command and the demo all read here, from the hourly sums that ``rollup`` keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import func, select

from engine.experiments.records import UNPLANNED, Experiment, Plan, plan_for_statistics
from engine.experiments.rollup import HOUR_US, SEPARATOR, refresh
from engine.rewards.definition import DAY_S
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us, to_us
from offline_eval.abtest import ExperimentPlan, Timeline
from offline_eval.abtest.confidence_sequence import sequence_interval
from offline_eval.abtest.effects import Effect, compare
from offline_eval.abtest.replay import Replay, replay
from offline_eval.report.formatting import Interval
from policies.records import FloatArray, IntArray

_HOURS_A_DAY = 24
MAX_SEGMENT_VALUES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Sums by phase, variant, hour of first exposure and segments; each array of shape ``(n_cells,)``."""

    phase: IntArray
    variant: NDArray[np.str_]
    hour: IntArray
    segments: NDArray[np.str_]
    n: FloatArray
    n_subscribed: FloatArray
    n_kept: FloatArray
    sum_margin: FloatArray
    sum_margin_squared: FloatArray

    def __len__(self) -> int:
        return len(self.phase)

    def where(self, rows: NDArray[np.bool_]) -> Cells:
        """Some of the cells."""
        return Cells(*(getattr(self, name)[rows] for name in self.__slots__))

    def is_matured(self, window_s: float, as_of: datetime) -> NDArray[np.bool_]:
        """Whether a window has closed for everyone in a cell, shape ``(n_cells,)``."""
        return np.asarray((self.hour + 1) * HOUR_US + round(window_s * 1e6) <= to_us(as_of))


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """One experiment as of a moment.

    Parameters
    ----------
    found
        None before there is anything to compare.
    plan
        The experiment's, or stand-ins where none was fixed.
    is_planned
        Whether a plan was fixed; without one there is no verdict.
    """

    experiment: Experiment
    cells: Cells
    found: Replay | None
    plan: Plan
    is_planned: bool
    as_of: datetime

    @property
    def n_subjects(self) -> int:
        """Subjects exposed so far, those seen in several variants included."""
        return int(self.cells.n.sum())

    def counts(self) -> list[dict[str, Any]]:
        """One row per phase and variant; what has not matured is counted apart and never as "no"."""
        cells, counting = self.cells, self.experiment.counting
        converted = cells.is_matured(counting.conversion_window_s, self.as_of)
        kept = cells.is_matured(counting.kept_window_s, self.as_of)
        out: list[dict[str, Any]] = []
        for phase in self.experiment.phases:
            for variant in phase.variants:
                here = (cells.phase == phase.number) & (cells.variant == variant.key)
                out.append(
                    {
                        "phase": phase.number,
                        "variant": variant.key,
                        "n_subjects": int(cells.n[here].sum()),
                        "n_conversion_matured": int(cells.n[here & converted].sum()),
                        "n_subscribed": int(cells.n_subscribed[here & converted].sum()),
                        "n_kept_matured": int(cells.n[here & kept].sum()),
                        "n_kept": int(cells.n_kept[here & kept].sum()),
                        "margin": float(cells.sum_margin[here & kept].sum()),
                    }
                )
        return out


def read_experiment(
    database: Database,
    experiment: Experiment,
    *,
    as_of: datetime,
    in_simulation: bool,
    plan: Plan | None = None,
    n_points: int = 20,
) -> Reading:
    """Read one experiment as of a moment.

    Parameters
    ----------
    n_points
        Readings over time, for charts; none where only the present matters.
    plan
        Used where the experiment has none of its own; the caller fixed it before the start elsewhere.
    """
    refresh(database, experiment)
    cells = read_cells(database, experiment, as_of=as_of)
    chosen = experiment.plan or plan
    used = chosen or UNPLANNED
    found = None
    if len(cells):
        statistics = plan_for_statistics(experiment, used)
        found = replay(
            timeline(cells, statistics, as_of=as_of), statistics, n_points=n_points, in_simulation=in_simulation
        )
    return Reading(experiment, cells, found, used, chosen is not None, as_of)


def read_cells(database: Database, experiment: Experiment, *, as_of: datetime) -> Cells:
    """Sums of subjects exposed by a moment."""
    table = tables.experiment_cells
    columns = [table.c[name] for name in Cells.__slots__]
    with database.reading() as connection:
        rows = connection.execute(
            select(*columns)
            .where(table.c.experiment == experiment.id, table.c.hour <= to_us(as_of) // HOUR_US)
            .order_by(table.c.hour, table.c.phase, table.c.variant, table.c.segments)
        ).all()
    kinds: dict[str, Any] = {"phase": np.int64, "variant": np.str_, "hour": np.int64, "segments": np.str_}
    arrays = [np.asarray([r[i] for r in rows], dtype=kinds.get(c.name, np.float64)) for i, c in enumerate(columns)]
    return Cells(*arrays)


def timeline(cells: Cells, plan: ExperimentPlan, *, as_of: datetime) -> Timeline:
    """Cells as the statistics take them; days count from the first hour with an exposure."""
    hours, at = np.unique(cells.hour, return_inverse=True)
    phases = {p.key: i for i, p in enumerate(plan.all_phases)}
    variants = {v: i for i, v in enumerate(plan.variants)}
    phase = np.asarray([phases.get(str(p), -1) for p in cells.phase], dtype=np.int64)
    variant = np.asarray([variants.get(str(v), -1) for v in cells.variant], dtype=np.int64)
    weights = np.array([[p.weights_bp[v] for v in plan.variants] for p in plan.all_phases])
    is_mixed = cells.variant == ""
    is_planned = (phase >= 0) & (variant >= 0)
    is_planned[is_planned] = weights[phase[is_planned], variant[is_planned]] > 0
    shape = (len(hours), len(phases), len(variants))
    flat = np.ravel_multi_index((at[is_planned], phase[is_planned], variant[is_planned]), shape)

    def total(values: FloatArray) -> FloatArray:
        summed = np.bincount(flat, values[is_planned], minlength=int(np.prod(shape)))
        return np.asarray(summed.reshape(shape), dtype=np.float64)

    n, subscribed, kept = total(cells.n), total(cells.n_subscribed), total(cells.n_kept)
    margin, squared = total(cells.sum_margin), total(cells.sum_margin_squared)
    none = np.zeros(shape)
    start = int(hours[0])
    return Timeline(
        opens=(hours - start) / _HOURS_A_DAY,
        closes=(hours - start + 1) / _HOURS_A_DAY,
        exposed=n.astype(np.int64),
        # Kept implies subscribed, so that the product of the two is kept.
        moments={
            "conversion": np.stack([n, subscribed, subscribed, none, none, none]),
            "kept": np.stack([n, kept, kept, none, none, none]),
            "margin": np.stack([n, margin, squared, none, none, none]),
            "retention": np.stack([n, kept, kept, subscribed, subscribed, kept]),
        },
        as_of_day=(to_us(as_of) - start * HOUR_US) / (DAY_S * 1e6),
        n_multiple_exposed=int(cells.n[is_mixed].sum()),
        n_leaked=int(cells.n[~is_planned & ~is_mixed].sum()),
    )


def latest_moment(database: Database) -> datetime | None:
    """Time of the newest decision or outcome; a sandbox whose time is injected is read as of then."""
    with database.reading() as connection:
        times = [connection.execute(select(func.max(t.c.at_us))).scalar() for t in (tables.decisions, tables.outcomes)]
    known = [t for t in times if t is not None]
    return from_us(max(known)) if known else None


@dataclass(frozen=True, slots=True)
class SegmentReading:
    """One treatment in one part of the visitors.

    Parameters
    ----------
    interval
        Of the primary metric's difference; holds at all times and for all segments shown together.
    """

    name: str
    value: str
    treatment: str
    n_subjects: int
    effect: Effect
    interval: Interval


def read_segments(reading: Reading) -> list[SegmentReading]:
    """The primary metric by segment, corrected for the number of segments that are looked at."""
    experiment, cells = reading.experiment, reading.cells
    if not experiment.segments or reading.found is None:
        return []
    plan = plan_for_statistics(experiment, reading.plan)
    parts = [(i, name, value) for i, name in enumerate(experiment.segments) for value in _values_of(cells, i)]
    n_looks = max(1, len(parts) * len(plan.treatments))
    out: list[SegmentReading] = []
    for i, name, value in parts:
        mine = cells.where(
            np.asarray([s.split(SEPARATOR)[i] == value for s in cells.segments.tolist()], dtype=np.bool_)
        )
        line = timeline(mine, plan, as_of=reading.as_of)
        moments = line.rollup(plan, line.as_of_day).moments[plan.primary.name]
        for treatment in plan.treatments:
            column, control = plan.variants.index(treatment), plan.variants.index(plan.control)
            if not ((moments.n[:, column] >= 2) & (moments.n[:, control] >= 2)).any():
                continue
            effect = compare(moments, plan.primary, treatment=column, control=control)
            interval = sequence_interval(
                effect.estimate,
                effect.standard_error,
                n=float(moments.n.sum()),
                planned=plan.planned_subjects,
                alpha=plan.alpha / n_looks,
            )
            out.append(SegmentReading(name, value, treatment, int(mine.n.sum()), effect, interval))
    return out


def _values_of(cells: Cells, i: int) -> list[str]:
    """Values of a segment, the most frequent first; visitors without one are no segment."""
    counts: dict[str, float] = {}
    for text, n in zip(cells.segments.tolist(), cells.n.tolist(), strict=True):
        value = text.split(SEPARATOR)[i] if text else ""
        counts[value] = counts.get(value, 0.0) + n
    return [v for v in sorted(counts, key=lambda v: -counts[v]) if v][:MAX_SEGMENT_VALUES]


def cost_of_weights(reading: Reading, weights_bp: Mapping[str, int]) -> float | None:
    """Days that other weights add to the planned end (negative: save); None where that cannot be told.

    Information comes with ``w_t w_c / (w_t + w_c)`` of each treatment, so the smallest one counts.
    """
    rate = reading.plan.visitors_per_day
    if not reading.is_planned or not rate:
        return None
    so_far = 0.0 if reading.found is None else reading.found.now.power.fraction
    left = max(0.0, 1.0 - so_far) * reading.plan.planned_subjects
    experiment = reading.experiment
    first = {v.key: v.weight_bp for v in (experiment.phases[0].variants if experiment.phases else experiment.variants)}

    def speed(weights: Mapping[str, int]) -> float:
        control = weights[experiment.control]
        others = [w for k, w in weights.items() if k != experiment.control]
        return min(w * control / (w + control) if w + control else 0.0 for w in others)

    now = {v.key: v.weight_bp for v in experiment.variants}
    planned, current, wanted = speed(first), speed(now), speed(weights_bp)
    if not planned or not current or not wanted:
        return None
    return left / rate * (planned / wanted - planned / current)
