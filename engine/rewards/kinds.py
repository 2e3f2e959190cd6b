"""Which kinds of facts a store has been told of lately: what metrics and rewards can be made of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select

from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us

NEWEST = 200_000


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact.

    Parameters
    ----------
    is_outcome
        Told of a subject (billing), not of a decision.
    n
        How many there are among the newest facts.
    """

    name: str
    is_outcome: bool
    n: int
    last_at: datetime
    mean: float


def kinds_of(database: Database, *, newest: int = NEWEST) -> list[Kind]:
    """Kinds among the newest facts of the ledger, the most frequent first."""
    found: list[Kind] = []
    since = database.head() - newest
    with database.reading() as connection:
        for table, is_outcome in ((tables.outcomes, True), (tables.rewards, False)):
            c = table.c
            rows = connection.execute(
                select(c.kind, func.count(), func.max(c.at_us), func.avg(c.value))
                .where(c.ledger_offset > since)
                .group_by(c.kind)
            ).all()
            found += [Kind(str(r[0]), is_outcome, int(r[1]), from_us(int(r[2])), float(r[3])) for r in rows]
    return sorted(found, key=lambda k: (-k.n, k.name))
