"""The one reading of an experiment: counts, every planned look, and a verdict where a plan was fixed.

The API, the console, the command and the demo all read here, from the hourly sums that ``rollup`` keeps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.experiments.parts import MEASURES
from engine.experiments.records import UNPLANNED, Experiment, Plan, plan_for_statistics
from engine.experiments.rollup import SEPARATOR, refresh
from engine.experiments.sums import (
    NO_VALUES,
    Cells,
    Stays,
    Values,
    cap_of,
    read_cells,
    read_stays,
    read_values,
    timeline,
)
from engine.store.database import Database
from offline_eval.abtest import ExperimentPlan
from offline_eval.abtest.confidence_sequence import sequence_interval
from offline_eval.abtest.effects import Effect, compare
from offline_eval.abtest.replay import Replay, replay
from offline_eval.abtest.survival import SurvivalCurve
from offline_eval.report.formatting import Interval

MAX_SEGMENT_VALUES = 8


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
    values: Values
    stays: Stays
    found: Replay | None
    plan: Plan
    is_planned: bool
    as_of: datetime

    @property
    def n_subjects(self) -> int:
        """Subjects exposed so far, those seen in several variants included."""
        return int(self.cells.n.sum())

    def survival(self) -> dict[str, SurvivalCurve]:
        """How long the subscribers of each variant stay, by day; describes, for who subscribes is an outcome too."""
        variants = [v.key for v in self.experiment.variants]
        return {v: curve for v in variants if (curve := self.stays.curve(v, as_of=self.as_of)) is not None}

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
                        "revenue": float(cells.sum_revenue[here & kept].sum()),
                    }
                )
        return out


def take_reading(
    database: Database,
    experiment: Experiment,
    *,
    as_of: datetime,
    in_simulation: bool,
    plan: Plan | None = None,
    n_points: int = 20,
) -> Reading:
    """Bring the rollup of an experiment up to now, and read it as of a moment.

    Parameters
    ----------
    n_points
        Readings over time, for charts; none where only the present matters.
    plan
        Used where the experiment has none of its own; the caller fixed it before the start elsewhere.
    """
    refresh(database, experiment)
    chosen = experiment.plan or plan
    used = chosen or UNPLANNED
    cells = read_cells(database, experiment, as_of=as_of)
    values = read_values(database, experiment, as_of=as_of) if used.cap_quantile is not None else NO_VALUES
    stays = read_stays(database, experiment)
    reading = Reading(experiment, cells, values, stays, None, used, chosen is not None, as_of)
    if not len(cells):
        return reading
    statistics = statistics_of(reading)
    line = timeline(cells, values, statistics, as_of=as_of)
    return replace(reading, found=replay(line, statistics, n_points=n_points, in_simulation=in_simulation))


def statistics_of(reading: Reading) -> ExperimentPlan:
    """The plan as the statistics take it, with what larger values count as."""
    cells, plan, quantile = reading.cells, reading.plan, reading.plan.cap_quantile
    caps: dict[str, float] = {}
    if quantile is not None:
        window_s = reading.experiment.counting.kept_window_s
        for measure in MEASURES:
            cap = cap_of(cells, reading.values, measure, quantile=quantile, window_s=window_s, as_of=reading.as_of,
                         n_first=plan.planned_subjects / plan.n_looks)  # fmt: skip
            if cap is not None:
                caps[measure] = cap
    return plan_for_statistics(reading.experiment, plan, has_revenue=bool(cells.sum_revenue_squared.any()), caps=caps)


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
    plan = reading.found.now.plan
    parts = [(i, name, value) for i, name in enumerate(experiment.segments) for value in _values_of(cells, i)]
    n_looks = max(1, len(parts) * len(plan.treatments))
    out: list[SegmentReading] = []
    for i, name, value in parts:
        mine = cells.where(_is_in(cells.segments, i, value))
        line = timeline(
            mine, reading.values.where(_is_in(reading.values.segments, i, value)), plan, as_of=reading.as_of
        )
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


def _is_in(segments: NDArray[np.str_], i: int, value: str) -> NDArray[np.bool_]:
    return np.asarray([s.split(SEPARATOR)[i] == value for s in segments.tolist()], dtype=np.bool_)


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
