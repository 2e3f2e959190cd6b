"""Replay as an audit: every draw and every snapshot is recomputed from what was logged; the largest difference should be 0.0.

Holds on the same build with single-threaded arithmetic. Learner states are learned again tick by tick from the oldest kept
checkpoint whose later facts are all still there. What cannot be recomputed (erased subjects, facts that retention has
dropped, artefacts that are gone, a secret that was not given) is counted and named, never skipped silently.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC

import numpy as np
from sqlalchemy import select

from engine.decisions.ladder import APPRENTICE, baseline
from engine.experiments.records import BASELINE
from engine.learner.snapshots import checkpoints, load_state
from engine.learner.ticks import Tick, learn_from, read_tick, read_ticks
from engine.offers.stored import definition_of, every_placement_ever
from engine.registry.versions import Registry, RemovedVersionError, snapshot_folder
from engine.rewards.definition import RewardDefinition
from engine.rewards.seen import BOT
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import decision_from_values
from engine.store.retention import oldest_offset
from engine.subjects.erasure import erased_offsets, pseudonyms
from policies.artifact import Artifact, load_artifact
from policies.errors import ArtifactError, NextofferError
from policies.protocols import OnlineLearner, Policy, SaveablePolicy
from policies.records import Context, Decision, DecisionTable, Offer, OfferId, OfferSet
from policies.registry import load_policy
from policies.sampling import decide, uniform_for

_PAGE = 2_000
_MAX_STATES = 12

ERASED = "the subject was erased"
DROPPED = "facts it was learned from were dropped by retention"


@dataclass(frozen=True, slots=True)
class Audit:
    """What a replay found.

    Attributes
    ----------
    largest_difference
        Between a logged and a recomputed probability.
    n_other_choice
        Decisions whose recomputed draw or uniform differs.
    n_erased
        Decisions of erased subjects, which nobody can recompute.
    not_recomputed
        Why not, and how many decisions or snapshots.
    n_snapshots, n_other_snapshots
        Learner snapshots on disk recomputed from the ledger, and those that came out different.
    started_at
        Where the recomputation of each learner starts: the number of its oldest usable checkpoint, 0 for the registered state.
    """

    n_decisions: int
    n_recomputed: int
    largest_difference: float
    n_other_choice: int
    n_erased: int = 0
    not_recomputed: Mapping[str, int] = field(default_factory=dict)
    n_snapshots: int = 0
    n_other_snapshots: int = 0
    started_at: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether everything that was recomputed came out as logged."""
        return not (self.largest_difference or self.n_other_choice or self.n_other_snapshots)


def audit(database: Database, registry: Registry, *, secret: bytes | Mapping[int, bytes]) -> Audit:
    """Recompute every decision of the ledger, and every published snapshot of every learner.

    Parameters
    ----------
    secret
        Key of the draws; where it was changed, each by its version.
    """
    reasons: Counter[str] = Counter()
    states = States(database, registry)
    offers: dict[str, OfferSet] = {}
    erased = pseudonyms(database)
    n = n_same = n_other = n_erased = 0
    largest = 0.0
    orders = _orders(database)
    for decision in decisions_of(database):
        n += 1
        if decision.subject in erased:
            n_erased += 1
            continue
        try:
            if decision.policy.name in (BASELINE, BOT):
                policy: Policy = baseline(orders[decision.policy.version]).policy
            elif decision.rung == APPRENTICE:
                policy = baseline(orders[decision.snapshot]).policy
            else:
                policy = states.policy(str(decision.policy), decision.snapshot)
            table = table_of(database, decision, offers)
        except (NextofferError, KeyError, OSError) as error:
            said = str(error) if isinstance(error, NotThereError | RemovedVersionError) else type(error).__name__
            reasons[f"{decision.policy}, snapshot {decision.snapshot}: {said}"] += 1
            continue
        draws = decide(policy, table, uniforms=np.asarray([decision.uniform]), explore_share=decision.explore_share)
        kept = np.flatnonzero(table.eligible[0])
        difference = float(np.abs(draws.probabilities[0, kept] - np.asarray(decision.probabilities)).max())
        largest = max(largest, difference)
        is_same = table.offers.ids[int(draws.chosen[0])] == decision.offer
        key = secret if isinstance(secret, bytes) else secret.get(decision.secret_version)
        if key is None:
            reasons[f"uniform of a draw: secret version {decision.secret_version} was not given"] += 1
        else:
            is_same = is_same and decision.uniform == uniform_for(key, decision.placement, decision.id)
        n_other += not is_same
        n_same += 1
    n_snapshots, n_other_snapshots, named, started_at = _snapshots(states)
    reasons.update(named)
    return Audit(n, n_same, largest, n_other, n_erased, dict(reasons), n_snapshots, n_other_snapshots, started_at)


