"""Is it learning? What has become of the last reward, and where each policy of a placement stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from engine.decisions.tallies import Tally, newest_reward
from engine.learner.ticks import learned_in
from engine.registry.versions import Registry
from engine.store.database import Database
from engine.store.facts import DECISION, from_us, to_us
from policies.protocols import OnlineLearner

# A learner ticks several times a second: what is closed for longer and not learned from waits for one that does not run.
BEHIND_AFTER_S = 30.0
# So many are counted; of more it is said that there are at least as many.
MOST_WAITING = 20_000

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
        Decisions whose window has closed and that are not learned from yet, among the next ``MOST_WAITING``.
    """

    policy: str
    state: LearningState
    snapshot: int | None
    n_waiting: int
    message: str


def last_reward(
    database: Database, registry: Registry, tallies: Mapping[str, Tally], *, window_s: float
) -> LastReward | None:
    """Newest reward of a placement by its counts, and where learning stands with it."""
    found = newest_reward(database, tallies)
    if found is None:
        return None
    number = learned_in(database, found.policy, found.decision_offset)
    learns = number is not None or _learns(registry, found.policy)
    closes = from_us(found.decided_us) + timedelta(seconds=window_s)
    is_late = from_us(found.at_us) > closes
    return LastReward(found.decision, found.kind, found.value, number, closes if learns else None, is_late)


def learned_from(database: Database, decision_id: str) -> int | None:
    """Number of the first published snapshot that has learned from a decision; None: not yet."""
    rows = database.rows(
        "SELECT d.policy, d.ledger_offset FROM fact_keys k JOIN decisions d ON d.ledger_offset = k.ledger_offset "
        f"WHERE k.kind = {DECISION} AND k.id = :id",
        id=decision_id,
    )
    return learned_in(database, rows[0][0], rows[0][1]) if rows else None


def learning_of(
    database: Database, registry: Registry, policy: str, placement: str, *, tally: Tally, window_s: float, now: datetime
) -> Learning:
    """Where a policy stands at a placement, where ``tally`` counts it."""
    if not _learns(registry, policy):
        return Learning(policy, "fixed", None, 0, f"{policy} does not learn online")
    closed_us = to_us(now) - round(window_s * 1e6)
    ((end, snapshot),) = database.rows(
        "SELECT coalesce(max(end_offset), 0), max(CASE WHEN is_published THEN number END) FROM learner_ticks WHERE policy = :policy",
        policy=policy,
    )
    # By position, so that what has been learned from is not read: a decision that waits comes before those whose window is open.
    plain = "+" if database.is_sqlite else ""
    ((n, oldest_us),) = database.rows(
        "SELECT count(*), min(at_us) FROM (SELECT at_us FROM decisions WHERE ledger_offset >= :first AND ledger_offset <= :last "
        f"AND {plain}placement = :placement AND policy = :policy ORDER BY ledger_offset LIMIT {MOST_WAITING}) AS next "
        "WHERE at_us <= :closed",
        placement=placement,
        closed=closed_us,
        first=max(end, tally.first_offset),
        last=tally.last_offset,
        policy=policy,
    )
    if oldest_us is not None and oldest_us < closed_us - BEHIND_AFTER_S * 1e6:
        at_least = "at least " if n == MOST_WAITING else ""
        told = f"{policy} has {at_least}{n} decisions to learn from and no learner works on it: run 'nextoffer learn {placement}'"
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
    except Exception:  # an artefact that is gone or cannot be loaded does not learn either; decisions say so themselves
        return False
