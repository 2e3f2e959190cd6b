"""Switches over all experiments of a store: pause everything, the holdout, whether a start needs approval."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, select, update

from engine.store import tables
from engine.store.changes import Change
from engine.store.database import Database, record_change
from policies.allocation import WEIGHT_TOTAL_BP
from policies.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Controls:
    """What holds for every experiment.

    Parameters
    ----------
    is_paused
        While set, nobody is allocated: every placement answers with its own policy, and no exposure is counted.
    holdout_bp
        Basis points of all subjects that no experiment ever sees.
    needs_approval
        Whether somebody has to approve a draft before it starts.
    """

    is_paused: bool = False
    holdout_bp: int = 0
    needs_approval: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.holdout_bp <= WEIGHT_TOTAL_BP:
            raise InvalidInputError(f"the holdout is {self.holdout_bp}; expected 0 to {WEIGHT_TOTAL_BP} basis points")


def read_controls(connection: Connection) -> Controls:
    """Switches as they stand."""
    table = tables.controls
    row = connection.execute(select(table.c.is_paused, table.c.holdout_bp, table.c.needs_approval)).one()
    return Controls(bool(row.is_paused), int(row.holdout_bp), bool(row.needs_approval))


def controls_of(database: Database) -> Controls:
    """Switches of a store."""
    with database.reading() as connection:
        return read_controls(connection)


def set_controls(database: Database, *, change: Change, **changes: Any) -> Controls:
    """Change some switches by name; the change and its reason are in the audit log."""
    with database.writing() as connection:
        # All switches are written together: whoever changes another one at the same time waits, so that no pause is lost.
        connection.execute(select(tables.controls.c.id).with_for_update())
        before = read_controls(connection)
        after = replace(before, **changes)
        connection.execute(
            update(tables.controls).values(
                is_paused=after.is_paused, holdout_bp=after.holdout_bp, needs_approval=after.needs_approval
            )
        )
        record_change(
            connection,
            change,
            action="pause" if after.is_paused and not before.is_paused else "controls",
            what="all experiments",
            document={"before": _plain(before), "after": _plain(after)},
        )
    return after


def _plain(controls: Controls) -> dict[str, Any]:
    return {
        "is_paused": controls.is_paused,
        "holdout_bp": controls.holdout_bp,
        "needs_approval": controls.needs_approval,
    }
