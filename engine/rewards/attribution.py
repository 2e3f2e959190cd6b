"""Which decision an outcome of a subject belongs to: the last activated one of the placement within the window.

A pure function of facts, applied when they are read: whatever order they came in, the answer is the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, or_, select, text

from engine.rewards.seen import STOOD, is_for_people
from engine.store import tables
from engine.subjects.links import END_OF_LEDGER, people_of


@dataclass(frozen=True, slots=True)
class Exposure:
    """A decision that was seen: when it was decided, and since when it counts as seen."""

    at_us: int
    seen_us: int
    decision: str


def last_exposure(exposures: Sequence[Exposure], *, at_us: int, window_us: int) -> str | None:
    """Decision that an outcome at a moment is attributed to.

    Parameters
    ----------
    exposures
        Of one subject at one placement, sorted by ``at_us``.
    """
    position = bisect_right(exposures, at_us, key=lambda e: e.at_us)
    for exposure in reversed(exposures[:position]):
        if exposure.at_us < at_us - window_us:
            return None
        if exposure.seen_us <= at_us:
            return exposure.decision
    return None


def exposures_of(
    connection: Connection, subjects: Iterable[str], *, placement: str, known_offset: int = END_OF_LEDGER
) -> dict[str, list[Exposure]]:
    """Seen decisions of some subjects at a placement, sorted by time, as the ledger was at an offset (exclusive).

    Subjects that are linked are one person: each of them, whether asked for or not, has the decisions of all.
    Decisions for bots are nobody's.
    """
    decisions, activations = tables.decisions.alias("d"), tables.activations
    names = people_of(connection, subjects, known_offset=known_offset)
    wanted = list(names)
    found: dict[str, list[tuple[int, Exposure]]] = {}
    for start in range(0, len(wanted), 500):
        query = (
            select(
                decisions.c.subject,
                decisions.c.at_us,
                decisions.c.ledger_offset,
                decisions.c.id,
                decisions.c.is_activated,
                activations.c.at_us.label("seen"),
            )
            .outerjoin(
                activations,
                and_(activations.c.decision == decisions.c.id, activations.c.ledger_offset < known_offset),
            )
            .where(
                decisions.c.subject.in_(wanted[start : start + 500]),
                decisions.c.placement == placement,
                decisions.c.ledger_offset < known_offset,
                is_for_people(decisions.c.policy),
                or_(decisions.c.is_activated, activations.c.at_us.is_not(None)),
                text(STOOD).bindparams(known=known_offset),
            )
        )
        for row in connection.execute(query):
            seen_us = row.at_us if row.is_activated else row.seen
            exposure = Exposure(row.at_us, seen_us, row.id)
            found.setdefault(names[row.subject], []).append((row.ledger_offset, exposure))
    by_name = {name: [e for _, e in sorted(f, key=lambda i: (i[1].at_us, i[0]))] for name, f in found.items()}
    return {subject: by_name[name] for subject, name in names.items() if name in by_name}
