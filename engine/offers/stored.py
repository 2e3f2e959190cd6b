"""Placements as they stand in the store, and as they ever were."""

from __future__ import annotations

import json

from sqlalchemy import Connection, select

from engine.offers.placement import Placement, placement_from_json
from engine.rewards.definition import RewardDefinition
from engine.store import tables
from engine.store.database import Database
from policies.errors import UnknownNameError


def all_placements(connection: Connection) -> dict[str, tuple[Placement, int]]:
    """Every placement and its revision, by id, in order."""
    rows = connection.execute(select(tables.placements).order_by(tables.placements.c.id)).all()
    return {row.id: (placement_from_json(json.loads(row.document)), int(row.revision)) for row in rows}


def find_placement(connection: Connection, placement_id: str) -> tuple[Placement, int] | None:
    """A placement and its revision; None where there is none."""
    table = tables.placements
    row = connection.execute(select(table).where(table.c.id == placement_id)).first()
    return None if row is None else (placement_from_json(json.loads(row.document)), int(row.revision))


def placement_in(database: Database, placement_id: str) -> tuple[Placement, int]:
    """A placement and its revision.

    Raises
    ------
    UnknownNameError
        If there is none.
    """
    with database.reading() as connection:
        found = find_placement(connection, placement_id)
        if found is None:
            raise UnknownNameError(
                "placement", placement_id, connection.execute(select(tables.placements.c.id)).scalars()
            )
    return found


def definition_of(database: Database, placement_id: str) -> RewardDefinition:
    """Reward definition of a placement as it is now.

    Raises
    ------
    UnknownNameError
        If there is no such placement.
    """
    return placement_in(database, placement_id)[0].reward


def every_placement_ever(database: Database) -> list[Placement]:
    """Every placement in every revision it ever had, in the order in which they were put."""
    table = tables.audit
    with database.reading() as connection:
        query = select(table.c.document).where(table.c.action == "put").order_by(table.c.id)
        return [placement_from_json(json.loads(text)) for text in connection.execute(query).scalars()]
