"""The reading of an experiment: counts per variant and phase and, against a plan, the statistics that survive peeking."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from engine.decisions.service import DecisionService
from engine.experiments.lifecycle import Experiment
from engine.experiments.results import ExperimentOutcomes, OutcomeKinds, experiment_results
from engine.rewards.definition import DAY_S


@dataclass(frozen=True, slots=True)
class ReadingPlan:
    """What was decided before the first visitor came.

    Parameters
    ----------
    planned_subjects
        Matured subjects of all variants at which the one planned look is taken.
    effect
        Smallest absolute change of kept per visitor that matters.
    """

    planned_subjects: int
    effect: float


def read_experiment(
    service: DecisionService, experiment_id: str, *, as_of: datetime, plan: ReadingPlan | None, in_simulation: bool
) -> dict[str, Any]:
    """Counts of an experiment and, where a plan is given, its reading."""
    experiment = service.experiments.get(experiment_id)
    kinds = OutcomeKinds()
    outcomes = experiment_results(service.database, experiment_id, as_of=as_of, kinds=kinds)
    return {
        "experiment": experiment_id,
        "as_of": as_of.isoformat(),
        "rows": counts(experiment, outcomes),
        "reading": None
        if plan is None
        else _reading(experiment, outcomes, plan, kinds, as_of, in_simulation=in_simulation),
    }


def counts(experiment: Experiment, outcomes: ExperimentOutcomes) -> list[dict[str, Any]]:
    """One row per phase and variant; what has not matured is counted apart and never as "no"."""
    out: list[dict[str, Any]] = []
    for phase in experiment.phases:
        for variant in phase.variants:
            here = (outcomes.phases == phase.number) & (outcomes.variants == variant.key)
            converted, kept = here & outcomes.is_conversion_matured, here & outcomes.is_kept_matured
            out.append(
                {
                    "phase": phase.number,
                    "variant": variant.key,
                    "n_subjects": int(here.sum()),
                    "n_conversion_matured": int(converted.sum()),
                    "n_subscribed": int(outcomes.subscribed[converted].sum()),
                    "n_kept_matured": int(kept.sum()),
                    "n_kept": int(outcomes.kept[kept].sum()),
                    "margin_eur": float(outcomes.margin_eur[kept].sum()),
                }
            )
    return out


def _reading(
    experiment: Experiment,
    outcomes: ExperimentOutcomes,
    plan: ReadingPlan,
    kinds: OutcomeKinds,
    as_of: datetime,
    *,
    in_simulation: bool,
) -> dict[str, Any] | None:
    if not len(outcomes) or experiment.started_at is None:
        return None
    from offline_eval.abtest import ExperimentPlan, SubjectOutcomes, analyse, standard_metrics
    from offline_eval.abtest import Phase as PlanPhase

    start = np.datetime64(experiment.started_at.replace(tzinfo=None), "us")
    keys = tuple(v.key for v in experiment.variants)
    data = SubjectOutcomes(
        outcomes.variants,
        {"subscribed": outcomes.subscribed, "kept": outcomes.kept, "margin": outcomes.margin_eur},
        phases=outcomes.phases.astype(str),
        exposed_day=(outcomes.exposed_at - start) / np.timedelta64(1, "D"),
        as_of_day=float((np.datetime64(as_of.replace(tzinfo=None), "us") - start) / np.timedelta64(1, "D")),
    )
    made = ExperimentPlan(
        experiment.id,
        control=keys[0],
        variants=keys,
        metrics=standard_metrics(
            primary="kept", conversion_days=kinds.conversion_window_s / DAY_S, kept_days=kinds.kept_window_s / DAY_S
        ),
        planned_subjects=plan.planned_subjects,
        effect=plan.effect,
        phases=tuple(PlanPhase(str(p.number), {v.key: v.weight_bp for v in p.variants}) for p in experiment.phases),
        n_looks=1,
    )
    reading = analyse(data, made, in_simulation=in_simulation)
    return {"sentence": reading.sentence(), **reading.to_json()}
