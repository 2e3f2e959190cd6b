"""A stretch of the ledger joined with what came of it, as columns; a pure reading, as the ledger was at an offset.

What is learned from, exported and judged goes through this one join. It asks the database for what it needs by the
position of decisions (an index scan that costs what the stretch costs, however long the ledger) and leaves the bodies
of decisions as bytes: whoever needs their content takes out what it needs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select

from engine.rewards.attribution import Exposure, exposures_of, last_exposure
from engine.rewards.definition import RewardDefinition
from engine.rewards.seen import BOT
from engine.store import tables
from engine.store.database import Database
from engine.subjects.links import people_of

MICROSECONDS = 1_000_000
STRETCH = 20_000
_PART = 1_000

# `~` marks a column by which no index may be chosen: SQLite, which knows no statistics, would read a whole placement instead of
# the stretch. There it becomes a unary plus; PostgreSQL has statistics and needs no hint.
_STRETCH = "d.ledger_offset >= :first AND d.ledger_offset < :end AND ~d.placement = :placement"
_OF_POLICY = f"{_STRETCH} AND ~d.policy = :policy"
_OF_PEOPLE = f"{_STRETCH} AND d.policy NOT LIKE '{BOT}@%'"
_COLUMNS = "d.ledger_offset, d.id, d.subject, d.at_us, d.is_activated, d.offer, d.propensity, d.body"
_MORE_COLUMNS = f"{_COLUMNS}, d.policy, d.experiment, d.phase, d.variant"
_DECISIONS = "SELECT {columns} FROM decisions d WHERE {mine} ORDER BY d.ledger_offset"
_ACTIVATIONS = (
    "SELECT a.decision, a.at_us FROM decisions d CROSS JOIN activations a "
    "WHERE {mine} AND NOT d.is_activated AND a.decision = d.id AND a.ledger_offset < :known"
)
# A stretch is seen and stands by the rule of ``engine.rewards.seen``, asked for as the few exceptions.
_VOIDS = "SELECT decision, ledger_offset FROM voids WHERE ledger_offset >= :first AND ledger_offset < :known"
_REWARDS = (
    "SELECT r.decision, r.kind, r.at_us, r.id, r.value FROM decisions d CROSS JOIN rewards r "
    "WHERE {mine} AND r.decision = d.id AND r.ledger_offset < :known AND r.at_us <= :as_of"
)
_OUTCOMES = (
    "SELECT o.subject, o.kind, o.at_us, o.id, o.value FROM decisions d CROSS JOIN outcomes o "
    "WHERE {mine} AND o.subject = d.subject AND o.at_us >= d.at_us AND o.at_us <= d.at_us + :window "
    "AND o.at_us <= :as_of AND o.ledger_offset < :known"
)
_FIRST_OPEN = (
    "SELECT d.ledger_offset FROM decisions d WHERE {mine} AND d.at_us > :open_since ORDER BY d.ledger_offset LIMIT 1"
)

_Fact = tuple[str, int, str, float]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of the ledger, and how much of what came later is known.

    Parameters
    ----------
    first_offset, end_offset
        Decisions from the first up to (not including) the second.
    known_offset
        Facts below it count.
    as_of_us
        Facts up to this moment count, and decisions whose window has closed by then.
    """

    first_offset: int
    end_offset: int
    known_offset: int
    as_of_us: int


@dataclass(frozen=True, slots=True, eq=False)
class Joined:
    """Seen decisions of a placement whose window has closed, in ledger order; every column has one value per decision.

    Attributes
    ----------
    bodies
        As ``engine.store.facts.decision_row`` wrote them.
    rewards
        Number of each decision by the reward definition, from the facts inside its window that were known.
    policies, experiments, phases, variants
        Empty in the join of one policy, which has no use for them.
    """

    placement: str
    offsets: tuple[int, ...]
    ids: tuple[str, ...]
    subjects: tuple[str, ...]
    at_us: tuple[int, ...]
    offers: tuple[str, ...]
    propensities: tuple[float, ...]
    bodies: tuple[bytes, ...]
    rewards: tuple[float, ...]
    policies: tuple[str, ...] = ()
    experiments: tuple[str | None, ...] = ()
    phases: tuple[int | None, ...] = ()
    variants: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.offsets)


def join(
    database: Database, placement: str, definition: RewardDefinition, stretch: Stretch, *, policy: str | None = None
) -> Joined:
    """Join a stretch: a function of its arguments, however much the ledger has grown since.

    Parameters
    ----------
    policy
        Only decisions of this ``name@version``.
    """
    # In parts whose pages stay in the database's cache while their facts are looked up.
    starts = range(stretch.first_offset, stretch.end_offset, _PART)
    parts = [
        replace(stretch, first_offset=start, end_offset=min(start + _PART, stretch.end_offset)) for start in starts
    ]
    ask = _Asker(database, placement, policy)
    rows: list[tuple[Any, ...]] = []
    rewards: list[float] = []
    for part in parts:
        part_rows, part_rewards = _part(ask, placement, definition, part)
        rows += part_rows
        rewards += part_rewards
    n_columns = 8 if policy is not None else 12
    columns = list(zip(*rows, strict=True)) if rows else [()] * n_columns
    offsets, ids, subjects, at_us, _, offers, propensities, bodies, *more = columns
    return Joined(placement, offsets, ids, subjects, at_us, offers, propensities, bodies, tuple(rewards), *more)


