"""What time it is for an experiment."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import func, select

from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us


def latest_moment(database: Database) -> datetime | None:
    """Time of the newest decision or outcome; a sandbox whose time is injected is read as of then."""
    with database.reading() as connection:
        times = [connection.execute(select(func.max(t.c.at_us))).scalar() for t in (tables.decisions, tables.outcomes)]
    known = [t for t in times if t is not None]
    return from_us(max(known)) if known else None
