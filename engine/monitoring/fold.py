"""Takes the ledger into the sums, stretch by stretch: a fact is looked at once, whenever somebody asks.

A stretch is read and summed without a lock; the cursor then moves from where it was in the transaction that adds the sums, so that of
two processes that fold at once one has worked in vain and nothing counts twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text

from engine.decisions.imported import IMPORTED
from engine.monitoring import decisions
from engine.monitoring.cells import ALWAYS, DAY_HOURS, HOUR_US, Sums, key_of, prune
from engine.monitoring.evidence import bin_of_one
from engine.monitoring.placements import Watched, watched
from engine.rewards.attribution import exposures_of, last_exposure
from engine.rewards.seen import BOT
from engine.store import tables
from engine.store.database import Database

# Facts looked at together: a second of work at most, and a few tens of megabytes.
CHUNK = 20_000
KEEP_DAYS = 35
# Another text makes the cells anew.
RULES = "2"
DAY_US = DAY_HOURS * HOUR_US
BEHIND_US = 60_000_000
AHEAD_US = 300_000_000
_TWICE_US = 600_000_000

_DECISIONS = (
    "SELECT ledger_offset, placement, at_us, policy, experiment, variant, body, is_activated FROM decisions "
    "WHERE ledger_offset >= :first AND ledger_offset < :end ORDER BY ledger_offset"
)
_OF_DECISION = (
    "LEFT JOIN fact_keys k ON k.kind = 1 AND k.id = f.decision LEFT JOIN decisions d ON d.ledger_offset = k.ledger_offset "
    "WHERE f.ledger_offset >= :first AND f.ledger_offset < :end ORDER BY f.ledger_offset"
)
_ACTIVATIONS = (
    "SELECT d.placement, d.policy, d.offer, d.at_us, d.is_activated, f.shown, f.ledger_offset "
    f"FROM activations f {_OF_DECISION}"
)
_REWARDS = (
    "SELECT f.ledger_offset, f.kind, f.value, f.at_us, d.placement, d.policy, d.at_us, "
    "EXISTS (SELECT 1 FROM rewards e WHERE e.decision = f.decision AND e.kind = f.kind AND e.value = f.value "
    f"AND e.ledger_offset < f.ledger_offset) FROM rewards f {_OF_DECISION}"
)
_OUTCOMES = (
    "SELECT f.ledger_offset, f.kind, f.value, f.at_us, f.subject, "
    "EXISTS (SELECT 1 FROM outcomes e WHERE e.subject = f.subject AND e.kind = f.kind AND e.value = f.value "
    f"AND e.at_us BETWEEN f.at_us - {_TWICE_US} AND f.at_us + {_TWICE_US} AND e.ledger_offset < f.ledger_offset) "
    "FROM outcomes f WHERE f.ledger_offset >= :first AND f.ledger_offset < :end ORDER BY f.ledger_offset"
)


@dataclass(slots=True)
class _Time:
    """The time of the ledger: that of its decisions, in its order."""

    offsets: list[int]
    at_us: list[int]
    before_us: int

    def at(self, offset: int) -> int:
        """When a fact came, as far as the decisions before it tell."""
        place = bisect_right(self.offsets, offset) - 1
        return self.at_us[place] if place >= 0 else self.before_us

    def after(self, offset: int) -> int | None:
        """Time of the next decision after a fact, None where there is none yet."""
        place = bisect_right(self.offsets, offset)
        return self.at_us[place] if place < len(self.at_us) else None


def refresh(database: Database, *, until_offset: int | None = None) -> int:
    """Take in what has come since the last time; return how many facts."""
    head = database.head() if until_offset is None else min(until_offset, database.head())
    first, before_us = _cursor(database)
    if first >= head:
        return 0
    known, n = watched(database), 0
    many = _many(database)
    while first < head:
        end = min(head, first + CHUNK)
        sums = Sums()
        after_us = _fold(database, known, sums, many, first=first, end=end, before_us=before_us)
        if not _write(
            database, sums, first=first, end=end, at_us=after_us, is_new_day=after_us // DAY_US != before_us // DAY_US
        ):
            return n  # somebody else was faster, and goes on
        before_us = after_us
        n += end - first
        first = end
    return n


def start_anew(database: Database) -> None:
    """Forget all sums; the next ``refresh`` makes them from the first fact on."""
    with database.writing() as connection:
        connection.execute(text("DELETE FROM health_cells"))
        connection.execute(text("DELETE FROM health_cursor"))


def _cursor(database: Database) -> tuple[int, int]:
    rows = database.rows("SELECT next_offset, at_us, rules FROM health_cursor WHERE id = 1")
    if rows and rows[0][2] == RULES:
        return int(rows[0][0]), int(rows[0][1])
    if rows:
        start_anew(database)
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO health_cursor (id, next_offset, at_us, rules) VALUES (1, 1, 0, :rules) ON CONFLICT DO NOTHING"
            ),
            {"rules": RULES},
        )
    return 1, 0


def _write(database: Database, sums: Sums, *, first: int, end: int, at_us: int, is_new_day: bool) -> bool:
    moved = text("UPDATE health_cursor SET next_offset = :end, at_us = :at WHERE id = 1 AND next_offset = :first")
    with database.writing() as connection:
        if connection.execute(moved, {"first": first, "end": end, "at": at_us}).rowcount != 1:
            return False
        sums.write(connection)
        if is_new_day:
            prune(connection, below_hour=at_us // HOUR_US - KEEP_DAYS * DAY_HOURS)
    return True


def _many(database: Database) -> dict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    cells = tables.health_cells
    with database.reading() as connection:
        rows = connection.execute(
            select(cells.c.placement, cells.c.key).where(cells.c.hour == ALWAYS, cells.c.what == "many")
        )
        for placement, key in rows:
            found[placement].add(key)
    return found


def _fold(
    database: Database,
    known: Mapping[str, Watched],
    sums: Sums,
    many: dict[str, set[str]],
    *,
    first: int,
    end: int,
    before_us: int,
) -> int:
    """Sum a stretch; return the time of the ledger at its end."""
    span = {"first": first, "end": end}
    time = _decisions(known, sums, many, database.rows(_DECISIONS, **span), before_us)
    for placement, policy, offer, decided_us, was_seen, shown, offset in database.rows(_ACTIVATIONS, **span):
        if placement is None or policy.startswith(f"{BOT}@"):
            continue
        if not was_seen:
            sums.add(placement, decided_us // HOUR_US, "seen", key_of(policy), 1)
        if shown is not None:
            hour = time.at(offset) // HOUR_US
            sums.add(placement, hour, "shown", "", 1, float(shown != offer))
            if shown != offer:
                sums.add(placement, hour, "shown_as", key_of(offer, shown), 1)
    for offset, kind, value, at_us, placement, policy, decided_us, is_again in database.rows(_REWARDS, **span):
        if placement is None or policy.startswith(f"{BOT}@"):
            continue
        hour = time.at(offset) // HOUR_US
        ahead = _is_ahead(time, offset, at_us)
        sums.add(placement, hour, "clock", "reward", 1, float(at_us < decided_us - BEHIND_US), float(ahead))
        if placement in known:
            window_us = round(known[placement].placement.reward.window_s * 1e6)
            is_late = time.at(offset) > decided_us + window_us
            _fact(sums, placement, hour, kind, value, (at_us - decided_us) / 1e6, is_again=is_again, is_late=is_late)
    _outcomes(database, known, sums, database.rows(_OUTCOMES, **span), time, known_offset=end)
    return max(before_us, max(time.at_us, default=0))


def _decisions(
    known: Mapping[str, Watched],
    sums: Sums,
    many: dict[str, set[str]],
    found: Sequence[tuple[Any, ...]],
    before_us: int,
) -> _Time:
    time = _Time([], [], before_us)
    by_placement: defaultdict[str, decisions.Rows] = defaultdict(decisions.Rows)
    latest_us = before_us
    for offset, placement, at_us, policy, experiment, variant, body, was_seen in found:
        # A decision without a body has gone to the cold path.
        if not body or policy.startswith(f"{BOT}@") or f'"g":"{IMPORTED}"'.encode() in body:
            continue
        is_behind = at_us < latest_us - AHEAD_US
        latest_us = max(latest_us, at_us)
        time.offsets.append(offset)
        time.at_us.append(at_us)
        sums.add(placement, latest_us // HOUR_US, "clock", "decision", 1, float(is_behind))
        if was_seen:
            sums.add(placement, at_us // HOUR_US, "seen", key_of(policy), 1)
        by_placement[placement].add(at_us, policy, experiment, variant, body)
    for placement, rows in by_placement.items():
        place = known.get(placement)
        decisions.tally(
            sums,
            placement,
            rows,
            many=many.setdefault(placement, set()),
            is_baseline_meant=place.is_baseline_meant if place is not None else lambda *_: True,
        )
    return time


def _is_ahead(time: _Time, offset: int, at_us: int) -> bool:
    """Whether a fact says that it happened well after the next decision that the ledger took in."""
    after_us = time.after(offset)
    return after_us is not None and at_us > after_us + AHEAD_US


def _fact(
    sums: Sums,
    placement: str,
    hour: int,
    kind: str,
    value: float,
    delay_s: float | None,
    *,
    is_again: bool,
    is_late: bool,
) -> None:
    sums.add(placement, hour, "arrived", key_of(kind), 1, value, float(is_again), float(is_late))
    sums.add(placement, hour, "value", key_of(kind, _bin(value)), 1)
    if delay_s is not None:
        sums.add(placement, hour, "delay", key_of(kind, _bin(max(delay_s, 0.0))), 1)


def _bin(value: float) -> str:
    return str(bin_of_one(value))


def _outcomes(
    database: Database,
    known: Mapping[str, Watched],
    sums: Sums,
    found: Sequence[tuple[Any, ...]],
    time: _Time,
    *,
    known_offset: int,
) -> None:
    for placement, place in known.items():
        rows = [r for r in found if r[1] in place.kinds]
        if not rows:
            continue
        window_us = round(place.placement.reward.window_s * 1e6)
        with database.reading() as connection:
            exposures = exposures_of(connection, {r[4] for r in rows}, placement=placement, known_offset=known_offset)
        for offset, kind, value, at_us, subject, is_again in rows:
            hour = time.at(offset) // HOUR_US
            seen = exposures.get(subject, [])
            decision = last_exposure(seen, at_us=at_us, window_us=window_us)
            decided_us = next((e.at_us for e in seen if e.decision == decision), None)
            sums.add(placement, hour, "clock", "outcome", 1, 0.0, float(_is_ahead(time, offset, at_us)))
            if kind in place.placement.reward.kinds:
                sums.add(placement, hour, "attributed", key_of(kind), 1, float(decision is None))
            _fact(
                sums,
                placement,
                hour,
                kind,
                value,
                None if decided_us is None else (at_us - decided_us) / 1e6,
                is_again=is_again,
                is_late=decided_us is not None and time.at(offset) > decided_us + window_us,
            )
