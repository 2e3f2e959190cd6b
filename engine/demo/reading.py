"""What the demo's experiment is planned for, and what it counts."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from engine.demo.config import DemoConfig
from engine.experiments.records import Counting
from engine.experiments.records import Plan as ExperimentChoices
from engine.rewards.definition import DAY_S
from offline_eval.abtest import required_subjects
from simulator.rollouts import WINDOW_DAYS
from simulator.world import KEPT_AFTER_DAYS

# The lift that is worth finding: +12 % conversion and +8 % retention together (1.12 x 1.08).
WORTHWHILE_LIFT = 1.12 * 1.08 - 1.0
_CONVERSION_DAYS = WINDOW_DAYS - KEPT_AFTER_DAYS


@dataclass(frozen=True, slots=True)
class Plan:
    """How many visitors the experiment needs, decided from the training log before it starts."""

    kept_per_visitor: float
    effect: float
    required: int


def plan_experiment(kept_per_visitor: float) -> Plan:
    """Visitors with which the worthwhile lift of *kept per visitor* is found in four of five experiments."""
    effect = WORTHWHILE_LIFT * kept_per_visitor
    spread = sqrt(kept_per_visitor * (1 - kept_per_visitor))
    return Plan(kept_per_visitor, effect, required_subjects(standard_deviation=spread, effect=effect))


def counting() -> Counting:
    """Windows of the demo's world."""
    return Counting(conversion_window_s=_CONVERSION_DAYS * DAY_S, kept_window_s=(WINDOW_DAYS + 1) * DAY_S)


def choices(plan: Plan, config: DemoConfig) -> ExperimentChoices:
    """The plan as the experiment keeps it: everyone who comes is followed, and one look is taken at the end.

    A random split of n subjects carries a hair less information than an even one, so that the look is due a hair before n.
    """
    return ExperimentChoices(
        planned_subjects=round(0.99 * config.n_live_subjects),
        effect=plan.effect,
        primary="kept",
        n_looks=1,
        visitors_per_day=config.n_live_subjects / config.visit_days,
    )
