"""A canary as an experiment: how wide it goes, how many visitors it needs, and how long that takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import text

from engine.experiments.checklist import visitors_per_day
from engine.experiments.records import BASELINE, RAMP_STEPS, Counting, Experiment, Plan, Ramp
from engine.gate.forecasts import Forecast
from engine.gate.records import GateVerdict
from engine.offers.placement import Placement
from engine.rewards.definition import DAY_S
from engine.store.database import Database
from engine.store.facts import to_us
from offline_eval.abtest import required_subjects
from policies.allocation import Variant
from policies.errors import InvalidInputError

CONTROL, TREATMENT = "incumbent", "candidate"
_LOOK_BACK_DAYS = 60


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """How a canary is run.

    Parameters
    ----------
    ramp
        Of a candidate that the gate passed.
    small_steps
        Of one that a person approved where the log could not answer: it stays this small.
    relative_effect
        Change of the primary metric that is worth finding, relative to what it is now.
    margin_tolerance
        As of ``experiments.records.Plan``.
    counting
        Outcomes and windows.
    min_shadow_decisions
        Decisions that a shadow must have answered before its canary.
    probation_s
        How long after going live a failing log still takes a version back by itself.
    """

    ramp: Ramp = field(default_factory=Ramp)
    small_steps: tuple[float, ...] = RAMP_STEPS[:2]
    relative_effect: float = 0.1
    margin_tolerance: float | None = None
    counting: Counting = field(default_factory=Counting)
    n_looks: int = 5
    min_shadow_decisions: int = 200
    probation_s: float = 14 * DAY_S


def canary_of(
    database: Database,
    placement: Placement,
    policy: str,
    verdict: GateVerdict,
    settings: CanarySettings,
    *,
    at: datetime,
) -> Experiment:
    """The draft of a version's canary: against what serves, as wide as the gate allows.

    Raises
    ------
    InvalidInputError
        If the version is what serves.
    """
    name, _, version = policy.partition("@")
    control = placement.policy or BASELINE
    if control == policy:
        raise InvalidInputError(f"{policy} is what serves at {placement.id!r} already")
    steps = settings.ramp.steps if verdict.outcome == "pass" else settings.small_steps
    return Experiment(
        f"canary-{name}-{version[:8]}",
        placement.id,
        (Variant(CONTROL, 5_000, control), Variant(TREATMENT, 5_000, policy)),
        hypothesis=f"{policy} does better than {control}; the gate said: {verdict.outcome}.",
        plan=_plan(database, placement, settings, at=at),
        counting=settings.counting,
        ramp=replace(settings.ramp, steps=steps),
    )


def _plan(database: Database, placement: Placement, settings: CanarySettings, *, at: datetime) -> Plan:
    """Sized for the effect that is worth finding, at the rate that the log shows."""
    counting, kinds = settings.counting, placement.reward.kinds
    primary, kind, window_s = "kept", counting.kept, counting.kept_window_s
    if counting.kept not in kinds and counting.subscribed in kinds:
        primary, kind, window_s = "conversion", counting.subscribed, counting.conversion_window_s
    rate = base_rate(database, placement.id, kind=kind, window_s=window_s, at=at)
    per_day = visitors_per_day(database, placement.id, at=at)
    if not 0 < rate < 1:
        planned, effect = 10_000, 0.01  # nothing has matured: stand-ins, as experiments without a plan have
    else:
        effect = settings.relative_effect * rate
        planned = required_subjects(
            standard_deviation=(rate * (1 - rate)) ** 0.5, effect=effect, n_looks=settings.n_looks
        )
    return Plan(
        planned_subjects=planned,
        effect=effect,
        primary=primary,  # type: ignore[arg-type]  # one of two of the three
        n_looks=settings.n_looks,
        margin_tolerance=settings.margin_tolerance,
        visitors_per_day=per_day or None,
    )


def base_rate(database: Database, placement: str, *, kind: str, window_s: float, at: datetime) -> float:
    """Share of subjects of the last two months with a closed window to whom an outcome came within it; 0 where there are none.

    The window is that of a subject's first decision in these months, as an experiment would count it.
    """
    end = to_us(at) - round(window_s * 1e6)
    values: dict[str, object] = {
        "placement": placement,
        "kind": kind,
        "window_us": round(window_s * 1e6),
        "start": end - round(_LOOK_BACK_DAYS * DAY_S * 1e6),
        "end": end,
    }
    subjects = (
        "SELECT subject, MIN(at_us) AS first_us FROM decisions WHERE placement = :placement AND at_us >= :start "
        "AND at_us < :end GROUP BY subject"
    )
    with database.reading() as connection:
        n = connection.execute(text(f"SELECT COUNT(*) FROM ({subjects}) s"), values).scalar_one()
        got = (
            f"SELECT COUNT(DISTINCT o.subject) FROM outcomes o JOIN ({subjects}) s ON s.subject = o.subject "
            "WHERE o.kind = :kind AND o.value > 0 AND o.at_us >= s.first_us AND o.at_us <= s.first_us + :window_us"
        )
        n_with = connection.execute(text(got), values).scalar_one()
    return float(n_with) / float(n) if n else 0.0


def days_to_finish(database: Database, experiment: Experiment, *, at: datetime) -> Forecast | None:
    """When a planned experiment will have its visitors, as its traffic and its ramp foretell it; None without a plan or traffic.

    The interval is that of the arrivals, a day either side at least: what it leaves out is that traffic may change.
    """
    plan = experiment.plan
    per_day = visitors_per_day(database, experiment.placement, at=at)
    if plan is None or not per_day or experiment.started_at is None:
        return None
    left, days = float(plan.planned_subjects), 0.0
    steps = [experiment.coverage] if experiment.ramp is None else list(experiment.ramp.steps)
    hold = 0.0 if experiment.ramp is None else experiment.ramp.hold_s / DAY_S
    for i, coverage in enumerate(steps):
        rate = per_day * coverage
        is_last = i == len(steps) - 1
        here = left / rate if is_last else min(hold, left / rate)
        days += here
        left -= here * rate
        if left <= 1e-9:
            break
    window = (
        experiment.counting.kept_window_s if plan.primary != "conversion" else experiment.counting.conversion_window_s
    )
    days += window / DAY_S
    half = max(1.0, 1.96 * plan.planned_subjects**0.5 / (per_day * steps[-1]), 0.1 * days)
    return Forecast(
        "days to finish",
        experiment.placement,
        f"experiment {experiment.id}",
        at,
        days,
        max(0.0, days - half),
        days + half,
        {
            "unit": "days",
            "experiment": experiment.id,
            "planned_subjects": plan.planned_subjects,
            "visitors_per_day": per_day,
        },
    )
