"""Decisions of a placement joined with what came of them, as of a moment; a pure reading of the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from engine.rewards.attribution import Exposure, exposures_of, is_for_people, last_exposure
from engine.rewards.definition import RewardDefinition
from engine.store import tables
from engine.store.facts import decision_from_values, from_us, to_us
from engine.subjects.links import everybody
from policies.errors import InvalidInputError
from policies.records import Decision

MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Joined:
    """A seen decision and its number.

    Attributes
    ----------
    offset
        Of the decision in the ledger.
    reward
        By the reward definition, from the facts inside the window that were known.
    """

    offset: int
    decision: Decision
    reward: float


def matured_decisions(
    connection: Connection,
    placement: str,
    definition: RewardDefinition,
    *,
    as_of: datetime,
    since: datetime | None = None,
    known_offset: int | None = None,
) -> list[Joined]:
    """Decisions that were seen and whose window closed by ``as_of``, in ledger order, each with its number.

    Parameters
    ----------
    since
        Leave out decisions before it; their outcomes are still theirs.
    known_offset
        Read the ledger as it was at an offset (exclusive); None: as it is now.
    """
    window_us = round(definition.window_s * MICROSECONDS)
    as_of_us = to_us(as_of)
    limit = known_offset if known_offset is not None else 1 << 62
    rows = _seen(connection, placement, before_us=as_of_us + 1, limit=limit)
    wanted = [
        row
        for row in rows
        if row[1].at_us + window_us <= as_of_us
        and _seen_in_time(row[1].at_us, row[1].seen_us, window_us)
        and (since is None or row[1].at_us >= to_us(since))
    ]
    facts = _facts(connection, placement, definition, rows, as_of_us=as_of_us, window_us=window_us, limit=limit)
    return [
        Joined(offset, decision, definition.number(facts.get(exposure.decision, ())))
        for offset, exposure, decision in wanted
    ]


def _seen_in_time(at_us: int, seen_us: int, window_us: int) -> bool:
    """Whether a decision was seen before its own window closed; later, nothing that counts can have come of it."""
    return seen_us <= at_us + window_us


_Seen = tuple[int, Exposure, Decision]
_Fact = tuple[str, int, str, float]


def _seen(connection: Connection, placement: str, *, before_us: int, limit: int) -> list[_Seen]:
    decisions, activations, voids = tables.decisions, tables.activations, tables.voids
    back = select(voids.c.decision, voids.c.ledger_offset).where(voids.c.ledger_offset < limit)
    taken_back = {r.decision: r.ledger_offset for r in connection.execute(back)}
    later = (
        select(activations.c.decision, activations.c.at_us)
        .join(decisions, decisions.c.id == activations.c.decision)
        .where(decisions.c.placement == placement, activations.c.ledger_offset < limit)
    )
    activated = {r.decision: r.at_us for r in connection.execute(later)}
    query = (
        select(decisions)
        .where(
            decisions.c.placement == placement,
            decisions.c.at_us < before_us,
            decisions.c.ledger_offset < limit,
            is_for_people(decisions.c.policy),
        )
        .order_by(decisions.c.ledger_offset)
    )
    out: list[_Seen] = []
    for row in connection.execute(query):
        seen_us = row.at_us if row.is_activated else activated.get(row.id)
        if seen_us is None or taken_back.get(row.id, -1) > row.ledger_offset:
            continue
        out.append((row.ledger_offset, Exposure(row.at_us, seen_us, row.id), decision_from_values(row[1:])))
    return out


def _facts(
    connection: Connection,
    placement: str,
    definition: RewardDefinition,
    rows: Sequence[_Seen],
    *,
    as_of_us: int,
    window_us: int,
    limit: int,
) -> dict[str, list[_Fact]]:
    decisions, rewards, outcomes = tables.decisions, tables.rewards, tables.outcomes
    kinds = sorted(definition.kinds)
    at = {exposure.decision: exposure.at_us for _, exposure, _ in rows}
    out: dict[str, list[_Fact]] = defaultdict(list)
    named = (
        select(rewards.c.decision, rewards.c.kind, rewards.c.at_us, rewards.c.id, rewards.c.value)
        .join(decisions, decisions.c.id == rewards.c.decision)
        .where(
            decisions.c.placement == placement,
            rewards.c.kind.in_(kinds),
            rewards.c.at_us <= as_of_us,
            rewards.c.ledger_offset < limit,
        )
    )
    for decision, kind, at_us, fact_id, value in connection.execute(named):
        # A client's clock may run behind the server's: a reward is never before its decision.
        if decision in at and at_us <= at[decision] + window_us:
            out[decision].append((kind, at_us, fact_id, value))
    names = everybody(connection, known_offset=limit)
    by_person: dict[str, list[Exposure]] = defaultdict(list)
    for _, exposure, decision in rows:
        by_person[names.get(decision.subject, decision.subject)].append(exposure)
    for exposures in by_person.values():
        exposures.sort(key=lambda e: e.at_us)
    attributed = select(outcomes).where(
        outcomes.c.kind.in_(kinds), outcomes.c.at_us <= as_of_us, outcomes.c.ledger_offset < limit
    )
    for row in connection.execute(attributed):
        person = names.get(row.subject, row.subject)
        found = last_exposure(by_person.get(person, ()), at_us=row.at_us, window_us=window_us)
        if found is not None:
            out[found].append((row.kind, row.at_us, row.id, row.value))
    return out


def slice_of_policy(
    connection: Connection,
    policy: str,
    placement: str,
    definition: RewardDefinition,
    *,
    first_offset: int,
    end_offset: int,
    known_offset: int,
    as_of_us: int,
) -> list[Joined]:
    """Seen decisions that a policy made in a stretch of the ledger, each with its number; the cost follows the stretch.

    A function of its arguments: the same stretch gives the same numbers however much the ledger has grown since.
    """
    decisions, rewards, outcomes = tables.decisions, tables.rewards, tables.outcomes
    window_us = round(definition.window_s * MICROSECONDS)
    kinds = sorted(definition.kinds)
    rows = connection.execute(
        select(decisions)
        .where(
            decisions.c.ledger_offset >= first_offset,
            decisions.c.ledger_offset < end_offset,
            decisions.c.policy == policy,
            decisions.c.placement == placement,
        )
        .order_by(decisions.c.ledger_offset)
    ).all()
    subjects = sorted({row.subject for row in rows})
    exposures = exposures_of(connection, subjects, placement=placement, known_offset=known_offset)
    seen = {e.decision: e for found in exposures.values() for e in found}
    wanted = [row for row in rows if row.id in seen and _seen_in_time(row.at_us, seen[row.id].seen_us, window_us)]
    at = {row.id: row.at_us for row in wanted}
    facts: dict[str, list[_Fact]] = defaultdict(list)
    for part in _parts([row.id for row in wanted]):
        named = select(rewards.c.decision, rewards.c.kind, rewards.c.at_us, rewards.c.id, rewards.c.value).where(
            rewards.c.decision.in_(part),
            rewards.c.kind.in_(kinds),
            rewards.c.at_us <= as_of_us,
            rewards.c.ledger_offset < known_offset,
        )
        for decision, kind, at_us, fact_id, value in connection.execute(named):
            if at_us <= at[decision] + window_us:
                facts[decision].append((kind, at_us, fact_id, value))
    for part in _parts(sorted({*subjects, *exposures})):
        attributed = select(outcomes).where(
            outcomes.c.subject.in_(part),
            outcomes.c.kind.in_(kinds),
            outcomes.c.at_us <= as_of_us,
            outcomes.c.ledger_offset < known_offset,
        )
        for row in connection.execute(attributed):
            found = last_exposure(exposures.get(row.subject, ()), at_us=row.at_us, window_us=window_us)
            if found is not None and found in at:
                facts[found].append((row.kind, row.at_us, row.id, row.value))
    return [
        Joined(row.ledger_offset, decision_from_values(row[1:]), definition.number(facts.get(row.id, ())))
        for row in wanted
    ]


def _parts(values: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(values), 500):
        yield values[start : start + 500]


def first_decision_at(connection: Connection, placement: str) -> datetime:
    """When the log of a placement begins.

    Raises
    ------
    InvalidInputError
        If it has no decision yet.
    """
    decisions = tables.decisions
    at_us = connection.execute(
        select(decisions.c.at_us).where(decisions.c.placement == placement).order_by(decisions.c.at_us).limit(1)
    ).scalar()
    if at_us is None:
        raise InvalidInputError(f"placement {placement!r} has no decision in the log; ask for decisions first")
    return from_us(at_us)
