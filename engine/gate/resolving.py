"""What came of forecasts, from the live log: values of policies, lifts of canaries, days of experiments."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np

from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import take_reading
from engine.experiments.records import OWN_POLICY, Experiment
from engine.gate.forecasts import Forecast, forecasts_of, settle
from engine.offers.stored import definition_of
from engine.rewards.definition import DAY_S
from engine.rewards.joined import MICROSECONDS, join, stretches
from engine.store.database import Database
from engine.store.facts import to_us
from policies.errors import UnknownNameError

# Before so many decisions of a policy have matured, what it earned is mostly noise.
MIN_DECISIONS = 500
# A round asks this every few seconds: it goes by time, not through the ledger. The plus keeps a database from looking for the least
# offset by walking all offsets from the first.
_CLOSED = (
    "SELECT COUNT(*), MIN(+ledger_offset) FROM decisions "
    "WHERE placement = :placement AND at_us >= :made AND at_us <= :closed AND policy = :policy"
)


def resolve(database: Database, *, at: datetime, in_simulation: bool) -> list[str]:
    """Settle what can be settled; returns a line for each."""
    out = []
    settlers: dict[str, Callable[..., tuple[float | None, float | None, str | None] | None]] = {
        "ope value": _policy_value,
        "simulator value": _metric,
        "lift": _metric,
        "days to finish": _days,
    }
    for forecast in forecasts_of(database, is_open=True):
        found = settlers[forecast.kind](database, forecast, at=at, in_simulation=in_simulation)
        if found is None:
            continue
        actual, error, note = found
        if settle(database, forecast, at=at, actual=actual, standard_error=error, note=note):
            came = note if actual is None else f"{actual:.4g}"
            out.append(f"forecast of {forecast.kind} of {forecast.about}: {forecast.value:.4g} foretold, {came}")
    return out


def _policy_value(
    database: Database, forecast: Forecast, *, at: datetime, in_simulation: bool
) -> tuple[float | None, float | None, str | None] | None:
    """Mean reward of the decisions that the policy itself has taken since, per decision."""
    definition = definition_of(database, forecast.placement)
    made_us, as_of_us = to_us(forecast.made_at), to_us(at)
    n_wanted = forecast.document.get("min_decisions", MIN_DECISIONS)
    ((n, first),) = database.rows(
        _CLOSED,
        placement=forecast.placement,
        policy=forecast.about,
        made=made_us,
        closed=as_of_us - round(definition.window_s * MICROSECONDS),
    )
    if n < n_wanted:  # seen or not: with fewer there is nothing to join
        return None
    rewards: list[float] = []
    subjects: list[str] = []
    for stretch in stretches(first, database.head(), as_of_us=as_of_us):
        rows = join(database, forecast.placement, definition, stretch, policy=forecast.about)
        late = [i for i, us in enumerate(rows.at_us) if us >= made_us]
        rewards += [rows.rewards[i] for i in late]
        subjects += [rows.subjects[i] for i in late]
    if len(rewards) < n_wanted:
        return None
    value = np.asarray(rewards)
    _, member = np.unique(np.asarray(subjects), return_inverse=True)
    mean = float(value.mean())
    totals = np.bincount(member, weights=value - mean)
    return mean, float(np.sqrt((totals**2).sum()) / len(value)), None


def _metric(
    database: Database, forecast: Forecast, *, at: datetime, in_simulation: bool
) -> tuple[float | None, float | None, str | None] | None:
    """What the canary of the policy showed once it ended or has decided."""
    experiment = _canary_of(database, forecast)
    if experiment is None:
        return None
    reading = take_reading(database, experiment, as_of=at, in_simulation=in_simulation, n_points=0)
    if reading.found is None:
        if experiment.state == "stopped":
            return None, None, "the experiment ended before anybody came"
        return None
    now = reading.found.now
    if experiment.state == "running" and now.verdict.decision == "keep running":
        return None
    metric = next((m for m in now.metrics if m.metric.name == forecast.document["metric"]), None)
    if metric is None:
        return None
    if forecast.kind == "lift":
        return metric.effect.estimate, metric.effect.standard_error, None
    error = metric.effect.standard_error / np.sqrt(2)  # of one side of an even split
    return metric.effect.treatment, float(error), None


def _days(
    database: Database, forecast: Forecast, *, at: datetime, in_simulation: bool
) -> tuple[float | None, float | None, str | None] | None:
    """Days from the start until everybody planned had come and matured; an early end is told as such."""
    try:
        experiment = Experiments(database).get(str(forecast.document["experiment"]))
    except UnknownNameError:
        return None, None, "the experiment is gone"
    assert experiment.started_at is not None
    reading = take_reading(database, experiment, as_of=at, in_simulation=in_simulation, n_points=0)
    enough = reading.found is not None and reading.found.now.power.fraction >= 1.0 - 5e-4
    if not enough:
        if experiment.state == "running":
            return None
        return None, None, "it was stopped before its visitors had come"
    end = at if experiment.stopped_at is None else min(at, experiment.stopped_at)
    return (end - experiment.started_at).total_seconds() / DAY_S, None, None


def _canary_of(database: Database, forecast: Forecast) -> Experiment | None:
    """The last started experiment in which the policy competed with what it was foretold against."""
    against = forecast.document.get("against")
    rivals = {against, OWN_POLICY}  # what served when it was foretold may compete as "the placement's own"
    found = []
    for experiment in Experiments(database).list():
        policies = {v.policy for v in experiment.variants}
        is_mine = experiment.placement == forecast.placement and forecast.about in policies
        is_mine &= against is None or not policies.isdisjoint(rivals)
        if is_mine and experiment.started_at is not None and experiment.started_at >= forecast.made_at:
            found.append(experiment)
    return max(found, key=lambda e: e.started_at or forecast.made_at, default=None)
