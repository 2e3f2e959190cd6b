"""Moving a whole store from one database into another (SQLite to PostgreSQL and back), compared row by row.

Everything or nothing: the copy is one transaction of the target, committed only when counts and digests of every table
agree and no fact has come in meanwhile.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, Connection, LargeBinary, Table, delete, func, insert, select, text

from engine.store import tables
from engine.store.database import Database
from policies.errors import ConflictError, InvalidInputError

_CHUNK = 2_000
# A store in which nobody has done anything has no rows in these.
_SAY_EMPTY = (
    tables.fact_keys,
    tables.placements,
    tables.policy_versions,
    tables.experiments,
    tables.accounts,
    tables.traits,
)


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved.

    Attributes
    ----------
    rows
        Rows of each table.
    digests
        SHA-256 over the rows of each table in the order of its key, equal on both sides.
    """

    rows: dict[str, int]
    digests: dict[str, str]

    @property
    def n_rows(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


def move(source: Database, target: Database, *, progress: Callable[[str, int], None] = lambda *_: None) -> Moved:
    """Copy everything into an empty store; stop the services first.

    Parameters
    ----------
    progress
        Told the table and how many of its rows are copied.

    Raises
    ------
    InvalidInputError
        If the target holds something already.
    ConflictError
        If something was written to the source while it was copied, or the copy differs; the target is empty then.
    """
    source.upgrade()
    target.upgrade()
    rows: dict[str, int] = {}
    digests: dict[str, str] = {}
    with source.reading() as old, target.writing() as new:
        if not source.is_sqlite:
            old.execution_options(isolation_level="REPEATABLE READ")
            # Before anything is read: a rollup made anew meanwhile would empty this table for older snapshots too.
            old.execute(text("LOCK TABLE exposures IN ACCESS SHARE MODE"))
        for table in _SAY_EMPTY:
            if new.execute(select(func.count()).select_from(table)).scalar_one():
                raise InvalidInputError(
                    f"the target holds rows in {table.name} already; name an empty database (nothing was changed)"
                )
        for table in tables.metadata.sorted_tables:
            new.execute(delete(table))  # what a new schema brings along
        for table in tables.metadata.sorted_tables:
            rows[table.name], digests[table.name] = _copy(old, new, table, progress)
        if not target.is_sqlite:
            # Ids of audit rows go on where they were; facts get their offsets from the ledger's head.
            new.execute(
                text(
                    "SELECT setval(pg_get_serial_sequence('audit', 'id'), greatest((SELECT max(id) FROM audit), 1), "
                    "(SELECT max(id) FROM audit) IS NOT NULL)"
                )
            )
        for table in tables.metadata.sorted_tables:
            found = _digest(_rows(new, table), table)
            if found != (rows[table.name], digests[table.name]):
                raise ConflictError(f"the copy of {table.name} differs from its original; nothing was kept: try again")
        head = dict(old.execute(select(tables.ledger_head)).mappings().one())
        with source.reading() as now:
            if dict(now.execute(select(tables.ledger_head)).mappings().one()) != head:
                raise ConflictError("facts came in while the store was copied; stop the services and run this again")
    return Moved(rows, digests)


def _copy(old: Connection, new: Connection, table: Table, progress: Callable[[str, int], None]) -> tuple[int, str]:
    hasher = hashlib.sha256()
    n = 0
    for chunk in _chunks(_rows(old, table)):
        for row in chunk:
            hasher.update(_canonical(row, table))
        new.execute(insert(table), [dict(zip(table.columns.keys(), row, strict=True)) for row in chunk])
        n += len(chunk)
        progress(table.name, n)
    return n, hasher.hexdigest()


def _digest(rows: Iterator[Sequence[Any]], table: Table) -> tuple[int, str]:
    hasher = hashlib.sha256()
    n = 0
    for row in rows:
        hasher.update(_canonical(row, table))
        n += 1
    return n, hasher.hexdigest()


def _rows(connection: Connection, table: Table) -> Iterator[Sequence[Any]]:
    """All rows in the order of the key, a page at a time; text keys in the order of their bytes on both databases."""
    key = [
        c.collate("C" if connection.dialect.name == "postgresql" else "BINARY") if c.type.python_type is str else c
        for c in table.primary_key.columns
    ]
    return iter(connection.execute(select(table).order_by(*key).execution_options(yield_per=_CHUNK)))


def _chunks(rows: Iterator[Sequence[Any]]) -> Iterator[list[Sequence[Any]]]:
    while chunk := list(itertools.islice(rows, _CHUNK)):
        yield chunk


def _canonical(row: Sequence[Any], table: Table) -> bytes:
    values = [
        bytes(value).hex()
        if isinstance(column.type, LargeBinary) and value is not None
        else bool(value)
        if isinstance(column.type, Boolean) and value is not None
        else value
        for column, value in zip(table.columns, row, strict=True)
    ]
    return repr(values).encode()
