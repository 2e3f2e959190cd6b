"""The log of a service as the fit of a site reads it: the same rollout that the simulator would have written.

Only placements whose offers are described as the simulator's are (class of car, family, price, term, discount, perk) can be fitted;
others get a sentence that names what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import numpy as np
from sqlalchemy import func, select

from engine.offers.placement import Placement
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from engine.store import tables
from engine.store.database import Database, in_parts
from engine.store.facts import from_us, to_us
from engine.subjects.links import people_of
from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray, OfferSet
from simulator.own_log import site_with
from simulator.rollouts import WINDOW_DAYS, Rollout, SubjectOutcomes, credit
from simulator.scenarios.car_subscription import Scenario
from simulator.world import KEPT_AFTER_DAYS

_DAY_US = 86_400_000_000
_OF_VISITS = ("stage", "searched_class", "n_visits")
# Kinds of facts by the simulator's name of them, as the demo and the console's metrics call them.
KINDS: Mapping[str, str] = {
    "clicked": "clicked",
    "subscribed": "subscribed",
    "kept_30d": "active_30d",
    "margin_eur": "margin_eur",
    "cancelled": "cancelled",
}


def scenario_of(placement: Placement) -> Scenario:
    """The site of a placement: its offers and rules; parameters and people are what a fit finds.

    Raises
    ------
    InvalidInputError
        If its offers are not described by what the simulator's laws read.
    """
    return site_with(placement.id, placement.offer_set, placement.rules)


def last_told(database: Database, placement: str) -> datetime:
    """Moment of the last decision of a placement or outcome of anybody: later than that nothing is known.

    Raises
    ------
    InvalidInputError
        If there is no decision.
    """
    decisions, outcomes = tables.decisions, tables.outcomes
    with database.reading() as connection:
        last = connection.execute(
            select(func.max(decisions.c.at_us)).where(decisions.c.placement == placement)
        ).scalar()
        told = connection.execute(select(func.max(outcomes.c.at_us))).scalar()
    if last is None:
        raise InvalidInputError(f"placement {placement!r} has no decision yet; expected a log")
    return from_us(max(int(last), int(told or 0)))


def rollout_of(
    database: Database,
    placement: Placement,
    scenario: Scenario,
    *,
    kinds: Mapping[str, str] = KINDS,
    as_of: datetime,
    click_days: int = 1,
) -> Rollout:
    """Decisions up to a day, and what had become of their people by then: open windows are in it, and censored.

    Parameters
    ----------
    kinds
        Kinds of facts by the simulator's name of them: ``clicked``, ``subscribed``, ``kept_30d``, ``margin_eur``, ``cancelled``.
    click_days
        How long after a decision a click of it counts. The log ends so many whole days before ``as_of``.

    Raises
    ------
    InvalidInputError
        If the log lacks what the laws read: columns of visits, or facts.
    """
    definition = RewardDefinition((RewardTerm(kinds["clicked"]),), window_s=click_days * DAY_S)
    batch = export_interactions(database, placement.id, definition=definition, as_of=as_of)
    missing = [c for c in _OF_VISITS if c not in batch.table.columns]
    if missing:
        raise InvalidInputError(
            f"decisions of {placement.id!r} carry no {', '.join(missing)}: no site can be fitted on them"
        )
    assert batch.table.subjects is not None
    assert batch.table.at is not None
    assert batch.probabilities is not None
    assert batch.decision_ids is not None
    order = _order(batch.table.offers, scenario.offers)
    ids = batch.table.subjects.tolist()
    with database.reading() as connection:
        person_of = people_of(connection, ids)
    people, row = np.unique([person_of[i] for i in ids], return_inverse=True)
    at_us = batch.table.at.astype("datetime64[us]").astype(np.int64)
    start = int(at_us.min()) // _DAY_US
    last_day = (to_us(as_of) - click_days * _DAY_US + 1) // _DAY_US - 1 - start
    if last_day < 0:
        raise InvalidInputError(f"the log of {placement.id!r} does not cover one whole day; wait")
    facts = _Facts(database, person_of, people.tolist(), placement.id, end_us=(start + last_day + 1) * _DAY_US)
    signed_us, cancelled_us = facts.first(kinds["subscribed"]), facts.first(kinds["cancelled"])
    kept_us = facts.first(kinds["kept_30d"])

    def days(moments_us: IntArray) -> IntArray:
        return np.where(moments_us < 0, -1, moments_us // _DAY_US - start)

    signed, cancelled = days(signed_us), days(cancelled_us)
    is_untold = (signed >= 0) & (signed + KEPT_AFTER_DAYS < last_day) & (cancelled < 0) & (kept_us < 0)
    if is_untold.any():
        raise InvalidInputError(
            f"of {int((signed >= 0).sum()):,} contracts {int(is_untold.sum()):,} are older than {KEPT_AFTER_DAYS} days with neither "
            f"{kinds['kept_30d']!r} nor {kinds['cancelled']!r} told of them: how long they last cannot be known; report one of the two"
        )
    keep = np.flatnonzero(at_us // _DAY_US - start <= last_day)
    keep = keep[np.lexsort((at_us[keep], row[keep]))]
    table = batch.table.permute_offers(order) if order != list(range(len(order))) else batch.table
    row, at_us = row[keep].astype(np.int64), at_us[keep]
    n = len(people)
    first = np.full(n, last_day + 1)
    np.minimum.at(first, row, at_us // _DAY_US - start)
    credited = credit(row, at_us, signed_us)
    outcomes = SubjectOutcomes(
        subscribed=signed >= 0,
        kept_30d=kept_us >= 0,
        margin_eur=facts.total(kinds["margin_eur"]),
        n_visits=np.bincount(row, minlength=n).astype(np.int64),
        is_matured=first + WINDOW_DAYS <= last_day + 1,
        signed_day=signed,
        cancelled_day=cancelled,
    )
    rewards = {"clicked": np.minimum(batch.reward[keep], 1.0)}
    for name in ("subscribed", "kept_30d", "margin_eur"):
        rewards[name] = np.where(credited, np.asarray(getattr(outcomes, name), dtype=np.float64)[row], 0.0)
    return Rollout(
        table=table.take(keep),
        chosen=np.argsort(order)[batch.chosen][keep],
        probabilities=batch.probabilities[:, order][keep],
        row=row,
        day=at_us // _DAY_US - start,
        rewards=rewards,
        subjects=outcomes,
        policy="logged",
        last_day=last_day,
    )


def _order(logged: OfferSet, site: OfferSet) -> list[int]:
    """Position in the log of each offer of the site."""
    missing = sorted(set(site.ids) ^ set(logged.ids))
    if missing:
        raise InvalidInputError(
            f"the log and the catalogue differ in {', '.join(missing)}: the site has changed, no fit covers both"
        )
    return [logged.index_of(o) for o in site.ids]


class _Facts:
    """Outcomes of people up to a moment (exclusive), whichever of their ids they name, and rewards of their decisions."""

    def __init__(
        self, database: Database, person_of: Mapping[str, str], people: Iterable[str], placement: str, *, end_us: int
    ) -> None:
        self._database, self._person_of, self._placement, self._end_us = database, person_of, placement, end_us
        self._position = {name: i for i, name in enumerate(people)}

    def _of(self, kind: str) -> list[tuple[int, int, float]]:
        """Person, moment and value of each fact of a kind."""
        outcomes, rewards, decisions = tables.outcomes, tables.rewards, tables.decisions
        found: list[tuple[str, int, float]] = []
        with self._database.reading() as connection:
            for part in in_parts(sorted(self._person_of)):
                query = select(outcomes.c.subject, outcomes.c.at_us, outcomes.c.value).where(
                    outcomes.c.subject.in_(part), outcomes.c.kind == kind, outcomes.c.at_us < self._end_us
                )
                found += [tuple(r) for r in connection.execute(query)]
            told = (
                select(decisions.c.subject, rewards.c.at_us, rewards.c.value)
                .join(rewards, rewards.c.decision == decisions.c.id)
                .where(decisions.c.placement == self._placement, rewards.c.kind == kind, rewards.c.at_us < self._end_us)
            )
            found += [tuple(r) for r in connection.execute(told)]
        known = ((self._position.get(self._person_of.get(s, s), -1), at_us, value) for s, at_us, value in found)
        return [fact for fact in known if fact[0] >= 0]

    def first(self, kind: str) -> IntArray:
        """Moment of the first fact of a kind of each person, -1 where there is none; shape ``(n,)``."""
        out = np.full(len(self._position), -1, dtype=np.int64)
        for i, at_us, value in self._of(kind):
            if value:
                out[i] = at_us if out[i] < 0 else min(out[i], at_us)
        return out

    def total(self, kind: str) -> FloatArray:
        """Sum of the facts of a kind of each person, shape ``(n,)``."""
        out = np.zeros(len(self._position))
        for i, _, value in self._of(kind):
            out[i] += value
        return out
