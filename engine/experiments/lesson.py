"""A false winner to learn from: one cohort of the simulator, divided again and again between two sides that saw the same.

What visitors did does not depend on the division, so each division is an A/A test of its own: whatever difference it shows is chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from engine.experiments.records import OWN_POLICY, Counting, Experiment, Plan, plan_for_statistics
from engine.rewards.definition import DAY_S
from offline_eval.abtest import ExperimentReading, SubjectOutcomes
from offline_eval.abtest.replay import Replay, replay
from policies.allocation import Split, Variant
from policies.errors import StateError
from policies.fixed import FixedOrder
from simulator.rollouts import WINDOW_DAYS, rollout
from simulator.scenarios.car_subscription import reference

N_TESTS, LOOK, LEVEL = 60, 3, 0.05
N_SUBJECTS, VISIT_DAYS, SEED = 3_000, 60, 7
_WINDOW_DAYS = 14
_VARIANTS = (Variant("A", 5_000, OWN_POLICY), Variant("B", 5_000, OWN_POLICY))


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What the page tells.

    Parameters
    ----------
    name
        Which of the divisions it is.
    yesterday
        The test as it stood at look ``LOOK``, where a test that ignores looking called a winner.
    found
        The same test until its end.
    n_fooled
        Of how many tests such a reading would have called a winner at one planned look at least.
    n_shipped
        Of how many the console said to ship or to stop for harm.
    """

    name: str
    yesterday: Replay
    yesterday_day: float
    found: Replay
    plan: Plan
    n_tests: int
    n_subjects: int
    n_fooled: int
    n_shipped: int


@lru_cache(maxsize=1)
def false_winner() -> Lesson:
    """Find the first division whose third look would have fooled somebody, and count those that would have at any look.

    Raises
    ------
    StateError
        If no division did, which the fixed seed rules out as long as the simulator's laws stay.
    """
    plan = Plan(planned_subjects=N_SUBJECTS, effect=0.04, visitors_per_day=N_SUBJECTS / VISIT_DAYS)
    statistics = plan_for_statistics(_experiment(plan), plan)
    outcomes = _outcomes()
    replays = [(i, replay(_divided(outcomes, i), statistics, n_points=0, in_simulation=True)) for i in range(N_TESTS)]
    fooled = [(i, r) for i, r in replays if any(_p(reading) < LEVEL for _, reading in r.looks)]
    n_shipped = sum(any(x.verdict.reason in ("better", "worse", "guardrail") for _, x in r.looks) for _, r in replays)
    for i, r in fooled:
        day, at_look = r.looks[LOOK - 1]
        if (
            _p(at_look) < LEVEL
            and r.now.verdict.reason == "no_difference"
            and at_look.verdict.decision == "keep running"
        ):
            data = _divided(outcomes, i)
            return Lesson(
                f"aa-{i + 1}",
                replay(_until(data, day), statistics, n_points=16, in_simulation=True),
                day,
                replay(data, statistics, n_points=40, in_simulation=True),
                plan,
                N_TESTS,
                len(data),
                len(fooled),
                n_shipped,
            )
    raise StateError(f"none of {N_TESTS} divisions looks like a winner at look {LOOK}; choose another seed")


def _experiment(plan: Plan) -> Experiment:
    counting = Counting(conversion_window_s=_WINDOW_DAYS * DAY_S, kept_window_s=(_WINDOW_DAYS + 31) * DAY_S)
    return Experiment("aa", "placement", _VARIANTS, plan=plan, counting=counting)


def _outcomes() -> SubjectOutcomes:
    """Everyone saw the same order of offers; rows of the simulator's visitors, all on one side yet."""
    log = rollout(
        reference(), FixedOrder(("compact_deal", "loyal_care", "no_offer")), n_subjects=N_SUBJECTS, visit_days=VISIT_DAYS, seed=SEED
    )  # fmt: skip
    first = np.full(N_SUBJECTS, np.inf)
    assert log.table.at is not None
    day = (log.table.at - log.table.at.min()) / np.timedelta64(1, "D")
    np.minimum.at(first, log.row, day)
    signed = log.subjects.signed_day
    in_window = (signed >= 0) & (signed - first <= _WINDOW_DAYS)
    subscribed = in_window.astype(np.float64)
    values = {
        "subscribed": subscribed,
        "kept": (log.subjects.kept_30d & in_window).astype(np.float64),
        "margin": log.subjects.margin_eur * in_window,
    }
    everyone = np.full(N_SUBJECTS, "A", dtype=np.str_)
    return SubjectOutcomes(everyone, values, exposed_day=first, as_of_day=float(VISIT_DAYS + WINDOW_DAYS))


def _divided(outcomes: SubjectOutcomes, number: int) -> SubjectOutcomes:
    """The same visitors, divided by the product's own hash under another name."""
    split = Split(f"aa-{number + 1}", _VARIANTS)
    sides = [split.assign(f"v{i}") for i in range(len(outcomes))]
    keys = np.asarray(["" if v is None else v.key for v in sides], dtype=np.str_)
    return SubjectOutcomes(keys, outcomes.values, exposed_day=outcomes.exposed_day, as_of_day=outcomes.as_of_day)


def _until(data: SubjectOutcomes, day: float) -> SubjectOutcomes:
    """What was known by a day."""
    assert data.exposed_day is not None
    here = data.exposed_day <= day
    values = {name: column[here] for name, column in data.values.items()}
    return SubjectOutcomes(data.variants[here], values, exposed_day=data.exposed_day[here], as_of_day=day)


def _p(reading: ExperimentReading) -> float:
    """What a test that ignores looking says of the primary metric."""
    return reading.of(reading.plan.primary.name).effect.p_value
