"""Is it learning? What has become of the last reward, and where each policy of a placement stands."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from engine.learner.ticks import learned_in
from engine.registry.versions import Registry
from engine.store.database import Database
from engine.store.facts import DECISION, from_us, to_us
from policies.errors import NextofferError
from policies.protocols import OnlineLearner

# A learner ticks several times a second: what is closed for longer and not learned from waits for one that does not run.
BEHIND_AFTER_S = 30.0

LearningState = Literal["learning", "waiting", "behind", "fixed"]


@dataclass(frozen=True, slots=True)
class LastReward:
    """The newest reward that joined a decision of a placement.

    Attributes
    ----------
    learned_in
        Number of the first published snapshot that learned from the decision; None: not yet, or nothing learns here.
    learns_at
        When the decision's reward window closes; None where its policy does not learn.
    """

    decision: str
    kind: str
    value: float
    learned_in: int | None
    learns_at: datetime | None
    is_late: bool


@dataclass(frozen=True, slots=True)
class Learning:
    """Where one policy stands.

    Attributes
    ----------
    state
        ``learning``: it has learned from all closed windows, or does so now; ``waiting``: no window has closed yet; ``behind``: closed
        windows wait for a learner that does not run; ``fixed``: it does not learn online.
    snapshot
        Number of the newest published snapshot.
    n_waiting
        Decisions whose window has closed and that are not learned from yet.
    """

    policy: str
    state: LearningState
    snapshot: int | None
    n_waiting: int
    message: str


def last_reward(database: Database, registry: Registry, placement: str, *, window_s: float) -> LastReward | None:
    """Newest reward of a placement, and where learning stands with it."""
    rows = database.rows(
        "SELECT r.kind, r.value, r.at_us, d.id, d.ledger_offset, d.at_us, d.policy FROM rewards r "
        "JOIN decisions d ON d.id = r.decision WHERE d.placement = :placement ORDER BY r.ledger_offset DESC LIMIT 1",
        placement=placement,
    )
    if not rows:
        return None
    kind, value, at_us, decision, offset, decided_us, policy = rows[0]
    number = learned_in(database, policy, offset)
    learns = number is not None or _learns(registry, policy)
    closes = from_us(decided_us) + timedelta(seconds=window_s)
    return LastReward(decision, kind, value, number, closes if learns else None, from_us(at_us) > closes)


def learned_from(database: Database, decision_id: str) -> int | None:
    """Number of the first published snapshot that has learned from a decision; None: not yet."""
    rows = database.rows(
        "SELECT d.policy, d.ledger_offset FROM fact_keys k JOIN decisions d ON d.ledger_offset = k.ledger_offset "
        f"WHERE k.kind = {DECISION} AND k.id = :id",
        id=decision_id,
    )
    return learned_in(database, rows[0][0], rows[0][1]) if rows else None


def learning_of(
    database: Database, registry: Registry, policy: str, placement: str, *, window_s: float, now: datetime
) -> Learning:
    """Where a policy stands at a placement."""
    if not _learns(registry, policy):
        return Learning(policy, "fixed", None, 0, f"{policy} does not learn online")
    closed_us = to_us(now) - round(window_s * 1e6)
    ((end, snapshot),) = database.rows(
        "SELECT coalesce(max(end_offset), 1), max(CASE WHEN is_published THEN number END) FROM learner_ticks WHERE policy = :policy",
        policy=policy,
    )
    ((n, oldest_us),) = database.rows(
        "SELECT count(*), min(at_us) FROM decisions WHERE placement = :placement AND at_us <= :closed "
        "AND ledger_offset >= :after AND policy = :policy",
        placement=placement,
        closed=closed_us,
        after=end,
        policy=policy,
    )
    if oldest_us is not None and oldest_us < closed_us - BEHIND_AFTER_S * 1e6:
        told = f"{policy} has {n} decisions to learn from and no learner works on it: run 'nextoffer learn {placement}'"
        return Learning(policy, "behind", snapshot, n, told)
    if snapshot is None and not n:
        told = f"{policy} waits: a decision is learned from when its reward window of {window_s:g} s closes"
        return Learning(policy, "waiting", None, 0, told)
    told = f"{policy} learns; " + (
        f"snapshot {snapshot} is out" if snapshot is not None else "the first snapshot is on its way"
    )
    return Learning(policy, "learning", snapshot, n, told)


def _learns(registry: Registry, policy: str) -> bool:
    try:
        return isinstance(registry.load(policy).policy, OnlineLearner)
    except NextofferError:  # an artefact that is gone does not learn either; decisions say so themselves
        return False
