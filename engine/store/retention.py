"""How long raw facts stay: old events and the bodies of old decisions move to the cold path, in small steps.

What reports and idempotency need stays in the store: keys, rewards, outcomes, assignments, and of a decision which offer was
shown with which probability by which policy and variant. Every step first writes a file and then takes its rows out in
one transaction, so that a crash in between loses nothing and the next run goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import Connection, Table, delete, insert, select, text, update

from engine.store import tables
from engine.store.cold import write_cold
from engine.store.database import Database
from engine.store.facts import to_us
from engine.store.partitions import drop_emptied_partitions
from policies.errors import InvalidInputError

What = Literal["events", "decisions"]
STEP = 10_000
_DAY_S = 86_400.0
# Ticks of facts that have gone can be learned by nobody again; the last published one says where its heir begins.
_OLD_TICKS = (
    "DELETE FROM learner_ticks WHERE end_offset <= :below AND number < (SELECT coalesce(max(newer.number), 0) "
    "FROM learner_ticks newer WHERE newer.policy = learner_ticks.policy AND newer.is_published AND newer.end_offset <= :below)"
)


@dataclass(frozen=True, slots=True)
class Moved:
    """What a run has moved to the cold path.

    Attributes
    ----------
    below_offset
        All facts of the kind below it are there now.
    n_partitions
        Partitions that were dropped whole, on PostgreSQL.
    """

    what: What
    n_rows: int
    n_files: int
    below_offset: int
    n_partitions: int = 0


def oldest_offset(database: Database, what: What = "decisions") -> int:
    """Offset below which facts of a kind have been moved to the cold path; 1 where none have."""
    rows = database.rows("SELECT below_offset FROM retention WHERE what = :what", what=what)
    return int(rows[0][0]) if rows else 1


def retain(
    database: Database,
    *,
    what: What,
    days: float,
    now: datetime,
    cold: Path,
    progress: Callable[[int], None] = lambda _: None,
) -> Moved:
    """Move facts that are older than some days to the cold path.

    Decisions stop at the first one that a learner has not learned from yet.

    Parameters
    ----------
    progress
        Told how many rows have been moved so far.

    Raises
    ------
    InvalidInputError
        If a reward window of some placement is longer than that.
    StoreUnavailableError
        If the cold path cannot be written; what was not written is still in the store.
    """
    if not days > 0:
        raise InvalidInputError(f"days is {days}; expected above 0")
    if what == "decisions":
        _check_windows(database, days)
    table = tables.events if what == "events" else tables.decisions
    start = oldest_offset(database, what)
    below = _below(database, table, start, before_us=to_us(now - timedelta(days=days)))
    if what == "decisions":
        below = min([below, *_not_yet_learned(database, below)])
    n_rows = n_files = 0
    at = start
    while at < below:
        with database.reading() as connection:
            wanted = select(table).where(table.c.ledger_offset >= at, table.c.ledger_offset < below)
            rows = connection.execute(wanted.order_by(table.c.ledger_offset).limit(STEP)).all()
        end = below if len(rows) < STEP else int(rows[-1].ledger_offset) + 1
        if rows:
            write_cold(cold, what, rows)
            n_files += 1
        with database.writing() as connection:
            mine = (table.c.ledger_offset >= at, table.c.ledger_offset < end)
            if what == "events":
                connection.execute(delete(table).where(*mine))
            else:
                connection.execute(update(table).where(*mine).values(body=b""))
                connection.execute(text(_OLD_TICKS), {"below": end})
            _remember(connection, what, end, to_us(now))
        n_rows += len(rows)
        at = end
        progress(n_rows)
    n_partitions = drop_emptied_partitions(database, table.name, below_offset=below) if what == "events" else 0
    return Moved(what, n_rows, n_files, max(below, start), n_partitions)


def _remember(connection: Connection, what: str, below_offset: int, at_us: int) -> None:
    table = tables.retention
    connection.execute(delete(table).where(table.c.what == what))
    connection.execute(insert(table).values(what=what, below_offset=below_offset, at_us=at_us))


def _below(database: Database, table: Table, start: int, *, before_us: int) -> int:
    """Offset of the first fact that is not old enough."""
    with database.reading() as connection:
        found = connection.execute(
            select(table.c.ledger_offset)
            .where(table.c.ledger_offset >= start, table.c.at_us >= before_us)
            .order_by(table.c.ledger_offset)
            .limit(1)
        ).scalar()
    return database.head() if found is None else int(found)


def _check_windows(database: Database, days: float) -> None:
    for placement, document in database.rows("SELECT id, document FROM placements"):
        window_s = float(json.loads(document).get("reward", {}).get("window_s", 30 * _DAY_S))
        if window_s > days * _DAY_S:
            raise InvalidInputError(
                f"placement {placement!r} waits {window_s / _DAY_S:g} days for rewards, and bodies of decisions should go after "
                f"{days:g}: they would be gone before they are learned from; keep at least {window_s / _DAY_S + 1:g} days"
            )


def _not_yet_learned(database: Database, below: int) -> list[int]:
    """For each version with a learner, its first decision below an offset that no tick has taken in."""
    out: list[int] = []
    # A version that decides nowhere any more has no learner that could still come: it keeps nothing back.
    live = "".join(
        str(row[0])
        for row in database.rows(
            "SELECT document FROM placements UNION ALL SELECT p.document FROM phases p JOIN experiments e "
            "ON e.id = p.experiment WHERE e.state = 'running'"
        )
    )
    learned = database.rows("SELECT policy, max(end_offset) FROM learner_ticks GROUP BY policy")
    for policy, end_offset in learned:
        if policy not in live:
            continue
        rows = database.rows(
            "SELECT min(ledger_offset) FROM decisions WHERE ledger_offset >= :first AND ledger_offset < :below "
            "AND policy || '' = :policy",
            first=end_offset,
            below=below,
            policy=policy,
        )
        if rows[0][0] is not None:
            out.append(int(rows[0][0]))
    return out
