"""What the gate said, kept whole; only the approval of a person is added, once, with a name and a reason."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Connection, insert, select, update

from engine.gate.records import GateVerdict, part_from_json
from engine.store import tables
from engine.store.changes import MAX_REASON, Change
from engine.store.database import Database, record_change
from engine.store.facts import check_text, from_us, to_us
from policies.errors import StateError, UnknownNameError


def keep_verdict(database: Database, verdict: GateVerdict, *, actor: str = "") -> GateVerdict:
    """Write a verdict down; the same judgement again changes nothing and gives back what was kept."""
    table = tables.gate_verdicts
    with database.writing() as connection:
        found = _find(connection, verdict.id)
        if found is not None:
            return found
        connection.execute(
            insert(table).values(
                id=verdict.id,
                placement=verdict.placement,
                policy=verdict.policy,
                at_us=to_us(verdict.at),
                outcome=verdict.outcome,
                document=json.dumps(verdict.to_json()),
            )
        )
        record_change(
            connection,
            Change(verdict.at, actor, verdict.reasons[0][:MAX_REASON]),
            action="gate",
            what=f"policy {verdict.policy}",
            document={"placement": verdict.placement, "after": {"outcome": verdict.outcome, "verdict": verdict.id}},
        )
    return verdict


def approve(database: Database, verdict_id: str, *, change: Change, placement: str | None = None) -> GateVerdict:
    """Let a candidate that the log could not answer for go to a small canary.

    Parameters
    ----------
    placement
        Where it has to be of, if given.

    Raises
    ------
    StateError
        If the gate refused it (no approval overrules that), if it passed (none is needed), or if it is approved already.
    """
    check_text(change.actor, what="who approves")
    check_text(change.reason, what="reason of an approval", max_length=MAX_REASON)
    table = tables.gate_verdicts
    with database.writing() as connection:
        found = _find(connection, verdict_id, is_locked=True)
        if found is None or placement not in (None, found.placement):
            here = select(table.c.id) if placement is None else select(table.c.id).where(table.c.placement == placement)
            raise UnknownNameError("verdict", verdict_id, connection.execute(here).scalars())
        if found.outcome != "log cannot answer":
            raise StateError(
                f"the gate said {found.outcome!r} of {found.policy}; only where the log cannot answer a person decides: "
                + (
                    "it needs no approval"
                    if found.outcome == "pass"
                    else "retrain, or explore more, and let it be judged again"
                )
            )
        if found.approved_by is not None:
            raise StateError(f"{found.approved_by} approved {found.policy} already")
        connection.execute(
            update(table)
            .where(table.c.id == verdict_id)
            .values(approved_by=change.actor, approved_at_us=to_us(change.at))
        )
        record_change(
            connection,
            change,
            action="approve",
            what=f"policy {found.policy}",
            document={
                "placement": found.placement,
                "before": {"approved_by": None},
                "after": {"approved_by": change.actor},
            },
        )
        approved = _find(connection, verdict_id)
    assert approved is not None
    return approved


def verdicts(
    database: Database, *, placement: str | None = None, policy: str | None = None, limit: int = 50
) -> list[GateVerdict]:
    """Verdicts, the newest first."""
    table = tables.gate_verdicts
    query = select(table).order_by(table.c.at_us.desc(), table.c.id).limit(limit)
    if placement is not None:
        query = query.where(table.c.placement == placement)
    if policy is not None:
        query = query.where(table.c.policy == policy)
    with database.reading() as connection:
        return [_verdict(row) for row in connection.execute(query)]


def last_verdict(database: Database, placement: str, policy: str) -> GateVerdict | None:
    """The newest verdict on a version at a placement."""
    found = verdicts(database, placement=placement, policy=policy, limit=1)
    return found[0] if found else None


def _find(connection: Connection, verdict_id: str, *, is_locked: bool = False) -> GateVerdict | None:
    table = tables.gate_verdicts
    query = select(table).where(table.c.id == verdict_id)
    row = connection.execute(query.with_for_update() if is_locked else query).first()
    return None if row is None else _verdict(row)


def _verdict(row: Any) -> GateVerdict:
    document = json.loads(row.document)
    return GateVerdict(
        placement=row.placement,
        policy=row.policy,
        incumbent=document["incumbent"],
        at=from_us(row.at_us),
        outcome=row.outcome,
        reasons=tuple(document["reasons"]),
        next_step=document["next_step"],
        parts=tuple(part_from_json(p) for p in document["parts"]),
        inputs=document["inputs"],
        approved_by=row.approved_by,
        approved_at=None if row.approved_at_us is None else from_us(row.approved_at_us),
    )
