"""Alarms over time: one episode from when an alarm rings until it has been quiet for a while, however often it is looked at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Update, func, select, text, update

from engine.monitoring.records import HealthReport
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us, to_us

# Of two monitors that open an alarm at once the second one waits, and then sees the episode of the first.
_OPENED = text(
    "INSERT INTO alarm_episodes (placement, alarm, began_at_us, seen_at_us, ended_at_us, sentence) "
    "VALUES (:placement, :alarm, :now, :now, NULL, :sentence) ON CONFLICT (placement, alarm) WHERE ended_at_us IS NULL "
    "DO UPDATE SET seen_at_us = CASE WHEN excluded.seen_at_us > alarm_episodes.seen_at_us "
    "THEN excluded.seen_at_us ELSE alarm_episodes.seen_at_us END "
    "RETURNING began_at_us, seen_at_us, sentence"
)


@dataclass(frozen=True, slots=True)
class Episode:
    """One stretch in which an alarm rang.

    Parameters
    ----------
    seen_at
        When it was last found to ring.
    ended_at
        When it was found to have been quiet for long enough; None while it lasts.
    sentence
        What was found, at last.
    """

    placement: str
    alarm: str
    began_at: datetime
    seen_at: datetime
    ended_at: datetime | None
    sentence: str


def follow(database: Database, report: HealthReport, *, quiet: timedelta) -> tuple[list[Episode], list[Episode]]:
    """Take a report into the episodes of its placement; return those that last, and those that ended with it.

    An alarm that another one explains meanwhile keeps its episode: what it told of is not over.
    """
    with database.writing() as connection:
        before = {e.alarm: e for e in _open(connection, report.placement)}
        lasting, ended = [], []
        for check in report.checks:
            known = before.get(check.alarm)
            if check.state == "ringing" or (check.state == "explained" and known is not None):
                lasting.append(_seen(connection, report, check.alarm, check.sentence, known))
            elif known is not None and report.as_of - known.seen_at >= quiet:
                ended.append(_end(connection, known, report.as_of))
            elif known is not None:
                lasting.append(known)
    return lasting, ended


def lately_ended(database: Database, placement: str, *, since: datetime) -> list[Episode]:
    """Episodes that ended after a moment and are the newest of their alarm, in the order in which they ended."""
    table = tables.alarm_episodes
    newest = select(func.max(table.c.began_at_us).label("began_at_us"), table.c.alarm)
    last = newest.where(table.c.placement == placement).group_by(table.c.alarm).subquery()
    query = (
        select(table)
        .join(last, (last.c.alarm == table.c.alarm) & (last.c.began_at_us == table.c.began_at_us))
        .where(table.c.placement == placement, table.c.ended_at_us > to_us(since))
        .order_by(table.c.ended_at_us, table.c.alarm)
    )
    with database.reading() as connection:
        return [_episode(r) for r in connection.execute(query)]


def open_episodes(database: Database, placement: str | None = None) -> list[Episode]:
    """Episodes that last, of one placement or of all, in the order in which they began."""
    with database.reading() as connection:
        return _open(connection, placement)


def newest_episodes(database: Database, *, limit: int = 50) -> list[Episode]:
    """Episodes, the newest first."""
    table = tables.alarm_episodes
    with database.reading() as connection:
        rows = connection.execute(select(table).order_by(table.c.began_at_us.desc(), table.c.alarm).limit(limit))
        return [_episode(r) for r in rows]


def _open(connection: Connection, placement: str | None) -> list[Episode]:
    table = tables.alarm_episodes
    query = select(table).where(table.c.ended_at_us.is_(None)).order_by(table.c.began_at_us, table.c.alarm)
    if placement is not None:
        query = query.where(table.c.placement == placement)
    return [_episode(r) for r in connection.execute(query)]


def _seen(connection: Connection, report: HealthReport, alarm: str, sentence: str, known: Episode | None) -> Episode:
    now_us = to_us(report.as_of)
    if known is None:
        opened = {"placement": report.placement, "alarm": alarm, "now": now_us, "sentence": sentence}
        row = connection.execute(_OPENED, opened).one()
        return Episode(report.placement, alarm, from_us(row.began_at_us), from_us(row.seen_at_us), None, row.sentence)
    connection.execute(_of(known).values(seen_at_us=now_us, sentence=sentence))
    return Episode(known.placement, alarm, known.began_at, report.as_of, None, sentence)


def _end(connection: Connection, known: Episode, at: datetime) -> Episode:
    connection.execute(_of(known).values(ended_at_us=to_us(at)))
    return Episode(known.placement, known.alarm, known.began_at, known.seen_at, at, known.sentence)


def _of(episode: Episode) -> Update:
    table = tables.alarm_episodes
    return update(table).where(
        table.c.placement == episode.placement,
        table.c.alarm == episode.alarm,
        table.c.began_at_us == to_us(episode.began_at),
    )


def _episode(row: Row[Any]) -> Episode:
    return Episode(
        row.placement,
        row.alarm,
        from_us(row.began_at_us),
        from_us(row.seen_at_us),
        None if row.ended_at_us is None else from_us(row.ended_at_us),
        row.sentence,
    )
