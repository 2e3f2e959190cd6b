"""Decisions of a page whose subject is the page itself, as doors for clients without ids of visitors make them."""

from __future__ import annotations

from engine.decisions.kept import SLOT_MARK
from engine.store.database import Database


def slot_decisions(database: Database, page: str) -> list[str]:
    """Ids of the decisions of a page that is its own subject, one for each slot."""
    found = database.rows("SELECT id FROM decisions WHERE subject = :page", page=page)
    return [str(id_) for (id_,) in found if str(id_).startswith(f"{page}{SLOT_MARK}")]
