"""Erasing a person, so that aggregates stay true.

Whatever says who it was goes: events, traits, links, features and state vectors of decisions. What counts in reports stays
under a random pseudonym that leads nowhere: which offer was shown with which probability in which variant, and what came of
it. The audit knows decisions of pseudonyms and names them as erased instead of recomputing them.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Table, bindparam, delete, insert, or_, select, update

from engine.store import facts, tables
from engine.store.bodies import stripped
from engine.store.changes import Change
from engine.store.cold import forget_in_cold
from engine.store.database import Database, in_parts, record_change
from engine.store.facts import check_text, to_us
from engine.subjects.links import people_of

PREFIX = "erased-"
# In the place of a digest: no request has it, so that one that comes again is another one.
FORGOTTEN = b"erased"


@dataclass(frozen=True, slots=True)
class Erasure:
    """What was erased.

    Attributes
    ----------
    pseudonym
        What the person's rows are called now; "" where nothing was known.
    n_ids
        Ids of the person, linked ones included.
    n_decisions, n_outcomes
        Rows that stay, under the pseudonym and without what says who it was.
    n_events
        Rows that are gone.
    n_cold_files
        Files of the cold path that were written anew without the person.
    """

    pseudonym: str
    n_ids: int
    n_decisions: int
    n_outcomes: int
    n_events: int
    n_cold_files: int = 0


def erase(database: Database, subject: str, *, at: datetime, actor: str = "", cold: Path | None = None) -> Erasure:
    """Erase a subject and everybody linked with it.

    A request that is sent again after this meets a conflict (its id is kept, what it said is not).

    Parameters
    ----------
    cold
        Folder of the cold path, where retention has moved old facts.
    """
    check_text(subject, what="subject")
    pseudonym = PREFIX + uuid.uuid4().hex
    with database.writing() as connection:
        if database.is_sqlite:
            connection.exec_driver_sql("PRAGMA secure_delete=ON")  # what is deleted is overwritten, not only unlinked
        names = people_of(connection, [subject])
        ids = sorted(i for i, name in names.items() if name == names[subject])
        renamed = _Renaming(connection, ids, pseudonym)
        decision_ids = _erase_decisions(connection, ids, renamed)
        n_outcomes = _erase_outcomes(connection, ids, renamed)
        n_events = _erase_events(connection, ids)
        _erase_rest(connection, ids, pseudonym)
        n_cold = 0 if cold is None else forget_in_cold(cold, ids, pseudonym, decision_ids=decision_ids)
        found = Erasure(pseudonym, len(ids), len(decision_ids), n_outcomes, n_events, n_cold)
        told = asdict(found)
        connection.execute(
            insert(tables.erasures).values(pseudonym=pseudonym, at_us=to_us(at), document=json.dumps(told))
        )
        record_change(connection, Change(at, actor), action="erase", what=pseudonym, document=told)
    if database.is_sqlite:
        # The old pages are still in the write-ahead log; a reader in progress may keep them there until the next time.
        database.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return found


def pseudonyms(database: Database) -> frozenset[str]:
    """Subjects that stand for erased persons."""
    return frozenset(str(row[0]) for row in database.rows("SELECT pseudonym FROM erasures"))


def erased_offsets(database: Database) -> list[int]:
    """Offsets of all decisions of erased persons, in order."""
    names = sorted(pseudonyms(database))
    table = tables.decisions
    out: list[int] = []
    with database.reading() as connection:
        for part in in_parts(names):
            out += connection.execute(select(table.c.ledger_offset).where(table.c.subject.in_(part))).scalars()
    return sorted(out)


class _Renaming:
    """New names for ids of facts that hold an id of the person as a word (our default id of an outcome does)."""

    def __init__(self, connection: Connection, ids: Sequence[str], pseudonym: str) -> None:
        self.connection = connection
        self.pseudonym = pseudonym
        self._word = re.compile("|".join(rf"(?<![A-Za-z0-9]){re.escape(i)}(?![A-Za-z0-9])" for i in ids))
        self._n = 0

    def of(self, fact_id: str) -> str:
        """The same id, or a new one."""
        if not self._word.search(fact_id):
            return fact_id
        self._n += 1
        return f"{self.pseudonym}-{self._n}"

    def apply(self, table: Table, column: str, changes: Sequence[tuple[str, str]]) -> None:
        """Put new ids in the place of old ones."""
        changed = [{"old": old, "new": new} for old, new in changes if old != new]
        if changed:
            where = table.c[column] == bindparam("old")
            self.connection.execute(update(table).where(where).values({column: bindparam("new")}), changed)

    def keys(self, kinds: Iterable[int], changes: Sequence[tuple[str, str]]) -> None:
        """Rename keys of facts, and forget what their requests held."""
        keys = tables.fact_keys
        for kind in kinds:
            self.connection.execute(
                update(keys)
                .where(keys.c.kind == kind, keys.c.id == bindparam("old"))
                .values(id=bindparam("new"), digest=FORGOTTEN),
                [{"old": old, "new": new} for old, new in changes],
            )


def _erase_decisions(connection: Connection, ids: Sequence[str], renamed: _Renaming) -> dict[str, str]:
    """Strip the person's decisions; return the new id of each."""
    table = tables.decisions
    rows = connection.execute(
        select(table.c.ledger_offset, table.c.id, table.c.body).where(table.c.subject.in_(ids))
    ).all()
    if not rows:
        return {}
    changes = [(row.id, renamed.of(row.id)) for row in rows]
    connection.execute(
        update(table)
        .where(table.c.ledger_offset == bindparam("at"))
        .values(subject=renamed.pseudonym, id=bindparam("new"), body=bindparam("stripped")),
        [
            {"at": row.ledger_offset, "new": new, "stripped": stripped(bytes(row.body))}
            for row, (_, new) in zip(rows, changes, strict=True)
        ],
    )
    renamed.keys([facts.DECISION], changes)
    for other in (tables.activations, tables.voids, tables.assignments, tables.rewards):
        renamed.apply(other, "decision", changes)
    moved = [(old, new) for old, new in changes if old != new]
    if moved:
        renamed.keys([facts.ACTIVATION, facts.VOID], moved)
        rewards = tables.rewards
        theirs = connection.execute(
            select(rewards.c.id).where(rewards.c.decision.in_([new for _, new in moved]))
        ).scalars()
        reward_changes = [(i, new) for i in theirs if (new := renamed.of(i)) != i]
        if reward_changes:
            renamed.apply(rewards, "id", reward_changes)
            renamed.keys([facts.REWARD], reward_changes)
    return dict(changes)


