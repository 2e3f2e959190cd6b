"""Which decision an outcome of a subject belongs to: the last activated one of the placement within the window.

A pure function of facts, applied when they are read: whatever order they came in, the answer is the same.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, exists, or_, select

from engine.store import tables

END_OF_LEDGER = 1 << 62


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
    """Seen decisions of some subjects at a placement, sorted by time, as the ledger was at an offset (exclusive)."""
    decisions, activations, voids = tables.decisions, tables.activations, tables.voids
    wanted = list(subjects)
    out: dict[str, list[Exposure]] = {}
    for start in range(0, len(wanted), 500):
        query = (
            select(
                decisions.c.subject,
                decisions.c.at_us,
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
                or_(decisions.c.is_activated, activations.c.at_us.is_not(None)),
                ~exists().where(
                    voids.c.decision == decisions.c.id,
                    voids.c.ledger_offset > decisions.c.ledger_offset,
                    voids.c.ledger_offset < known_offset,
                ),
            )
            .order_by(decisions.c.at_us, decisions.c.ledger_offset)
        )
        for row in connection.execute(query):
            seen_us = row.at_us if row.is_activated else row.seen
            out.setdefault(row.subject, []).append(Exposure(row.at_us, seen_us, row.id))
    return out
