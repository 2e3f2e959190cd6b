"""Decisions read back from the log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import literal_column, select

from engine.rewards.seen import STANDS
from engine.store import facts, tables
from engine.store.database import Database
from policies.errors import UnknownDecisionError
from policies.records import Decision


def stored_decision(database: Database, decision_id: str) -> Decision:
    """Read a decision as it was logged; ``activated`` also where it was activated later, not ``recorded`` where it was taken back.

    Raises
    ------
    UnknownDecisionError
        If it is not in the log.
    """
    keys, table, activations = tables.fact_keys, tables.decisions.alias("d"), tables.activations
    with database.reading() as connection:
        offset = connection.execute(
            select(keys.c.ledger_offset).where(keys.c.kind == facts.DECISION, keys.c.id == decision_id)
        ).scalar()
        if offset is None:
            raise UnknownDecisionError(decision_id)
        row = connection.execute(
            select(table, literal_column(STANDS).label("stands")).where(table.c.ledger_offset == offset)
        ).first()
        if row is None:
            raise UnknownDecisionError(decision_id)
        decision = facts.decision_from_values(row[1:-1])
        if not row.stands:
            decision = decision._replace(recorded=False, activated=False)
        elif not decision.activated:
            seen = connection.execute(select(activations.c.at_us).where(activations.c.decision == decision_id)).first()
            decision = decision._replace(activated=seen is not None)
    return decision


def placement_of(database: Database, decision_id: str) -> str | None:
    """Placement of a decision in the log; None if it is not there."""
    rows = database.rows(
        "SELECT d.placement FROM fact_keys k JOIN decisions d ON d.ledger_offset = k.ledger_offset "
        f"WHERE k.kind = {facts.DECISION} AND k.id = :id",
        id=decision_id,
    )
    return str(rows[0][0]) if rows else None


def stored_payload(database: Database, decision: Decision) -> Mapping[str, Any]:
    """What the site showed for the chosen offer when its set of offers was first decided on; empty where that is not known."""
    table = tables.offer_sets
    with database.reading() as connection:
        text = connection.execute(
            select(table.c.document).where(table.c.revision == decision.offer_set_revision)
        ).scalar()
    offers = [] if text is None else json.loads(text)
    found: Mapping[str, Any] = next((o["payload"] for o in offers if o["id"] == decision.offer), {})
    return found
