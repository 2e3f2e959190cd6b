"""Sums of the ledger by placement, hour, kind of sum and key: what all checks read, however long the ledger.

====================  ==============================  =====================  =====================  ===================  ==================
what                  key                             n                      a                      b                    c
====================  ==============================  =====================  =====================  ===================  ==================
``offer``             policy, offer                   times drawn            sum of p               sum of p (1 - p)     times eligible
``leak`` (by day)     feature, bin, offer             times drawn            sum of p               sum of p (1 - p)
``choice``            policy                          decisions              sum of entropy         without a choice     that could have one
``feature``           feature, bin                    decisions              sum of entropy         without a choice     that could have one
``finger``            feature, fingerprint            decisions with number
``seen``              policy                          decisions seen
``rung``              rung, ``fault`` or ``fine``     decisions
``excluded``          offer, reason                   decisions
``arrived``           kind                            facts                  sum of values          repeated             after the window
``value``             kind, bin                       facts
``delay``             kind, bin of seconds            facts
``attributed``        kind                            outcomes               without a decision
``clock``             source                          facts                  behind                 ahead
``shown``             empty                           reports                another offer
``shown_as``          offer drawn, offer shown        reports
``many``              feature                         1: too many texts, taken by hash from then on
====================  ==============================  =====================  =====================  ===================  ==================

Decisions lie in the hour they were made in, facts in the hour the ledger was at when they came. Entropy is a share of the largest
possible. Decisions for machines and imported ones are in none of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from engine.store.database import Database
from policies.records import FloatArray, IntArray

HOUR_US = 3_600_000_000
DAY_HOURS = 24
SEPARATOR = "\x1f"
MISSING = "∅"
# Cells that tell what is so, not what was at an hour.
ALWAYS = 0

_ADD = (
    "INSERT INTO health_cells (placement, hour, what, key, n, a, b, c) VALUES ({values}) "
    "ON CONFLICT (placement, hour, what, key) DO UPDATE SET n = health_cells.n + excluded.n, a = health_cells.a + excluded.a, "
    "b = health_cells.b + excluded.b, c = health_cells.c + excluded.c"
)
_READ = (
    "SELECT what, hour, key, n, a, b, c FROM health_cells WHERE placement = :placement AND hour >= :first AND hour <= :last "
    "ORDER BY what, hour, key"
)


class Sums:
    """Cells on their way into the store."""

    def __init__(self) -> None:
        self._cells: defaultdict[tuple[str, int, str, str], list[float]] = defaultdict(lambda: [0, 0.0, 0.0, 0.0])

    def add(
        self, placement: str, hour: int, what: str, key: str, n: float, a: float = 0.0, b: float = 0.0, c: float = 0.0
    ) -> None:
        """Add to a cell."""
        cell = self._cells[placement, hour, what, key]
        cell[0] += n
        cell[1] += a
        cell[2] += b
        cell[3] += c

    def write(self, connection: Connection) -> None:
        """Add all to the store."""
        # Sorted, so that two who write wait for each other and do not lock each other out.
        rows = [(*cell, round(n), a, b, c) for cell, (n, a, b, c) in sorted(self._cells.items())]
        if rows:
            mark = "?" if connection.dialect.name == "sqlite" else "%s"
            connection.exec_driver_sql(_ADD.format(values=", ".join([mark] * 8)), rows)


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Cells of one kind; each column of shape ``(n_cells,)``, keys split into their parts."""

    hour: IntArray
    keys: tuple[tuple[str, ...], ...]
    n: FloatArray
    a: FloatArray
    b: FloatArray
    c: FloatArray

    def __len__(self) -> int:
        return len(self.keys)

    def where(self, rows: NDArray[np.bool_]) -> Table:
        """Some of the cells."""
        picked = np.flatnonzero(rows)
        return Table(
            self.hour[picked],
            tuple(self.keys[i] for i in picked),
            self.n[picked],
            self.a[picked],
            self.b[picked],
            self.c[picked],
        )

    def between(self, first: int, end: int) -> Table:
        """Cells of hours from the first up to (not including) the second."""
        return self.where((self.hour >= first) & (self.hour < end))

    def by(self, part: Callable[[tuple[str, ...]], Any]) -> dict[Any, FloatArray]:
        """Sums ``[n, a, b, c]`` by something about the key."""
        codes: dict[Any, int] = {}
        at = np.asarray([codes.setdefault(part(key), len(codes)) for key in self.keys], dtype=np.int64)
        columns = [np.bincount(at, x, minlength=len(codes)) for x in (self.n, self.a, self.b, self.c)]
        stacked = np.stack(columns, axis=1) if codes else np.zeros((0, 4))
        return {name: stacked[i] for name, i in codes.items()}


_NONE = np.zeros(0)
EMPTY = Table(np.zeros(0, dtype=np.int64), (), _NONE, _NONE, _NONE, _NONE)


def read_cells(database: Database, placement: str, *, first_hour: int, last_hour: int) -> dict[str, Table]:
    """Cells of a placement in a run of hours (both included), by kind; and those that always hold."""
    rows = database.rows(_READ, placement=placement, first=first_hour, last=last_hour)
    if first_hour > ALWAYS:
        rows += database.rows(_READ, placement=placement, first=ALWAYS, last=ALWAYS)
    by_what: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in rows:
        by_what[row[0]].append(row)
    return defaultdict(lambda: EMPTY, {what: _table(found) for what, found in by_what.items()})


def _table(rows: Sequence[tuple[Any, ...]]) -> Table:
    numbers = np.asarray([row[3:] for row in rows], dtype=np.float64)
    hours = np.asarray([row[1] for row in rows], dtype=np.int64)
    return Table(hours, tuple(tuple(row[2].split(SEPARATOR)) for row in rows), *numbers.T)


def key_of(*parts: str) -> str:
    """One key of several parts; a part is cut to 80 characters, and cannot hold the separator."""
    return SEPARATOR.join(part[:80].replace(SEPARATOR, " ") for part in parts)


def prune(connection: Connection, *, below_hour: int) -> None:
    """Let go of cells of old hours."""
    connection.execute(
        text("DELETE FROM health_cells WHERE hour > :always AND hour < :below"), {"always": ALWAYS, "below": below_hour}
    )


def day_of(hours: Iterable[int] | IntArray) -> IntArray:
    """First hour of the day in UTC that each hour lies in."""
    found = np.asarray(hours, dtype=np.int64)
    return found - found % DAY_HOURS
