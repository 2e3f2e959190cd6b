"""What the experiment showed, read from the service's own store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path

import numpy as np

from engine.decisions.service import open_service
from engine.demo.config import DemoConfig
from engine.demo.live import CONTROL, EXPERIMENT, TREATMENT
from engine.experiments.results import ExperimentOutcomes, OutcomeKinds, experiment_results
from engine.rewards.definition import DAY_S
from offline_eval.abtest import ExperimentPlan, SubjectOutcomes, analyse, required_subjects, standard_metrics
from offline_eval.abtest.analysis import ExperimentReading
from simulator.rollouts import WINDOW_DAYS
from simulator.site import KEPT_AFTER_DAYS

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


def read_experiment(home: Path, *, plan: Plan, config: DemoConfig) -> tuple[ExperimentReading, ExperimentOutcomes]:
    """Per-subject outcomes from the store, and one look at the end of the plan."""
    end = datetime(2027, 1, 1, tzinfo=UTC)
    kinds = OutcomeKinds(conversion_window_s=_CONVERSION_DAYS * DAY_S, kept_window_s=(WINDOW_DAYS + 1) * DAY_S)
    with open_service(home) as service:
        outcomes = experiment_results(service.database, EXPERIMENT, as_of=end, kinds=kinds)
    day = (outcomes.exposed_at - outcomes.exposed_at.min()) / np.timedelta64(1, "D")
    data = SubjectOutcomes(
        outcomes.variants,
        {"subscribed": outcomes.subscribed, "kept": outcomes.kept, "margin": outcomes.margin_eur},
        exposed_day=np.asarray(day, dtype=np.float64),
        as_of_day=float(day.max()) + WINDOW_DAYS + 2,
    )
    experiment = ExperimentPlan(
        EXPERIMENT,
        control=CONTROL,
        variants=(CONTROL, TREATMENT),
        metrics=standard_metrics(
            currency="€", primary="kept", conversion_days=_CONVERSION_DAYS, kept_days=float(WINDOW_DAYS)
        ),
        planned_subjects=len(outcomes),
        effect=plan.effect,
        n_looks=1,
        subjects_per_day=len(outcomes) / config.visit_days,
    )
    return analyse(data, experiment, in_simulation=True), outcomes
