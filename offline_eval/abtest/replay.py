"""The whole experiment from its rows: every planned look as it was due, the split hour by hour, the estimate over time.

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
from offline_eval.abtest.records import ExperimentPlan, FloatArray, IntArray, SubjectOutcomes
from offline_eval.abtest.split_check import log_bayes_factor
from policies.errors import InvalidInputError

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


def replay(data: SubjectOutcomes, plan: ExperimentPlan, *, n_points: int = 20, in_simulation: bool = False) -> Replay:
    """Read an experiment from its rows as if it had been read at every planned look.

    Raises
    ------
    InvalidInputError
        If the rows have no days: looks cannot be found without them.
    """
    if data.exposed_day is None or data.as_of_day is None:
        raise InvalidInputError("the rows have no exposed_day; replaying looks needs to know when each subject came")
    days = look_days(data, plan)
    evidence = split_evidence(data, plan)
    grid = _grid(data, plan, n_points)
    history = History()
    looks: list[tuple[float, ExperimentReading]] = []
    points: list[tuple[float, ExperimentReading]] = []
    for day in sorted({*days, *grid}):
        reading = analyse(
            _as_of(data, day),
            plan,
            history=replace(history, largest_split_evidence=_until(evidence, day)),
            in_simulation=in_simulation,
        )
        if day in days:
            history = History(reading.looks)
            if reading.is_planned_look:
                looks.append((day, reading))
        if day in grid:
            points.append((day, reading))
    now = analyse(
        data,
        plan,
        history=replace(history, largest_split_evidence=_until(evidence, data.as_of_day)),
        in_simulation=in_simulation,
    )
    return Replay(now, tuple(looks), tuple(points))


def look_days(data: SubjectOutcomes, plan: ExperimentPlan) -> list[float]:
    """Days at which the planned information was reached, as far as it has been."""
    day, information = _information_over_time(data, plan)
    found = []
    for fraction in planned_fractions(plan.n_looks):
        reached = information >= fraction - LOOK_TOLERANCE
        if not reached.any():
            break
        found.append(float(day[int(np.argmax(reached))]))
    return sorted(set(found))


def split_evidence(data: SubjectOutcomes, plan: ExperimentPlan) -> tuple[FloatArray, FloatArray]:
    """Days of exposure and the evidence against the split at each, at up to 2,000 moments."""
    if data.exposed_day is None or len(data) == 0:
        return np.zeros(0), np.zeros(0)
    order = np.argsort(data.exposed_day, kind="stable")
    at = np.unique(np.linspace(0, len(order) - 1, min(len(order), _N_SPLIT_POINTS)).astype(np.int64))
    total = np.zeros(len(at))
    variants = data.variants[order]
    phases = None if data.phases is None else data.phases[order]
    for phase in plan.all_phases:
        inside = np.ones(len(order), dtype=np.bool_) if phases is None else phases == phase.key
        counts: IntArray = np.stack([(inside & (variants == v)).cumsum()[at] for v in plan.variants], axis=-1)
        total += log_bayes_factor(counts, [phase.weights_bp[v] for v in plan.variants])
    return data.exposed_day[order][at], total


def _information_over_time(data: SubjectOutcomes, plan: ExperimentPlan) -> tuple[FloatArray, FloatArray]:
    """Days at which windows closed, and the information fraction after each; the smallest over treatments."""
    assert data.exposed_day is not None
    assert data.as_of_day is not None
    closes = data.exposed_day + plan.primary.window_days
    rows = np.flatnonzero(closes <= data.as_of_day)
    order = rows[np.argsort(closes[rows], kind="stable")]
    variants = data.variants[order]
    phases = np.full(len(order), plan.all_phases[0].key) if data.phases is None else data.phases[order]
    first = plan.all_phases[0].weights_bp
    smallest: FloatArray = np.full(len(order), np.inf)
    for treatment in plan.treatments:
        seen = np.zeros(len(order))
        for phase in plan.all_phases:
            inside = phases == phase.key
            n_t = (inside & (variants == treatment)).cumsum()
            n_c = (inside & (variants == plan.control)).cumsum()
            seen += n_t * n_c / np.maximum(n_t + n_c, 1)
        w_t, w_c = first[treatment] / 10_000, first[plan.control] / 10_000
        planned = plan.planned_subjects * w_t * w_c / (w_t + w_c) if w_t and w_c else np.inf
        smallest = np.minimum(smallest, seen / planned)
    return closes[order], smallest


def _as_of(data: SubjectOutcomes, day: float) -> SubjectOutcomes:
    """What was there on a day."""
    assert data.exposed_day is not None
    rows = data.exposed_day <= day
    return replace(
        data,
        variants=data.variants[rows],
        values={name: column[rows] for name, column in data.values.items()},
        phases=None if data.phases is None else data.phases[rows],
        exposed_day=data.exposed_day[rows],
        as_of_day=day,
    )


def _grid(data: SubjectOutcomes, plan: ExperimentPlan, n_points: int) -> list[float]:
    """Evenly spaced days from the first on which there is something to read."""
    assert data.exposed_day is not None
    assert data.as_of_day is not None
    if len(data) == 0 or n_points < 1:
        return []
    start = float(data.exposed_day.min()) + plan.primary.window_days
    if start >= data.as_of_day:
        return []
    return [float(d) for d in np.linspace(start, data.as_of_day, n_points + 1)[1:]]


def _until(evidence: tuple[FloatArray, FloatArray], day: float) -> float:
    found: Sequence[float] = evidence[1][evidence[0] <= day].tolist()
    return max([0.0, *found])
