"""The plan of an experiment: what was fixed before the first subject came, kept beside the store and never overwritten."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from engine.experiments.lifecycle import Experiment
from engine.experiments.results import OutcomeKinds
from engine.rewards.definition import DAY_S
from offline_eval.abtest import ExperimentPlan, Phase, standard_metrics
from policies.errors import ConflictError, InvalidInputError


@dataclass(frozen=True, slots=True)
class PlanChoices:
    """What a person decides about an experiment before it starts.

    Parameters
    ----------
    planned_subjects
        Visitors to follow, all variants together.
    effect
        Smallest change of the primary metric that matters, absolute (0.01 is one percentage point).
    margin_tolerance
        Largest loss of margin per visitor that would be accepted; None ships unless a loss is proven.
    is_late
        Whether it was written down after the experiment had started; the page then says so.
    """

    planned_subjects: int
    effect: float
    primary: Literal["conversion", "kept"] = "conversion"
    n_looks: int = 5
    currency: str = "€"
    margin_tolerance: float | None = None
    visitors_per_day: float | None = None
    visitors_per_month: float | None = None
    is_late: bool = False


def plan_path(folder: Path, experiment_id: str) -> Path:
    """File of an experiment's plan; the name is the id in hexadecimal, which no file system can misread."""
    return folder / "plans" / f"{experiment_id.encode().hex()}.json"


def write_plan(folder: Path, experiment: Experiment, choices: PlanChoices) -> Path:
    """Fix the plan.

    Raises
    ------
    ConflictError
        If there is one: a plan that may change is no plan.
    InvalidInputError
        If the choices make no plan.
    """
    build_plan(experiment, choices)
    path = plan_path(folder, experiment.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            json.dump(asdict(choices), file)
    except FileExistsError as error:
        raise ConflictError(
            f"experiment {experiment.id!r} has a plan already; it stays as it was fixed: stop the experiment and plan a new one"
        ) from error
    return path


def read_choices(folder: Path, experiment_id: str) -> PlanChoices | None:
    """The plan of an experiment; None where none was fixed."""
    path = plan_path(folder, experiment_id)
    if not path.exists():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    known = {f.name for f in fields(PlanChoices)}
    if not isinstance(found, dict) or set(found) - known:
        raise InvalidInputError(f"plan {path} is damaged or of a newer version; expected a mapping of {sorted(known)}")
    return PlanChoices(**found)


def build_plan(experiment: Experiment, choices: PlanChoices, *, kinds: OutcomeKinds | None = None) -> ExperimentPlan:
    """Choices and phases as the statistics want them; the first variant is the control."""
    kinds = kinds or OutcomeKinds()
    return ExperimentPlan(
        experiment=experiment.id,
        control=experiment.variants[0].key,
        variants=tuple(v.key for v in experiment.variants),
        metrics=standard_metrics(
            currency=choices.currency,
            conversion_days=kinds.conversion_window_s / DAY_S,
            kept_days=kinds.kept_window_s / DAY_S,
            margin_tolerance=choices.margin_tolerance,
            primary=choices.primary,
        ),
        planned_subjects=choices.planned_subjects,
        effect=choices.effect,
        phases=_phases(experiment),
        n_looks=choices.n_looks,
        subjects_per_day=choices.visitors_per_day,
        visitors_per_month=choices.visitors_per_month,
    )


def _phases(experiment: Experiment) -> tuple[Phase, ...]:
    rows: Sequence[tuple[str, dict[str, int]]] = [
        (str(p.number), {v.key: v.weight_bp for v in p.variants}) for p in experiment.phases
    ] or [("1", {v.key: v.weight_bp for v in experiment.variants})]
    return tuple(Phase(key, weights) for key, weights in rows)
