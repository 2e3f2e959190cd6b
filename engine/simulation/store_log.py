"""The log of a service as the fit of a site reads it: the same rollout that the simulator would have written.

Only placements whose offers are described as the simulator's are (class of car, family, price, term, discount, perk) can be fitted;
others get a sentence that names what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np
from sqlalchemy import select

from engine.offers.placement import Placement
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from engine.store import tables
from engine.store.database import Database, in_parts
from engine.store.facts import to_us
from policies.errors import InvalidInputError
from policies.records import IntArray, InteractionBatch, OfferSet
from simulator.rollouts import Rollout, SubjectOutcomes
from simulator.scenarios.car_subscription import OFFERS, Scenario, reference

_DAY_US = 86_400_000_000
_OF_VISITS = ("stage", "searched_class", "n_visits", "days_since_last_visit", "tenure_days", "device", "channel")


def scenario_of(placement: Placement) -> Scenario:
    """The site of a placement: its offers and rules; parameters and people are what a fit finds.

    Raises
    ------
    InvalidInputError
        If its offers are not described by what the simulator's laws read.
    """
    wanted = set(next(iter(OFFERS)).features)
    for offer in placement.offer_set:
        missing = sorted(wanted - set(offer.features))
        if missing:
            raise InvalidInputError(
                f"no site can be fitted for placement {placement.id!r}: offer {offer.id!r} has no {', '.join(missing)}, which the "
                "simulator's laws read"
            )
    return replace(reference(), name=placement.id, offers=placement.offer_set, rules=placement.rules)


def rollout_of(
    database: Database, placement: Placement, scenario: Scenario, *, kinds: Mapping[str, str], as_of: datetime
) -> Rollout:
    """Decisions with a closed window, and what became of their subjects.

    Parameters
    ----------
    kinds
        Kinds of facts by the simulator's name of them: ``clicked``, ``subscribed``, ``kept_30d``, ``margin_eur``, ``cancelled``.

    Raises
    ------
    InvalidInputError
        If the log lacks what the laws read: columns of visits, or facts.
    """
    window_s = placement.reward.window_s

    def with_reward(name: str) -> InteractionBatch:
        definition = RewardDefinition((RewardTerm(kinds[name]),), window_s=window_s)
        return export_interactions(database, placement.id, definition=definition, as_of=as_of)

    batches = {name: with_reward(name) for name in ("clicked", "subscribed", "kept_30d", "margin_eur")}
    first = batches["clicked"]
    table = first.table
    missing = [c for c in _OF_VISITS if c not in table.columns]
    if missing:
        raise InvalidInputError(
            f"decisions of {placement.id!r} carry no {', '.join(missing)}: no site can be fitted on them"
        )
    assert table.subjects is not None
    assert table.at is not None
    assert first.probabilities is not None
    order = _order(table.offers, scenario.offers)
    names, row = np.unique(table.subjects, return_inverse=True)
    at_us = table.at.astype("datetime64[us]").astype(np.int64)
    start = int(at_us.min()) // _DAY_US
    day: IntArray = at_us // _DAY_US - start
    n = len(names)
    signed = _days(database, names.tolist(), kinds["subscribed"], start=start, as_of=as_of)
    cancelled = _days(database, names.tolist(), kinds["cancelled"], start=start, as_of=as_of)
    kept = _days(database, names.tolist(), kinds["kept_30d"], start=start, as_of=as_of)
    if (signed >= 0).any() and not ((cancelled >= 0) | (kept >= 0)).any():
        raise InvalidInputError(
            f"the log tells of contracts and neither of {kinds['kept_30d']!r} nor of {kinds['cancelled']!r}"
        )
    by_row = np.argsort(row, kind="stable")
    moved = table.permute_offers(order) if order != list(range(len(order))) else table
    place = np.argsort(order)
    margin = np.bincount(row, weights=batches["margin_eur"].reward, minlength=n)
    return Rollout(
        table=moved.take(by_row),
        chosen=place[first.chosen][by_row],
        probabilities=first.probabilities[:, order][by_row],
        row=row[by_row].astype(np.int64),
        day=day[by_row],
        rewards={
            name: np.minimum(b.reward, 1.0)[by_row] if name != "margin_eur" else b.reward[by_row]
            for name, b in batches.items()
        },
        subjects=SubjectOutcomes(
            subscribed=signed >= 0,
            kept_30d=kept >= 0,
            margin_eur=np.asarray(margin, dtype=np.float64),
            n_visits=np.bincount(row, minlength=n).astype(np.int64),
            is_matured=np.ones(n, dtype=np.bool_),
            signed_day=signed,
            cancelled_day=cancelled,
        ),
        policy="logged",
        last_day=to_us(as_of) // _DAY_US - start,
    )


def _order(logged: OfferSet, site: OfferSet) -> list[int]:
    """Position in the log of each offer of the site."""
    missing = sorted(set(site.ids) ^ set(logged.ids))
    if missing:
        raise InvalidInputError(
            f"the log and the catalogue differ in {', '.join(missing)}: the site has changed, no fit covers both"
        )
    return [logged.index_of(o) for o in site.ids]


def _days(database: Database, subjects: list[str], kind: str, *, start: int, as_of: datetime) -> IntArray:
    """Day of the first outcome of a kind of each subject, -1 where there is none; shape ``(n,)``."""
    position = {name: i for i, name in enumerate(subjects)}
    out = np.full(len(subjects), -1, dtype=np.int64)
    table = tables.outcomes
    with database.reading() as connection:
        for part in in_parts(subjects):
            query = select(table.c.subject, table.c.at_us).where(
                table.c.subject.in_(part), table.c.kind == kind, table.c.at_us <= to_us(as_of)
            )
            for subject, at_us in connection.execute(query):
                i, day = position[subject], at_us // _DAY_US - start
                out[i] = day if out[i] < 0 else min(out[i], day)
    return out
