"""Commits batches of facts to PostgreSQL.

The one row of ``ledger_head`` is updated first and stays locked until the commit, so that offsets grow in the order of
commits across all hosts (a serial column would skip rows that commit late).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

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

_COPIES = {
    DECISION: "COPY decisions FROM STDIN",
    REWARD: "COPY rewards FROM STDIN",
    OUTCOME: "COPY outcomes FROM STDIN",
    EVENT: "COPY events FROM STDIN",
    ACTIVATION: "COPY activations FROM STDIN",
    VOID: "COPY voids FROM STDIN",
    LINK: "COPY links FROM STDIN",
}
_HEAD = "UPDATE ledger_head SET next_offset = next_offset WHERE id = 1 RETURNING next_offset"
_KEYS = (
    "SELECT k.kind, k.id, k.digest, k.ledger_offset FROM fact_keys k "
    "JOIN unnest(%s::smallint[], %s::text[]) AS w(kind, id) ON k.kind = w.kind AND k.id = w.id"
)
_KEY = "INSERT INTO fact_keys SELECT * FROM unnest(%s::smallint[], %s::text[], %s::bytea[], %s::bigint[])"
_ASSIGNMENT = "INSERT INTO assignments VALUES (%s,%s,%s,%s,%s,%s,%s) ON CONFLICT DO NOTHING"
_OFFER_SET = "INSERT INTO offer_sets VALUES (%s,%s) ON CONFLICT DO NOTHING"


class PostgresBackend:
    """One connection that appends, with ``synchronous_commit`` on."""

    def __init__(self, conninfo: str) -> None:
        try:
            self._connection = psycopg.connect(conninfo, autocommit=False, connect_timeout=5)
            self._connection.execute("SET synchronous_commit = on")
            self._connection.execute("SET statement_timeout = '10s'")
            self._connection.commit()
        except psycopg.Error as error:
            raise _unavailable(error) from error
        self._known_sets: set[str] = set()

    def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
        """Write all rows in one transaction and return when it is on disk."""
        try:
            with self._connection.transaction():
                receipts = self._insert(rows)
        except (psycopg.DataError, psycopg.IntegrityError, UnicodeEncodeError) as error:
            raise InvalidInputError(
                f"a fact holds a value that cannot be stored ({error}); send well-formed text and numbers"
            ) from error
        except psycopg.Error as error:
            raise _unavailable(error) from error
        self._known_sets.update(row.offer_set[0] for row in rows if row.offer_set is not None)
        return receipts

    def _insert(self, rows: Sequence[FactRow]) -> list[Receipt]:
        run = self._connection.execute
        # All key reads come after this lock: nobody else appends until the commit.
        head = run(_HEAD).fetchone()
        if head is None:
            raise StoreUnavailableError("the store has no ledger; run `nextoffer db upgrade`")
        offset = first = int(head[0])
        wanted = {(row.kind, row.id) for row in rows if not row.is_new_id}
        wanted |= {(DECISION, row.decision) for row in rows if row.decision}
        known: dict[tuple[int, str], tuple[bytes, int]] = {}
        if wanted:
            kinds, ids = [k for k, _ in wanted], [i for _, i in wanted]
            known = {(kind, fact_id): (bytes(digest), at) for kind, fact_id, digest, at in run(_KEYS, (kinds, ids))}
        receipts: list[Receipt] = []
        fresh: dict[int, list[tuple[Any, ...]]] = {}
        keys: list[tuple[int, str, bytes, int]] = []
        assignments: list[tuple[Any, ...]] = []
        offer_sets: dict[str, str] = {}
        for row in rows:
            joined = not row.decision or (DECISION, row.decision) in known
            if row.must_join and not joined:
                receipts.append(Receipt(UNKNOWN_DECISION, -1, False))
                continue
            before = known.get((row.kind, row.id))
            if before is not None:
                receipts.append(Receipt(REPEAT if is_same(before[0], row.digest) else CONFLICT, before[1], joined))
                continue
            known[row.kind, row.id] = (row.digest, offset)
            keys.append((row.kind, row.id, row.digest, offset))
            fresh.setdefault(row.kind, []).append((offset, *row.values))
            if row.assignment is not None:
                assignments.append(row.assignment)
            if row.offer_set is not None and row.offer_set[0] not in self._known_sets:
                offer_sets[row.offer_set[0]] = row.offer_set[1]
            receipts.append(Receipt(NEW, offset, joined))
            offset += 1
        if not keys:
            return receipts
        run(_KEY, tuple(list(column) for column in zip(*keys, strict=True)))
        with self._connection.cursor() as cursor:
            for kind, values in fresh.items():
                with cursor.copy(_COPIES[kind]) as copy:
                    for value in values:
                        copy.write_row(value)
            if assignments:
                cursor.executemany(_ASSIGNMENT, assignments)
            if offer_sets:
                cursor.executemany(_OFFER_SET, list(offer_sets.items()))
        run("UPDATE ledger_head SET next_offset = next_offset + %s WHERE id = 1", (offset - first,))
        return receipts

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()


def _unavailable(error: psycopg.Error) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the log cannot be written ({str(error).strip()}); check that PostgreSQL runs, its disk and the network: "
        "decisions are answered with the fallback until it can"
    )