class NotThereError(ArtifactError):
    """A state that is no longer on disk and cannot be learned again."""


class States:
    """Policies as they were at a snapshot: from disk, or learned again from the nearest checkpoint before it."""

    def __init__(self, database: Database, registry: Registry) -> None:
        self.database = database
        self.registry = registry
        self._known: OrderedDict[tuple[str, str], Policy] = OrderedDict()
        self._replays: dict[str, Replayed] = {}

    def policy(self, ref: str, snapshot: str) -> Policy:
        """Policy that a decision was drawn from.

        Raises
        ------
        NotThereError
            If its snapshot has been removed and what it was learned from is not whole any more.
        """
        key = (ref, snapshot)
        found = self._known.get(key)
        if found is None:
            if snapshot == ref.partition("@")[2]:
                found = load_policy(self.registry.artifact(ref))
            else:
                found = self.replayed(ref).at(int(snapshot))
            self._known[key] = found
            if len(self._known) > _MAX_STATES:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return found

    def replayed(self, ref: str) -> Replayed:
        """A learner's history."""
        if ref not in self._replays:
            self._replays[ref] = Replayed(self.database, self.registry, ref)
        return self._replays[ref]

    def learners(self) -> list[str]:
        """All versions that a learner has learned."""
        return [str(r[0]) for r in self.database.rows("SELECT DISTINCT policy FROM learner_ticks ORDER BY policy")]


class Replayed:
    """One learner's ticks, and states learned again from them."""

    def __init__(self, database: Database, registry: Registry, ref: str) -> None:
        self.database, self.registry, self.ref = database, registry, ref
        self.ticks = [_whole(database, ref, t) for t in read_ticks(database, ref)]
        self.checkpoints = [t.number for t in checkpoints(database, registry, ref)]
        oldest = oldest_offset(database)
        touched = erased_offsets(database)
        self.broken = {
            t.number: DROPPED if t.stretch.first_offset < oldest else ERASED
            for t in self.ticks
            if t.stretch.first_offset < oldest or _any_within(touched, t)
        }
        self._offers: dict[str, OfferSet] = {}

    def at(self, number: int) -> Policy:
        """State at a snapshot, from disk where it is kept."""
        if number in self.checkpoints:
            return load_state(self.registry, self.ref, number)
        before = max((c for c in self.checkpoints if c < number), default=0)
        for tick in self.ticks:
            if before < tick.number <= number and tick.number in self.broken:
                raise NotThereError(f"the snapshot is gone; {self.broken[tick.number]}")
        policy = load_state(self.registry, self.ref, before or None)
        for tick in self.ticks:
            if before < tick.number <= number:
                self.learn(policy, tick)
        return policy

    def learn(self, policy: OnlineLearner, tick: Tick) -> None:
        """Learn a tick again, as it was learned."""
        if not tick.is_left_out:
            learn_from(policy, read_tick(self.database, self.ref, tick, self._offers)[0])


