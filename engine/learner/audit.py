"""Replay as an audit: every draw and every snapshot is recomputed from what was logged; the largest difference should be 0.0.

Holds on the same build with single-threaded arithmetic. What cannot be recomputed is counted and named, never skipped silently.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC

import numpy as np
from sqlalchemy import select

from engine.decisions.ladder import APPRENTICE, BASELINE, baseline
from engine.learner.learner import learn_from, load_state, read_tick, read_ticks
from engine.offers.placement import placement_from_json
from engine.registry.versions import Registry, snapshot_folder
from engine.rewards.attribution import BOT
from engine.rewards.definition import RewardDefinition
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import decision_from_values
from policies.artifact import load_artifact
from policies.errors import NextofferError
from policies.protocols import Policy
from policies.records import Context, Decision, DecisionTable, Offer, OfferId, OfferSet
from policies.registry import load_policy
from policies.sampling import decide, uniform_for

_PAGE = 2_000


@dataclass(frozen=True, slots=True)
class Audit:
    """What a replay found.

    Attributes
    ----------
    largest_difference
        Between a logged and a recomputed probability.
    n_other_choice
        Decisions whose recomputed draw or uniform differs.
    not_recomputed
        Why, and how many.
    n_snapshots, n_other_snapshots
        Learner snapshots recomputed from the ledger, and those that came out different.
    """

    n_decisions: int
    n_recomputed: int
    largest_difference: float
    n_other_choice: int
    not_recomputed: Mapping[str, int] = field(default_factory=dict)
    n_snapshots: int = 0
    n_other_snapshots: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether everything that was recomputed came out as logged."""
        return not (self.largest_difference or self.n_other_choice or self.n_other_snapshots)


def audit(database: Database, registry: Registry, *, secret: bytes) -> Audit:
    """Recompute every decision of the ledger, and every published snapshot of every learner."""
    states: dict[tuple[str, str], Policy] = {}
    offers: dict[str, OfferSet] = {}
    reasons: Counter[str] = Counter()
    n = n_same = n_other = 0
    largest = 0.0
    orders = _orders(database)
    for decision in _decisions(database):
        n += 1
        try:
            policy = _policy(registry, decision, states, orders)
            table = _table(database, decision, offers)
        except (NextofferError, KeyError, OSError) as error:
            reasons[f"{decision.policy}, snapshot {decision.snapshot}: {type(error).__name__}"] += 1
            continue
        draws = decide(policy, table, uniforms=np.asarray([decision.uniform]), explore_share=decision.explore_share)
        kept = np.flatnonzero(table.eligible[0])
        difference = float(np.abs(draws.probabilities[0, kept] - np.asarray(decision.probabilities)).max())
        largest = max(largest, difference)
        same_uniform = decision.uniform == uniform_for(secret, decision.placement, decision.id)
        n_other += not (same_uniform and table.offers.ids[int(draws.chosen[0])] == decision.offer)
        n_same += 1
    n_snapshots, n_other_snapshots = _snapshots(database, registry)
    return Audit(n, n_same, largest, n_other, dict(reasons), n_snapshots, n_other_snapshots)


def _decisions(database: Database) -> Iterator[Decision]:
    table = tables.decisions
    after = 0
    while True:
        with database.reading() as connection:
            rows = connection.execute(
                select(table).where(table.c.ledger_offset > after).order_by(table.c.ledger_offset).limit(_PAGE)
            ).all()
        if not rows:
            return
        after = rows[-1].ledger_offset
        for row in rows:
            yield decision_from_values(row[1:])


def _orders(database: Database) -> dict[str, tuple[str, ...]]:
    """Every baseline order that a placement ever had, by its version."""
    table = tables.audit
    with database.reading() as connection:
        documents = connection.execute(select(table.c.document).where(table.c.action == "put")).scalars().all()
    out: dict[str, tuple[str, ...]] = {baseline(()).ref.version: ()}
    for text in documents:
        placement = placement_from_json(json.loads(text))
        ids = placement.offer_set.ids
        order = (*placement.baseline, *(o for o in ids if o not in placement.baseline))
        out[baseline(order).ref.version] = order
    return out


def _policy(
    registry: Registry,
    decision: Decision,
    states: dict[tuple[str, str], Policy],
    orders: Mapping[str, tuple[str, ...]],
) -> Policy:
    if decision.policy.name in (BASELINE, BOT):
        return baseline(orders[decision.policy.version]).policy
    if decision.rung == APPRENTICE:
        return baseline(orders[decision.snapshot]).policy
    ref = str(decision.policy)
    key = (ref, decision.snapshot)
    if key not in states:
        if decision.snapshot == decision.policy.version:
            states[key] = load_policy(registry.artifact(ref))
        else:
            states[key] = load_policy(load_artifact(snapshot_folder(registry.folder, ref, int(decision.snapshot))))
    return states[key]


def _table(database: Database, decision: Decision, cache: dict[str, OfferSet]) -> DecisionTable:
    revision = decision.offer_set_revision
    if revision not in cache:
        rows = database.rows("SELECT document FROM offer_sets WHERE revision = :revision", revision=revision)
        entries = json.loads(rows[0][0]) if rows else []
        cache[revision] = OfferSet([Offer(OfferId(e["id"]), e["features"], e["payload"]) for e in entries])
    offers = cache[revision]
    eligible = np.asarray([[offer in decision.offers for offer in offers.ids]], dtype=np.bool_)
    context = Context(decision.subject, decision.context, decision.vectors, decision.at.astimezone(UTC))
    return DecisionTable.from_contexts(offers, [context], eligible=eligible)


def _snapshots(database: Database, registry: Registry) -> tuple[int, int]:
    """Learn again from the ledger, tick by tick, and compare each published state with what is on disk."""
    n = n_other = 0
    definitions = _definitions(database)
    for (ref,) in database.rows("SELECT DISTINCT policy FROM learner_ticks ORDER BY policy"):
        rows = database.rows("SELECT placement FROM decisions WHERE policy = :policy LIMIT 1", policy=ref)
        placement = str(rows[0][0])
        policy = load_state(registry, ref, None)
        for tick in read_ticks(database, ref):
            learn_from(policy, read_tick(database, ref, placement, definitions[placement], tick))
            folder = snapshot_folder(registry.folder, ref, tick.number)
            if tick.is_published and folder.exists():
                n += 1
                n_other += load_artifact(folder).digest != policy.to_artifact().digest
    return n, n_other


def _definitions(database: Database) -> dict[str, RewardDefinition]:
    rows = database.rows("SELECT id, document FROM placements")
    return {str(name): placement_from_json(json.loads(text)).reward for name, text in rows}
