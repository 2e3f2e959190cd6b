"""The whole experiment from its sums: every planned look as it was due, the split hour by hour, the estimate over time.

Looks are found again from the time at which windows closed, so nothing has to be stored between analyses, and a page opened twice, or
never until the end, says the same. Facts that came late are in every replayed look; a look that was read on its day may have
lacked them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from offline_eval.abtest.analysis import LOOK_TOLERANCE, ExperimentReading, History, analyse
from offline_eval.abtest.group_sequential import planned_fractions
from offline_eval.abtest.records import ExperimentPlan, FloatArray, SubjectOutcomes
from offline_eval.abtest.split_check import log_bayes_factor
from offline_eval.abtest.timeline import Timeline

_N_SPLIT_POINTS = 2_000


@dataclass(frozen=True, slots=True)
class Replay:
    """An experiment so far.

    Parameters
    ----------
    now
        The reading at ``as_of_day``, with all looks that were due by then.
    looks
        The reading at each planned look, with its day.
    over_time
        Readings at evenly spaced days, for charts; planned looks among them count as such.
    """

    now: ExperimentReading
    looks: tuple[tuple[float, ExperimentReading], ...]
    over_time: tuple[tuple[float, ExperimentReading], ...]


def replay(
    data: SubjectOutcomes | Timeline, plan: ExperimentPlan, *, n_points: int = 20, in_simulation: bool = False
) -> Replay:
    """Read an experiment as if it had been read at every planned look.

    Raises
    ------
    InvalidInputError
        If the rows have no days: looks cannot be found without them.
    """
    line = _timeline(data, plan)
    days = look_days(line, plan)
    evidence = split_evidence(line, plan)
    grid = _grid(line, plan, n_points)
    history = History()
    looks: list[tuple[float, ExperimentReading]] = []
    points: list[tuple[float, ExperimentReading]] = []

    def read(day: float) -> ExperimentReading:
        known = replace(history, largest_split_evidence=_until(evidence, day))
        return analyse(line.rollup(plan, day), plan, history=known, in_simulation=in_simulation)

    for day in sorted({*days, *grid}):
        reading = read(day)
        if day in days:
            history = History(reading.looks)
            if reading.is_planned_look:
                looks.append((day, reading))
        if day in grid:
            points.append((day, reading))
    return Replay(read(line.as_of_day), tuple(looks), tuple(points))


def look_days(data: SubjectOutcomes | Timeline, plan: ExperimentPlan) -> list[float]:
    """Days at which the planned information was reached, as far as it has been."""
    day, information = _information_over_time(_timeline(data, plan), plan)
    found = []
    for fraction in planned_fractions(plan.n_looks):
        reached = information >= fraction - LOOK_TOLERANCE
        if not reached.any():
            break
        found.append(float(day[int(np.argmax(reached))]))
    return sorted(set(found))


def split_evidence(data: SubjectOutcomes | Timeline, plan: ExperimentPlan) -> tuple[FloatArray, FloatArray]:
    """Days of exposure and the evidence against the split at each, at up to 2,000 moments."""
    line = _timeline(data, plan)
    n_cells = len(line.closes)
    if n_cells == 0:
        return np.zeros(0), np.zeros(0)
    at = np.unique(np.linspace(0, n_cells - 1, min(n_cells, _N_SPLIT_POINTS)).astype(np.int64))
    counts = line.exposed_by_cell()[at]
    total = np.zeros(len(at))
    for i, phase in enumerate(plan.all_phases):
        total += log_bayes_factor(counts[:, i], [phase.weights_bp[v] for v in plan.variants])
    return line.closes[at], total


def _timeline(data: SubjectOutcomes | Timeline, plan: ExperimentPlan) -> Timeline:
    return data if isinstance(data, Timeline) else Timeline.of(data, plan)


def _information_over_time(line: Timeline, plan: ExperimentPlan) -> tuple[FloatArray, FloatArray]:
    """Days at which windows closed, and the information fraction after each; the smallest over treatments."""
    closes = line.closes + plan.primary.window_days
    rows = closes <= line.as_of_day
    n = line.matured_by_cell(plan.primary.name)[rows]
    first = plan.all_phases[0].weights_bp
    smallest: FloatArray = np.full(int(rows.sum()), np.inf)
    control = n[:, :, plan.variants.index(plan.control)]
    for treatment in plan.treatments:
        own = n[:, :, plan.variants.index(treatment)]
        seen = (own * control / np.maximum(own + control, 1)).sum(axis=1)
        w_t, w_c = first[treatment] / 10_000, first[plan.control] / 10_000
        planned = plan.planned_subjects * w_t * w_c / (w_t + w_c) if w_t and w_c else np.inf
        smallest = np.minimum(smallest, seen / planned)
    return closes[rows], smallest


def _grid(line: Timeline, plan: ExperimentPlan, n_points: int) -> list[float]:
    """Evenly spaced days from the first on which there is something to read."""
    if len(line.closes) == 0 or n_points < 1:
        return []
    start = float(line.opens[0]) + plan.primary.window_days
    if start >= line.as_of_day:
        return []
    return [float(d) for d in np.linspace(start, line.as_of_day, n_points + 1)[1:]]


def _until(evidence: tuple[FloatArray, FloatArray], day: float) -> float:
    found: Sequence[float] = evidence[1][evidence[0] <= day].tolist()
    return max([0.0, *found])