def _any_within(offsets: list[int], tick: Tick) -> bool:
    at = bisect_left(offsets, tick.stretch.first_offset)
    return at < len(offsets) and offsets[at] < tick.stretch.end_offset


def _whole(database: Database, ref: str, tick: Tick) -> Tick:
    """A tick that an earlier version wrote has the placement of the policy's decisions, and its definition of today."""
    if tick.placement is not None and tick.definition is not None:
        return tick
    rows = database.rows("SELECT placement FROM decisions WHERE policy = :policy LIMIT 1", policy=ref)
    placement = str(rows[0][0]) if rows else ""
    definition = definition_of(database, placement) if rows else RewardDefinition()
    return Tick(tick.number, tick.stretch, placement, definition, tick.is_published, tick.is_left_out)


def _snapshots(states: States) -> tuple[int, int, Counter[str], dict[str, int]]:
    """Learn again from the ledger, tick by tick, and compare each published state with what is on disk."""
    n = n_other = 0
    named: Counter[str] = Counter()
    started_at: dict[str, int] = {}
    for ref in states.learners():
        history = states.replayed(ref)
        started_at[ref] = 0
        try:
            policy: OnlineLearner | None = load_state(states.registry, ref, None)
        except RemovedVersionError as error:
            named[f"snapshots of {ref}: {error}"] += 1
            continue
        for tick in history.ticks:
            is_kept = tick.number in history.checkpoints
            if tick.number in history.broken:
                policy = None
            if policy is None:
                if is_kept:
                    # Taken as it is: what came before cannot be learned again.
                    policy = load_state(states.registry, ref, tick.number)
                    if history.broken.get(tick.number) == DROPPED:
                        started_at[ref] = tick.number
                    named[f"snapshot of {ref}: {history.broken.get(tick.number, 'an earlier tick is not whole')}"] += 1
                continue
            history.learn(policy, tick)
            if is_kept:
                n += 1
                n_other += _content(
                    load_artifact(snapshot_folder(states.registry.folder, ref, tick.number))
                ) != _content(policy.to_artifact())
    return n, n_other, named, started_at


def _content(artifact: Artifact) -> str:
    """Hash of what a state has learned, as it reads after loading.

    VW writes statistics of the running session (its progressive loss since it was started) beside the weights: a learner that was
    restarted has others, and the same weights to the bit. Loading starts a session, so both sides are loaded once.
    """
    policy = load_policy(artifact)
    return policy.to_artifact().digest if isinstance(policy, SaveablePolicy) else artifact.digest


def decisions_of(database: Database) -> Iterator[Decision]:
    """All decisions of the ledger whose bodies are there, in order."""
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
            if row.body:
                yield decision_from_values(row[1:])


def _orders(database: Database) -> dict[str, tuple[str, ...]]:
    """Every baseline order that a placement ever had, by its version."""
    out: dict[str, tuple[str, ...]] = {baseline(()).ref.version: ()}
    for placement in every_placement_ever(database):
        ids = placement.offer_set.ids
        order = (*placement.baseline, *(o for o in ids if o not in placement.baseline))
        out[baseline(order).ref.version] = order
    return out


def table_of(database: Database, decision: Decision, cache: dict[str, OfferSet]) -> DecisionTable:
    """What a policy saw of a decision."""
    revision = decision.offer_set_revision
    if revision not in cache:
        rows = database.rows("SELECT document FROM offer_sets WHERE revision = :revision", revision=revision)
        entries = json.loads(rows[0][0]) if rows else []
        if len(cache) >= 1_000:
            cache.clear()
        cache[revision] = OfferSet([Offer(OfferId(e["id"]), e["features"], e["payload"]) for e in entries])
    offers = cache[revision]
    eligible = np.asarray([[offer in decision.offers for offer in offers.ids]], dtype=np.bool_)
    context = Context(decision.subject, decision.context, decision.vectors, decision.at.astimezone(UTC))
    return DecisionTable.from_contexts(offers, [context], eligible=eligible)
