"""Who got what and why: the decisions of one visitor, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import literal_column, select

from engine.rewards.seen import IS_SEEN
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us
from engine.subjects.links import people_of


@dataclass(frozen=True, slots=True)
class Shown:
    """One decision, as far as a person asks about it."""

    id: str
    at: datetime
    subject: str
    placement: str
    offer: str
    propensity: float
    policy: str
    is_seen: bool
    experiment: str | None
    phase: int | None
    variant: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """One outcome of the person."""

    at: datetime
    subject: str
    kind: str
    value: float


def history_of(database: Database, subject: str, *, limit: int = 50) -> tuple[tuple[str, ...], list[Shown], list[Told]]:
    """All ids of a person, their newest decisions and outcomes."""
    decisions, outcomes = tables.decisions.alias("d"), tables.outcomes
    with database.reading() as connection:
        ids = sorted(people_of(connection, [subject]))
        shown = connection.execute(
            select(
                decisions.c.id, decisions.c.at_us, decisions.c.subject, decisions.c.placement, decisions.c.offer,
                decisions.c.propensity, decisions.c.policy, literal_column(IS_SEEN), decisions.c.experiment,
                decisions.c.phase, decisions.c.variant,
            ).where(decisions.c.subject.in_(ids)).order_by(decisions.c.at_us.desc()).limit(limit)
        ).all()  # fmt: skip
        told = connection.execute(
            select(outcomes.c.at_us, outcomes.c.subject, outcomes.c.kind, outcomes.c.value)
            .where(outcomes.c.subject.in_(ids))
            .order_by(outcomes.c.at_us.desc())
            .limit(limit)
        ).all()
    return (
        tuple(ids),
        [Shown(r[0], from_us(r[1]), r[2], r[3], r[4], r[5], r[6], bool(r[7]), r[8], r[9], r[10]) for r in shown],
        [Told(from_us(r.at_us), *r[1:]) for r in told],
    )


def last_context(database: Database, ids: Sequence[str], placement: str) -> dict[str, Any]:
    """What was known of a person at its newest decision, at this place where it has been there; empty for somebody new."""
    table = tables.decisions
    query = (
        select(table.c.body)
        .where(table.c.subject.in_(ids))
        .order_by((table.c.placement == placement).desc(), table.c.at_us.desc())
        .limit(1)
    )
    with database.reading() as connection:
        body = connection.execute(query).scalar()
    return {} if body is None else dict(orjson.loads(body)["x"])


def last_visitors(database: Database, *, limit: int = 10) -> list[str]:
    """Subjects of the newest decisions."""
    table = tables.decisions
    with database.reading() as connection:
        rows = connection.execute(select(table.c.subject).order_by(table.c.ledger_offset.desc()).limit(200)).scalars()
    return list(dict.fromkeys(rows))[:limit]


def features_seen(database: Database, placement: str, *, limit: int = 50) -> dict[str, str]:
    """Features of a placement's newest decisions, each with a value that it had; what rules and segments can speak of."""
    table = tables.decisions
    query = (
        select(table.c.body).where(table.c.placement == placement).order_by(table.c.ledger_offset.desc()).limit(limit)
    )
    with database.reading() as connection:
        bodies = [orjson.loads(b) for b in connection.execute(query).scalars()]
    found: dict[str, str] = {}
    for body in bodies:
        for name, value in body["x"].items():
            if value is not None:
                found.setdefault(name, f"{value:g}" if isinstance(value, float) else str(value))
    return dict(sorted(found.items()))
