"""How many decisions and rewards each placement has: counted once and kept, so that asking costs what has come since.

Counts below an offset are kept in the store; what has come since then is counted at each question, and added to what is kept
once it is many. Of two processes that add at once one has counted in vain, and nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass

from sqlalchemy import select, text, true

from engine.store import tables
from engine.store.database import Database
from engine.store.facts import DECISION
from policies.errors import StoreUnavailableError

# Facts that are counted anew at each question, at most: some milliseconds.
KEPT_EVERY = 20_000
_FIRST = 1

_DECIDED = (
    "SELECT placement, policy, count(*), min(ledger_offset), max(ledger_offset) FROM decisions "
    "WHERE ledger_offset >= :first AND ledger_offset < :end GROUP BY placement, policy"
)
# CROSS JOIN: SQLite, which knows no statistics, is to begin with the rewards of the stretch and not with the keys of all decisions.
_OF_A_DECISION = (
    "FROM rewards r CROSS JOIN fact_keys k CROSS JOIN decisions d "
    f"WHERE k.kind = {DECISION} AND k.id = r.decision AND d.ledger_offset = k.ledger_offset"
)
# A pair of a reward and its decision is counted in the stretch that has the later one: a reward may come first.
_REWARDED = (
    f"SELECT d.placement, d.policy, count(*), max(r.ledger_offset) {_OF_A_DECISION} "
    "AND r.ledger_offset >= :first AND r.ledger_offset < :end AND k.ledger_offset < :end GROUP BY d.placement, d.policy"
)
_REWARDED_BEFORE = (
    "SELECT d.placement, d.policy, count(*), max(r.ledger_offset) FROM decisions d CROSS JOIN rewards r "
    "WHERE d.ledger_offset >= :first AND d.ledger_offset < :end AND r.decision = d.id AND r.ledger_offset < :first "
    "GROUP BY d.placement, d.policy"
)
_REWARD = (
    "SELECT r.kind, r.value, r.at_us, d.id, d.ledger_offset, d.at_us, d.policy "
    f"{_OF_A_DECISION} AND r.ledger_offset = :offset"
)


@dataclass(frozen=True, slots=True)
class Tally:
    """What came of one policy at one placement.

    Attributes
    ----------
    first_offset, last_offset
        Offsets of its first and its newest decision; 0 where there is none.
    last_reward_offset
        Offset of the newest reward of one of them; 0 where there is none.
    """

    n_decisions: int = 0
    first_offset: int = 0
    last_offset: int = 0
    n_rewards: int = 0
    last_reward_offset: int = 0

    def followed_by(self, later: Tally) -> Tally:
        """Both together, where the other one counts facts that came after."""
        return Tally(
            self.n_decisions + later.n_decisions,
            self.first_offset or later.first_offset,
            max(self.last_offset, later.last_offset),
            self.n_rewards + later.n_rewards,
            max(self.last_reward_offset, later.last_reward_offset),
        )


_Tallies = dict[tuple[str, str], Tally]


def tally_up(database: Database, placement: str) -> Mapping[str, Tally]:
    """Count what has come since the last time; return the counts of a placement by policy, of everything in the ledger now."""
    head = database.head()
    first, kept = _kept(database)
    since = _counted(database, first=first, end=head)
    if head - first >= KEPT_EVERY:
        with suppress(StoreUnavailableError):  # what cannot be written now is counted again next time
            _keep(database, since, first=first, end=head)
    none = Tally()
    both = {key: kept.get(key, none).followed_by(since.get(key, none)) for key in kept | since}
    return {policy: tally for (place, policy), tally in both.items() if place == placement}


@dataclass(frozen=True, slots=True)
class NewestReward:
    """The newest reward that joined a decision of a placement, and that decision."""

    kind: str
    value: float
    at_us: int
    decision: str
    decision_offset: int
    decided_us: int
    policy: str


def newest_reward(database: Database, tallies: Mapping[str, Tally]) -> NewestReward | None:
    """Newest reward of a placement by its counts; None where there is none."""
    offset = max((t.last_reward_offset for t in tallies.values()), default=0)
    rows = database.rows(_REWARD, offset=offset) if offset else []
    return NewestReward(*rows[0]) if rows else None


def _kept(database: Database) -> tuple[int, _Tallies]:
    """First offset that is not counted yet, and the counts below it, of one moment."""
    table, cursor = tables.placement_tallies, tables.tally_cursor
    query = select(cursor.c.next_offset, table).select_from(cursor.outerjoin(table, true()))
    with database.reading() as connection:
        rows = connection.execute(query).all()
    counts = {
        (r.placement, r.policy): Tally(r.n_decisions, r.first_offset, r.last_offset, r.n_rewards, r.last_reward_offset)
        for r in rows
        if r.placement is not None
    }
    return (rows[0].next_offset if rows else _FIRST), counts


def _counted(database: Database, *, first: int, end: int) -> _Tallies:
    span = {"first": first, "end": end}
    found: _Tallies = {}
    for placement, policy, n, first_offset, last_offset in database.rows(_DECIDED, **span):
        found[placement, policy] = Tally(int(n), int(first_offset), int(last_offset))
    for sql in (_REWARDED, _REWARDED_BEFORE):
        for placement, policy, n, offset in database.rows(sql, **span):
            counted = Tally(n_rewards=int(n), last_reward_offset=int(offset))
            found[placement, policy] = found.get((placement, policy), Tally()).followed_by(counted)
    return found


_BEGUN = text("INSERT INTO tally_cursor (id, next_offset) VALUES (1, :first) ON CONFLICT (id) DO NOTHING")
_MOVED = text("UPDATE tally_cursor SET next_offset = :end WHERE id = 1 AND next_offset = :first")
_ADDED = text(
    "INSERT INTO placement_tallies (placement, policy, n_decisions, first_offset, last_offset, n_rewards, last_reward_offset) "
    "VALUES (:placement, :policy, :n_decisions, :first_offset, :last_offset, :n_rewards, :last_reward_offset) "
    "ON CONFLICT (placement, policy) DO UPDATE SET "
    "n_decisions = placement_tallies.n_decisions + excluded.n_decisions, "
    "first_offset = CASE WHEN placement_tallies.first_offset > 0 THEN placement_tallies.first_offset ELSE excluded.first_offset END, "
    "last_offset = CASE WHEN excluded.last_offset > 0 THEN excluded.last_offset ELSE placement_tallies.last_offset END, "
    "n_rewards = placement_tallies.n_rewards + excluded.n_rewards, "
    "last_reward_offset = CASE WHEN excluded.last_reward_offset > placement_tallies.last_reward_offset "
    "THEN excluded.last_reward_offset ELSE placement_tallies.last_reward_offset END"
)


def _keep(database: Database, since: _Tallies, *, first: int, end: int) -> None:
    """Add a stretch to what is kept, unless another process has done so meanwhile."""
    rows = [{"placement": place, "policy": policy, **asdict(tally)} for (place, policy), tally in since.items()]
    with database.writing() as connection:
        connection.execute(_BEGUN, {"first": _FIRST})
        if connection.execute(_MOVED, {"first": first, "end": end}).rowcount == 1 and rows:
            connection.execute(_ADDED, rows)
