"""What time it is for an experiment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import func, select

from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us


def _utc_now() -> datetime:
    return datetime.now(UTC)


def clock_of(
    database: Database, *, is_sandbox: bool, otherwise: Callable[[], datetime] = _utc_now
) -> Callable[[], datetime]:
    """What time it is for experiments: in a sandbox, which makes up its time, that of the newest fact.

    Parameters
    ----------
    otherwise
        Where time is not made up, or nothing has happened yet.
    """

    def now() -> datetime:
        return (latest_moment(database) if is_sandbox else None) or otherwise()

    return now


def latest_moment(database: Database) -> datetime | None:
    """Time of the newest decision or outcome; a sandbox whose time is injected is read as of then."""
    with database.reading() as connection:
        times = [connection.execute(select(func.max(t.c.at_us))).scalar() for t in (tables.decisions, tables.outcomes)]
    known = [t for t in times if t is not None]
    return from_us(max(known)) if known else None
