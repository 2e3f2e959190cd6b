"""What stands before a start: what would make the experiment fail or mean nothing, said while it costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from engine.experiments.controls import read_controls
from engine.experiments.records import OWN_POLICY, Experiment
from engine.offers.stored import find_placement
from engine.rewards.definition import DAY_S
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us

LONG_DAYS = 90.0
_TRAFFIC_DAYS = 14


@dataclass(frozen=True, slots=True)
class Check:
    """One point of the list.

    Parameters
    ----------
    is_blocking
        Whether a start would be refused; the others are advice.
    """

    name: str
    is_done: bool
    is_blocking: bool
    text: str


def checklist(database: Database, experiment: Experiment, *, at: datetime) -> list[Check]:
    """Points to look at before an experiment starts."""
    with database.reading() as connection:
        controls = read_controls(connection)
        found = find_placement(connection, experiment.placement)
        running = connection.execute(
            select(tables.experiments.c.id).where(
                tables.experiments.c.state == "running",
                tables.experiments.c.placement == experiment.placement,
                tables.experiments.c.id != experiment.id,
            )
        ).scalars()
        others = [] if experiment.layer else list(running)
    per_day = visitors_per_day(database, experiment.placement, at=at)
    placement = None if found is None else found[0]
    n_offers = 0 if placement is None else len(placement.offers)
    return [
        Check(
            "offers",
            n_offers > 1,
            False,
            f"{experiment.placement} has {n_offers} offers to choose from" if n_offers > 1 else f"{experiment.placement} has fewer than two offers: there is nothing to choose",
        ),
        Check(
            "plan",
            experiment.plan is not None,
            False,
            "How long it runs and what decides is fixed" if experiment.plan else "No plan is fixed: there will be intervals and no verdict",
        ),
        Check(
            "room",
            not others,
            True,
            "Nothing else runs at this place" if not others else f"{others[0]} runs at this place: stop it first, or give both separate slots of a layer",
        ),
        _difference(experiment),
        Check("learners", experiment.data_scope == "own", False, "Each variant learns for itself" if experiment.data_scope == "own" else "Variants share what they learn: a gain of one becomes the other's"),
        _length(experiment, per_day),
        Check(
            "approval",
            bool(experiment.approved_by) or not controls.needs_approval,
            True,
            f"Approved by {experiment.approved_by}" if experiment.approved_by else "Somebody has to approve it" if controls.needs_approval else "No approval is asked for",
        ),
        Check("pause", not controls.is_paused, False, "Experiments are not paused" if not controls.is_paused else "All experiments are paused: nobody will take part until that ends"),
    ]  # fmt: skip


def visitors_per_day(database: Database, placement: str, *, at: datetime) -> float:
    """Mean number of subjects a day that a placement decided for in the last two weeks of its traffic."""
    table = tables.decisions
    since = to_us(at) - round(_TRAFFIC_DAYS * DAY_S * 1e6)
    query = select(func.count(func.distinct(table.c.subject)), func.min(table.c.at_us)).where(
        table.c.placement == placement, table.c.at_us >= since, table.c.at_us <= to_us(at)
    )
    with database.reading() as connection:
        n, first_us = connection.execute(query).one()
    if not n:
        return 0.0
    days = max(1.0, (to_us(at) - int(first_us)) / (DAY_S * 1e6))
    return float(n) / days


def _difference(experiment: Experiment) -> Check:
    told = {(v.policy, v.value if v.policy == OWN_POLICY else "") for v in experiment.variants}
    is_done = len(told) == len(experiment.variants)
    text = (
        "Every variant does something else" if is_done else "Two variants do the same: this only tests the split (A/A)"
    )
    return Check("difference", is_done, False, text)


def _length(experiment: Experiment, per_day: float) -> Check:
    plan = experiment.plan
    rate = per_day * experiment.coverage
    if plan is None or not rate:
        return Check(
            "length",
            plan is None,
            False,
            "There is no traffic yet to say how long it takes" if plan else "How long it takes follows from the plan",
        )
    days = plan.planned_subjects / rate
    text = f"About {days:,.0f} days at {rate:,.0f} visitors a day, then the wait for the last ones"
    return Check("length", days <= LONG_DAYS, False, text)  # fmt: skip
