"""Where a policy version stands at a placement: candidate, shadow, canary, live, retired; each move with who, when and why.

What *serves* is the placement's own document and its experiments; this is the record beside them that says how a version came
there. ``engine.gate.promotion`` changes both, in an order from which ``reconcile`` can tell what is so after a crash.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, insert, select, update

from engine.store import tables
from engine.store.changes import MAX_REASON, Change
from engine.store.database import Database, record_change
from engine.store.facts import check_text, from_us, to_us
from policies.errors import ConflictError, StateError, UnknownNameError

State = Literal["candidate", "shadow", "canary", "live", "retired"]
# Retired comes back only as live (a rollback) or as a candidate (judged anew).
MOVES: dict[State, tuple[State, ...]] = {
    "candidate": ("shadow", "live", "retired"),
    "shadow": ("canary", "live", "retired"),
    "canary": ("live", "retired"),
    "live": ("retired",),
    "retired": ("candidate", "live"),
}
# Moves that leave the gate out; only a person who says so makes them.
PAST_THE_GATE = (("candidate", "live"), ("shadow", "live"))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one version stands at one placement.

    Parameters
    ----------
    policy
        ``name@version``.
    verdict
        Id of the gate's verdict it rests on.
    experiment
        Its canary.
    previous
        What was live before it, for a rollback.
    reason
        Of the last move.
    """

    placement: str
    policy: str
    state: State
    changed_at: datetime
    verdict: str | None = None
    experiment: str | None = None
    previous: str | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "placement": self.placement,
            "policy": self.policy,
            "state": self.state,
            "changed_at": self.changed_at.isoformat(),
            "verdict": self.verdict,
            "experiment": self.experiment,
            "previous": self.previous,
            "reason": self.reason,
        }


class States:
    """Standings of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self, *, placement: str | None = None, state: State | None = None) -> list[Standing]:
        """Standings, the last changed first."""
        table = tables.promotions
        query = select(table).order_by(table.c.changed_at_us.desc(), table.c.policy)
        if placement is not None:
            query = query.where(table.c.placement == placement)
        if state is not None:
            query = query.where(table.c.state == state)
        with self._database.reading() as connection:
            return [_standing(row) for row in connection.execute(query)]

    def find(self, placement: str, policy: str) -> Standing | None:
        """Standing of a version at a placement; None where it never stood there."""
        with self._database.reading() as connection:
            return _find(connection, placement, policy)

    def get(self, placement: str, policy: str) -> Standing:
        """The same where it has to be there.

        Raises
        ------
        UnknownNameError
            If the version never stood at the placement.
        """
        found = self.find(placement, policy)
        if found is None:
            known = [s.policy for s in self.all(placement=placement)]
            raise UnknownNameError(f"policy at placement {placement!r}:", policy, known)
        return found

    def enter(
        self,
        placement: str,
        policy: str,
        *,
        change: Change,
        verdict: str | None = None,
    ) -> Standing:
        """Make a version a candidate; one that stands there already (and is not retired) stays where it is."""
        with self._database.writing() as connection:
            before = _find(connection, placement, policy, is_locked=True)
            if before is not None and before.state != "retired":
                return before
            after = Standing(placement, policy, "candidate", change.at, verdict=verdict, reason=change.reason)
            _write(connection, before, after, change, action="candidate")
        return after

    def move(
        self,
        placement: str,
        policy: str,
        to: State,
        *,
        change: Change,
        action: str = "",
        verdict: str | None = None,
        experiment: str | None = None,
        previous: str | None = None,
        expected: State | None = None,
    ) -> Standing:
        """Move a version on, or out.

        Parameters
        ----------
        expected
            Where it was when this was decided; None: wherever it is.
        action
            Word of the audit log; the new state where empty.
        verdict, experiment, previous
            New values of the standing; None keeps what it has.

        Raises
        ------
        StateError
            If that is no move there is.
        ConflictError
            If it stands elsewhere than expected by now.
        """
        check_text(change.reason, what="reason of a move", max_length=MAX_REASON)
        with self._database.writing() as connection:
            before = _find(connection, placement, policy, is_locked=True)
            if before is None:
                if to != "live":
                    raise StateError(
                        f"{policy} does not stand at {placement!r} yet; enter it as a candidate before it becomes {to}"
                    )
                after = Standing(placement, policy, "live", change.at, verdict, experiment, previous, change.reason)
                _write(connection, None, after, change, action=action or to)
                return after
            if expected not in (None, before.state):
                raise ConflictError(
                    f"{policy} is {before.state} at {placement!r} and no longer {expected}: someone moved it meanwhile "
                    f"({before.reason}); look again and repeat the move"
                )
            if to not in MOVES[before.state]:
                raise StateError(
                    f"{policy} is {before.state} at {placement!r} and cannot become {to}; from there it can become "
                    f"{' or '.join(MOVES[before.state])}"
                )
            after = replace(
                before,
                state=to,
                changed_at=change.at,
                verdict=verdict or before.verdict,
                experiment=experiment or before.experiment,
                previous=previous or before.previous,
                reason=change.reason,
            )
            _write(connection, before, after, change, action=action or to)
        return after


def _find(connection: Connection, placement: str, policy: str, *, is_locked: bool = False) -> Standing | None:
    table = tables.promotions
    query = select(table).where(table.c.placement == placement, table.c.policy == policy)
    row = connection.execute(query.with_for_update() if is_locked else query).first()
    return None if row is None else _standing(row)


def _standing(row: Any) -> Standing:
    return Standing(
        row.placement,
        row.policy,
        row.state,
        from_us(row.changed_at_us),
        row.verdict,
        row.experiment,
        row.previous,
        row.reason,
    )


def _write(connection: Connection, before: Standing | None, after: Standing, change: Change, *, action: str) -> None:
    table = tables.promotions
    values = {
        "state": after.state,
        "changed_at_us": to_us(after.changed_at),
        "verdict": after.verdict,
        "experiment": after.experiment,
        "previous": after.previous,
        "reason": after.reason,
    }
    if before is None:
        connection.execute(insert(table).values(placement=after.placement, policy=after.policy, **values))
    else:
        here = (table.c.placement == after.placement) & (table.c.policy == after.policy)
        connection.execute(update(table).where(here).values(values))
    old = None if before is None else before.to_json()
    new = after.to_json()
    changed = [k for k in new if k not in ("changed_at", "reason") and (old is None or old[k] != new[k])]
    record_change(
        connection,
        change,
        action=action,
        what=f"policy {after.policy}",
        document={
            "placement": after.placement,
            "before": None if old is None else {k: old[k] for k in changed},
            "after": {k: new[k] for k in changed},
        },
    )
