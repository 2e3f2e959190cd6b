"""Commits batches of facts to SQLite in WAL mode; ``synchronous=FULL`` makes each commit an ``fsync``."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.store.database import tune_sqlite
from engine.store.facts import (
    ACTIVATION,
    CONFLICT,
    DECISION,
    EVENT,
    LINK,
    NEW,
    OUTCOME,
    REPEAT,
    REWARD,
    UNKNOWN_DECISION,
    VOID,
    FactRow,
    Receipt,
    is_same,
)
from policies.errors import InvalidInputError, StoreUnavailableError

_INSERTS = {
    DECISION: "INSERT INTO decisions VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
    REWARD: "INSERT INTO rewards VALUES (?,?,?,?,?,?)",
    OUTCOME: "INSERT INTO outcomes VALUES (?,?,?,?,?,?)",
    EVENT: "INSERT INTO events VALUES (?,?,?,?,?,?,?)",
    ACTIVATION: "INSERT INTO activations VALUES (?,?,?,?)",
    VOID: "INSERT INTO voids VALUES (?,?,?)",
    LINK: "INSERT INTO links VALUES (?,?,?,?)",
}
_DECISION_ALONE = (
    "INSERT INTO decisions (ledger_offset, id, placement, subject, at_us, is_activated, policy, offer, propensity, body) "
    "VALUES (?,?,?,?,?,?,?,?,?,?)"
)
_HEAD = "UPDATE ledger_head SET next_offset = next_offset + ? WHERE id = 1 RETURNING next_offset"
_KEY = "INSERT INTO fact_keys VALUES (?,?,?,?)"
_STORED = "SELECT digest, ledger_offset FROM fact_keys WHERE kind = ? AND id = ?"
_KNOWN = f"SELECT 1 FROM fact_keys WHERE kind = {DECISION} AND id = ?"
_ASSIGNMENT = "INSERT INTO assignments VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING"
_OFFER_SET = "INSERT INTO offer_sets VALUES (?,?) ON CONFLICT DO NOTHING"


class SqliteBackend:
    """One connection that appends; opened by the thread that uses it."""

    def __init__(self, path: Path) -> None:
        try:
            self._connection = sqlite3.connect(path)
            tune_sqlite(self._connection)
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
        """Write all rows in one transaction and return when it is on disk."""
        run = self._connection.execute
        try:
            run("BEGIN IMMEDIATE")
            try:
                receipts = self._insert(rows)
                run("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise
        except sqlite3.IntegrityError as error:
            raise InvalidInputError(f"a fact cannot be stored ({error})") from error
        except sqlite3.Error as error:
            raise _unavailable(error) from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise InvalidInputError(
                f"a fact holds a value that cannot be stored ({error}); send well-formed text and numbers"
            ) from error
        return receipts

    def _insert(self, rows: Sequence[FactRow]) -> list[Receipt]:
        run = self._connection.execute
        next_offset = int(run(_HEAD, (len(rows),)).fetchone()[0])
        offset = next_offset - len(rows)
        receipts: list[Receipt] = []
        keys: dict[tuple[int, str], tuple[int, str, bytes | bytearray, int]] = {}
        fresh: dict[str, list[tuple[object, ...]]] = {}
        assignments: list[tuple[object, ...]] = []
        offer_sets: list[tuple[str, str]] = []
        for row in rows:
            joined = (
                not row.decision
                or (DECISION, row.decision) in keys
                or run(_KNOWN, (row.decision,)).fetchone() is not None
            )
            if row.must_join and not joined:
                receipts.append(Receipt(UNKNOWN_DECISION, -1, False))
                continue
            key = (row.kind, row.id)
            before = keys.get(key)
            if before is None and not row.is_new_id:
                stored = run(_STORED, key).fetchone()
                before = None if stored is None else (*key, *stored)
            if before is not None:
                receipts.append(
                    Receipt(REPEAT if is_same(bytes(before[2]), row.digest) else CONFLICT, before[3], joined)
                )
                continue
            keys[key] = (*key, bytearray(row.digest), offset)
            sql, values = _as_sqlite_takes_it(row.kind, row.values)
            fresh.setdefault(sql, []).append((offset, *values))
            if row.assignment is not None:
                assignments.append(row.assignment)
            if row.offer_set is not None:
                offer_sets.append(row.offer_set)
            receipts.append(Receipt(NEW, offset, joined))
            offset += 1
        many = self._connection.executemany
        many(_KEY, keys.values())
        for sql, many_values in fresh.items():
            many(sql, many_values)
        if assignments:
            many(_ASSIGNMENT, assignments)
        if offer_sets:
            many(_OFFER_SET, offer_sets)
        if offset != next_offset:  # repeats took no offset: the ledger has no holes
            run("UPDATE ledger_head SET next_offset = ? WHERE id = 1", (offset,))
        return receipts

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def _as_sqlite_takes_it(kind: int, values: tuple[Any, ...]) -> tuple[str, tuple[Any, ...]]:
    """Statement and values of a fact.

    Python's sqlite3 binds plain ``int``, ``float``, ``str`` and ``bytearray`` as they are and looks everything else (``bool``,
    ``None``, ``bytes``) up among its adapters: most of the cost of a decision's row, whose experiment is mostly absent.
    """
    if kind != DECISION:
        return _INSERTS[kind], values
    id_, placement, subject, at_us, is_activated, experiment, phase, variant, policy, offer, propensity, body = values
    head, tail = (id_, placement, subject, at_us, int(is_activated)), (policy, offer, propensity, bytearray(body))
    if experiment is None and phase is None and variant is None:
        return _DECISION_ALONE, head + tail
    return _INSERTS[kind], (*head, experiment, phase, variant, *tail)


def _unavailable(error: sqlite3.Error) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the log cannot be written ({error}); check disk space and permissions of the data folder: "
        "decisions are answered with the fallback until it can"
    )