def _erase_outcomes(connection: Connection, ids: Sequence[str], renamed: _Renaming) -> int:
    table = tables.outcomes
    rows = connection.execute(select(table.c.id).where(table.c.subject.in_(ids))).scalars().all()
    if rows:
        changes = [(i, renamed.of(i)) for i in rows]
        renamed.apply(table, "id", changes)
        renamed.keys([facts.OUTCOME], changes)
        connection.execute(update(table).where(table.c.subject.in_(ids)).values(subject=renamed.pseudonym))
    return len(rows)


def _erase_events(connection: Connection, ids: Sequence[str]) -> int:
    table, keys = tables.events, tables.fact_keys
    rows = connection.execute(select(table.c.id).where(table.c.subject.in_(ids))).scalars().all()
    for part in in_parts(list(rows)):
        connection.execute(update(keys).where(keys.c.kind == facts.EVENT, keys.c.id.in_(part)).values(digest=FORGOTTEN))
    connection.execute(delete(table).where(table.c.subject.in_(ids)))
    return len(rows)


def _erase_rest(connection: Connection, ids: Sequence[str], pseudonym: str) -> None:
    """Traits and links go; of the assignments to one experiment the first stays, as reports have read them."""
    links, keys, assignments, traits = tables.links, tables.fact_keys, tables.assignments, tables.traits
    connection.execute(delete(traits).where(traits.c.subject.in_(ids)))
    mine = or_(links.c.subject.in_(ids), links.c.identified_as.in_(ids))
    connection.execute(delete(links).where(mine))
    connection.execute(delete(keys).where(keys.c.kind == facts.LINK, keys.c.id.in_(ids)))
    rows = connection.execute(
        select(assignments.c.experiment, assignments.c.subject)
        .where(assignments.c.subject.in_(ids))
        .order_by(assignments.c.at_us, assignments.c.subject)
    ).all()
    seen: set[str] = set()
    for experiment, subject in rows:
        where = (assignments.c.experiment == experiment, assignments.c.subject == subject)
        if experiment in seen:
            connection.execute(delete(assignments).where(*where))
        else:
            seen.add(experiment)
            connection.execute(update(assignments).where(*where).values(subject=pseudonym))
    exposures, counted = tables.exposures, set[str]()
    for row in connection.execute(
        select(exposures.c.experiment, exposures.c.subject).where(exposures.c.subject.in_(ids))
    ).all():
        # More than one only where a link has not been taken into the rollup yet.
        name = f"{pseudonym}-{uuid.uuid4().hex}" if row.experiment in counted else pseudonym
        counted.add(row.experiment)
        where = (exposures.c.experiment == row.experiment, exposures.c.subject == row.subject)
        connection.execute(update(exposures).where(*where).values(subject=name))