class _Asker:
    """Asks for what belongs to the decisions of a stretch, in the words of the database at hand."""

    def __init__(self, database: Database, placement: str, policy: str | None) -> None:
        self.database = database
        self._where = {"placement": placement} if policy is None else {"placement": placement, "policy": policy}
        self._mine = _OF_PEOPLE if policy is None else _OF_POLICY
        self._columns = _MORE_COLUMNS if policy is None else _COLUMNS
        self._hint = "+" if database.is_sqlite else ""

    def __call__(self, sql: str, **values: object) -> list[tuple[Any, ...]]:
        text = sql.format(mine=self._mine, columns=self._columns).replace("~", self._hint)
        return self.database.rows(text, **self._where, **values)


def _part(
    ask: _Asker, placement: str, definition: RewardDefinition, stretch: Stretch
) -> tuple[list[tuple[Any, ...]], list[float]]:
    """Rows of the decisions of a stretch, and the number of each."""
    window_us = round(definition.window_s * MICROSECONDS)
    within: dict[str, Any] = {"first": stretch.first_offset, "end": stretch.end_offset}
    open_since_us = stretch.as_of_us - window_us
    # A decision without a body has gone to the cold path.
    rows = [row for row in ask(_DECISIONS, **within) if row[3] <= open_since_us and row[7]]
    if not all(row[4] for row in rows):
        seen = _first_of_each(ask(_ACTIVATIONS, **within, known=stretch.known_offset))
        # Seen after its own window closed: nothing that counts can have come of it.
        rows = [row for row in rows if row[4] or seen.get(row[1], 1 << 62) <= row[3] + window_us]
    voids = dict(ask.database.rows(_VOIDS, first=stretch.first_offset, known=stretch.known_offset))
    if voids:
        rows = [row for row in rows if voids.get(row[1], -1) <= row[0]]
    if not rows:
        return [], []
    facts = _facts(ask, placement, definition, stretch, rows)
    number, default = definition.number, definition.default
    return rows, [number(facts[row[1]]) if row[1] in facts else default for row in rows]


def _first_of_each(rows: list[tuple[Any, ...]]) -> dict[str, int]:
    out: dict[str, int] = {}
    for decision, at_us in rows:
        out[decision] = min(at_us, out.get(decision, at_us))
    return out


def _facts(
    ask: _Asker, placement: str, definition: RewardDefinition, stretch: Stretch, rows: list[tuple[Any, ...]]
) -> dict[str, list[_Fact]]:
    """What came of some decisions, by decision: rewards that name it, and outcomes that are attributed to it."""
    window_us = round(definition.window_s * MICROSECONDS)
    kinds, database = definition.kinds, ask.database
    within: dict[str, Any] = {
        "first": stretch.first_offset,
        "end": stretch.end_offset,
        "known": stretch.known_offset,
        "as_of": stretch.as_of_us,
    }
    at: dict[str, int] = {row[1]: row[3] for row in rows}
    out: dict[str, list[_Fact]] = defaultdict(list)
    for decision, kind, at_us, fact_id, value in ask(_REWARDS, **within):
        # A client's clock may run behind the server's: a reward is never before its decision.
        if kind in kinds and decision in at and at_us <= at[decision] + window_us:
            out[decision].append((kind, at_us, fact_id, value))
    outcomes = {row[3]: row for row in ask(_OUTCOMES, **within, window=window_us)}
    linked = _linked(database, {row[2] for row in rows}, known_offset=stretch.known_offset)
    for start in range(0, len(linked), _PART):
        outcomes |= {row[3]: row for row in _outcomes_of(database, linked[start : start + _PART], stretch)}
    found = [row for row in outcomes.values() if row[1] in kinds]
    if not found:
        return out
    with database.reading() as connection:
        exposures: dict[str, list[Exposure]] = exposures_of(
            connection, {row[0] for row in found}, placement=placement, known_offset=stretch.known_offset
        )
    for subject, kind, at_us, fact_id, value in found:
        decision = last_exposure(exposures.get(subject, ()), at_us=at_us, window_us=window_us)
        if decision is not None and decision in at:
            out[decision].append((kind, at_us, fact_id, value))
    return out


def _linked(database: Database, subjects: set[str], *, known_offset: int) -> list[str]:
    """All ids of those persons among some subjects that have several."""
    if not database.rows("SELECT 1 FROM links WHERE ledger_offset < :known LIMIT 1", known=known_offset):
        return []
    with database.reading() as connection:
        names = people_of(connection, subjects, known_offset=known_offset)
    n_ids = Counter(names.values())
    return sorted(id_ for id_, name in names.items() if n_ids[name] > 1)


def _outcomes_of(database: Database, subjects: list[str], stretch: Stretch) -> list[tuple[Any, ...]]:
    table = tables.outcomes
    query = select(table.c.subject, table.c.kind, table.c.at_us, table.c.id, table.c.value).where(
        table.c.subject.in_(subjects), table.c.at_us <= stretch.as_of_us, table.c.ledger_offset < stretch.known_offset
    )
    with database.reading() as connection:
        return [tuple(row) for row in connection.execute(query)]


def stretches(first_offset: int, known_offset: int, *, as_of_us: int, size: int = STRETCH) -> list[Stretch]:
    """Cut the ledger from an offset up to what is known into stretches of a bounded size."""
    return [
        Stretch(start, min(start + size, known_offset), known_offset, as_of_us)
        for start in range(first_offset, known_offset, size)
    ]


def end_of_closed(
    database: Database,
    placement: str,
    definition: RewardDefinition,
    *,
    first_offset: int,
    known_offset: int,
    as_of_us: int,
    policy: str | None = None,
) -> int:
    """Where the run of closed windows that starts at an offset ends: at the first decision that is still open."""
    rows = _Asker(database, placement, policy)(
        _FIRST_OPEN,
        first=first_offset,
        end=known_offset,
        open_since=as_of_us - round(definition.window_s * MICROSECONDS),
    )
    return int(rows[0][0]) if rows else known_offset
