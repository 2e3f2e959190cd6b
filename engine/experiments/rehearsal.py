"""An experiment rehearsed before it starts: made-up visitors with the rates of the form, judged by the statistics that will judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.experiments.records import Experiment, Plan, plan_for_statistics
from offline_eval.abtest import ExperimentPlan, Timeline
from offline_eval.abtest.replay import Replay, replay
from policies.allocation import WEIGHT_TOTAL_BP
from policies.errors import InvalidInputError

N_RUNS = 20
# What a sale earns in a rehearsal, and how many of those who subscribed stay: no verdict about another metric rests on them.
_MARGIN, _STAYS = 20.0, 0.7
_MAX_DAYS = 365


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What became of the runs.

    Parameters
    ----------
    n_found, n_false
        Runs that the console would have said to ship: with the change that was hoped for, and without any.
    days
        Day of that look in the median of those found; None where none was.
    planned_days
        Day at which the plan is through.
    """

    n_runs: int
    n_found: int
    n_false: int
    days: float | None
    planned_days: float


def rehearse(experiment: Experiment, *, rate: float, seed: int = 0, n_runs: int = N_RUNS) -> Rehearsal:
    """Let a draft run with made-up visitors, with the change that its plan hopes for and without it.

    Parameters
    ----------
    rate
        Level of the primary metric in the control (of conversion, where margin decides).

    Raises
    ------
    InvalidInputError
        If the draft has no plan or no traffic to rehearse with, or would take more than a year.
    """
    # A rehearsal knows nothing of visitors before and no large sums: neither a covariate nor a cap has anything to do.
    plan = None if experiment.plan is None else replace(experiment.plan, covariate="", cap_quantile=None)
    if plan is None or not plan.visitors_per_day:
        raise InvalidInputError(f"experiment {experiment.id!r} has no plan with visitors a day to rehearse with")
    visit_days = plan.planned_subjects / plan.visitors_per_day
    if visit_days > _MAX_DAYS:
        raise InvalidInputError(f"the plan takes {visit_days:,.0f} days of visitors; expected at most {_MAX_DAYS}")
    statistics = plan_for_statistics(experiment, plan)
    end = visit_days + statistics.primary.window_days
    hoped: list[float | None] = []
    nothing: list[float | None] = []
    for run in range(n_runs):
        for effect, runs in ((plan.effect, hoped), (0.0, nothing)):
            rng = np.random.default_rng([seed, run, int(effect > 0)])
            line = _line(experiment, plan, statistics, rate=rate, effect=effect, rng=rng)
            runs.append(_shipped(replay(line, statistics, n_points=0, in_simulation=True)))
    found = [d for d in hoped if d is not None]
    return Rehearsal(
        n_runs, len(found), sum(d is not None for d in nothing), float(np.median(found)) if found else None, end
    )


def _shipped(found: Replay) -> float | None:
    """Day of the first look that says to ship."""
    return next((day for day, reading in found.looks if reading.verdict.decision == "ship"), None)


def _line(
    experiment: Experiment,
    plan: Plan,
    statistics: ExperimentPlan,
    *,
    rate: float,
    effect: float,
    rng: np.random.Generator,
) -> Timeline:
    """One course of the experiment as daily sums; every treatment has the change."""
    per_day = float(plan.visitors_per_day or 0.0)
    # A week longer than planned: the last look is due when the information is there, which is a matter of luck.
    n_days = int(np.ceil(plan.planned_subjects / per_day)) + 7
    weights = np.asarray([v.weight_bp for v in experiment.variants]) / WEIGHT_TOTAL_BP
    is_treated = np.asarray([i > 0 for i in range(len(weights))], dtype=np.float64)
    subscribes = np.full(len(weights), min(0.99, rate / _STAYS) if plan.primary == "kept" else rate)
    stays, earns = np.full(len(weights), _STAYS), np.full(len(weights), _MARGIN)
    match plan.primary:
        case "conversion":
            subscribes = np.minimum(0.99, subscribes + effect * is_treated)
        case "kept":
            subscribes = np.minimum(0.99, subscribes + effect / _STAYS * is_treated)
        case "margin" | "revenue":
            earns = earns + effect / rate * is_treated
    n = rng.poisson(per_day * weights, size=(n_days, len(weights))).astype(np.int64)
    subscribed = rng.binomial(n, subscribes)
    kept = rng.binomial(subscribed, stays)
    # Sums over so many sales of a margin that spreads by a third; their squares are what its mean and spread make of them.
    spread = earns / 3
    margin = subscribed * earns + rng.normal(size=n.shape) * spread * np.sqrt(subscribed)
    squared = subscribed * (earns**2 + spread**2)
    none = np.zeros(n.shape)

    def cells(*sums: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(s, dtype=np.float64) for s in sums])[:, :, None, :]

    days = np.arange(n_days, dtype=np.float64)
    last = n_days + max(m.window_days for m in statistics.metrics)
    return Timeline(
        days,
        days + 1,
        n[:, None, :],
        {
            "conversion": cells(n, subscribed, subscribed, none, none, none),
            "kept": cells(n, kept, kept, none, none, none),
            "margin": cells(n, margin, squared, none, none, none),
            "revenue": cells(n, margin, squared, none, none, none),
            "retention": cells(n, kept, kept, subscribed, subscribed, kept),
        },
        as_of_day=float(last),
    )
