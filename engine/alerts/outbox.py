"""Messages between those who have news and the channels: each is written once, and sent until each channel has taken it.

A message is claimed in the store before it is sent and marked afterwards. Whoever dies in between leaves a claim that runs out, and
another process sends it again: every channel gets every message at least once, twice only after a crash, and knows it by its id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from engine.alerts.message import Channel, Message, News, Text
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us, to_us
from policies.errors import ChannelError

# A claim has to outlast the slowest sending; the pause grows with each attempt.
CLAIM = timedelta(minutes=2)
LONGEST_PAUSE = timedelta(hours=1)
# What could not be delivered for so long is no news any more.
KEPT_TRYING = timedelta(days=3)
_ROUND = 50
_log = logging.getLogger("nextoffer.alerts")


def tell(database: Database, news: News, *, at: datetime) -> bool:
    """Write news down to be sent; False where the topic was last told in this state, here or by another process."""
    table = tables.alerts
    last = select(table.c.number, table.c.state).where(table.c.topic == news.topic).order_by(table.c.number.desc())
    document = {"texts": {k: asdict(t) for k, t in news.texts.items()}, "document": dict(news.document)}
    try:
        with database.writing() as connection:
            before = connection.execute(last.limit(1)).first()
            if news.is_all_clear and before is None:
                return False
            if before is not None and before.state == news.state:
                return False
            connection.execute(
                insert(table).values(
                    topic=news.topic,
                    number=1 if before is None else before.number + 1,
                    state=news.state,
                    kind=news.kind,
                    at_us=to_us(at),
                    document=json.dumps(document, default=str),
                )
            )
    except IntegrityError:
        return False  # another process wrote the next number of the topic in this moment
    return True


def last_state(database: Database, topic: str) -> str | None:
    """State in which a topic was told last; None where nothing was told of it."""
    table = tables.alerts
    query = select(table.c.state).where(table.c.topic == topic).order_by(table.c.number.desc()).limit(1)
    with database.reading() as connection:
        found: str | None = connection.execute(query).scalar()
    return found


def deliver(database: Database, channels: Sequence[Channel], *, at: datetime) -> int:
    """Send what is due, each channel by itself, so that none waits for another; returns how many were taken."""
    if not channels:
        return 0
    with ThreadPoolExecutor(len(channels), thread_name_prefix="alerts") as pool:
        return sum(pool.map(lambda c: _deliver_one(database, c, at=at), channels))


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one message stands with one channel."""

    channel: str
    attempts: int
    delivered_at: datetime | None
    error: str


def newest(database: Database, *, limit: int = 20) -> list[tuple[Message, tuple[Delivery, ...]]]:
    """Messages, the newest first, and how far each got."""
    with database.reading() as connection:
        messages = [_message(r) for r in connection.execute(_NEWEST.limit(limit))]
        table = tables.alert_deliveries
        rows = connection.execute(select(table).where(table.c.alert.in_([m.id for m in messages]))).all()
    found: dict[int, list[Delivery]] = {m.id: [] for m in messages}
    for r in rows:
        at = None if r.delivered_us is None else from_us(r.delivered_us)
        found[r.alert].append(Delivery(r.channel, r.attempts, at, r.error))
    return [(m, tuple(sorted(found[m.id], key=lambda d: d.channel))) for m in messages]


_NEWEST = select(tables.alerts).order_by(tables.alerts.c.id.desc())


def _deliver_one(database: Database, channel: Channel, *, at: datetime) -> int:
    n = 0
    for message, attempts in _due(database, channel.name, at=at):
        if not _claim(database, channel.name, message.id, attempts, at=at):
            continue
        try:
            channel.send(message)
        except ChannelError as error:
            _log.warning("message %d could not be sent by %s: %s", message.id, channel.name, error)
            _mark(database, channel.name, message.id, error=str(error))
            break  # what ails the channel ails the next message too
        except Exception as error:  # a fault of one channel must not keep news from the others
            _log.exception("message %d: channel %s failed", message.id, channel.name)
            _mark(database, channel.name, message.id, error=type(error).__name__)
            break
        _mark(database, channel.name, message.id, delivered_us=to_us(at))
        n += 1
    return n


def _due(database: Database, channel: str, *, at: datetime) -> list[tuple[Message, int]]:
    alerts, deliveries = tables.alerts, tables.alert_deliveries
    mine = and_(deliveries.c.alert == alerts.c.id, deliveries.c.channel == channel)
    query = (
        select(alerts, func.coalesce(deliveries.c.attempts, 0).label("attempts"))
        .join(deliveries, mine, isouter=True)
        .where(
            alerts.c.at_us > to_us(at - KEPT_TRYING),
            deliveries.c.delivered_us.is_(None),
            or_(deliveries.c.next_us.is_(None), deliveries.c.next_us <= to_us(at)),
        )
        .order_by(alerts.c.id)
        .limit(_ROUND)
    )
    with database.reading() as connection:
        return [(_message(r), int(r.attempts)) for r in connection.execute(query)]


def _claim(database: Database, channel: str, alert: int, attempts: int, *, at: datetime) -> bool:
    """Whether this process is the one that sends now: the number of attempts has to be the one that was read."""
    table = tables.alert_deliveries
    values = {"attempts": attempts + 1, "next_us": to_us(at + min(CLAIM * 2 ** min(attempts, 10), LONGEST_PAUSE))}
    try:
        with database.writing() as connection:
            if attempts == 0:
                connection.execute(insert(table).values(alert=alert, channel=channel, error="", **values))
                return True
            mine = (table.c.alert == alert, table.c.channel == channel, table.c.attempts == attempts)
            return connection.execute(update(table).where(*mine).values(**values)).rowcount == 1
    except IntegrityError:
        return False


def _mark(database: Database, channel: str, alert: int, *, delivered_us: int | None = None, error: str = "") -> None:
    table = tables.alert_deliveries
    with database.writing() as connection:
        connection.execute(
            update(table)
            .where(table.c.alert == alert, table.c.channel == channel)
            .values(delivered_us=delivered_us, error=error[:500])
        )


def _message(row: Row[Any]) -> Message:
    found = json.loads(row.document)
    texts = {language: Text(**text) for language, text in found["texts"].items()}
    return Message(row.id, row.topic, row.kind, from_us(row.at_us), texts, found["document"])
