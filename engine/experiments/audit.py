"""Who changed what, when and why: appended by every change of configuration, never edited."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database, record_change
from engine.store.facts import from_us

MAX_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One change.

    Parameters
    ----------
    what
        Kind and id of the thing changed: ``experiment spring``, ``placement home_page``, ``all experiments``.
    document
        For experiments and switches: ``before`` and ``after`` (what differs) and ``reason``; else the new content.
    """

    id: int
    at: datetime
    actor: str
    action: str
    what: str
    document: dict[str, Any]

    @property
    def reason(self) -> str:
        """Why, where somebody said so."""
        return str(self.document.get("reason") or "")


def note_change(database: Database, *, change: Change, action: str, what: str) -> None:
    """Write down a change of something that lies beside the store, such as the file of keys."""
    with database.writing() as connection:
        record_change(connection, change, action=action, what=what, document={})


def read_audit(
    database: Database, *, what: str | None = None, action: str | None = None, limit: int | None = MAX_ROWS
) -> list[AuditRow]:
    """Changes, the newest first."""
    table = tables.audit
    query = select(table).order_by(table.c.id.desc())
    if what is not None:
        query = query.where(table.c.what == what)
    if action is not None:
        query = query.where(table.c.action == action)
    if limit is not None:
        query = query.limit(limit)
    with database.reading() as connection:
        rows = connection.execute(query).all()
    return [AuditRow(r.id, from_us(r.at_us), r.actor, r.action, r.what, json.loads(r.document)) for r in rows]
