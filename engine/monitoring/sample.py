"""A bounded number of decisions of a placement as batches, for the checks that ask a policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from engine.monitoring.cells import DAY_HOURS, HOUR_US
from engine.monitoring.window import Window
from engine.rewards.export import learning_batches
from engine.rewards.joined import Stretch, join
from engine.store.database import Database
from engine.store.facts import to_us
from policies.errors import InvalidInputError
from policies.records import InteractionBatch, OfferSet

MAX_CLOSED = 4_000
MAX_RECENT = 2_000
_PREDICTED_RUNGS = ("policy",)
_ALL_RUNGS = ("policy", "last_good", "fallback", "baseline")
_NEWEST = (
    "SELECT min(n.ledger_offset), max(n.ledger_offset) FROM (SELECT ledger_offset FROM decisions "
    "WHERE placement = :placement AND at_us <= :until AND at_us > :since ORDER BY at_us DESC LIMIT :most) n"
)


def closed_sample(database: Database, window: Window) -> Iterator[tuple[str, InteractionBatch]]:
    """Policies and their newest decisions whose reward window closed within the last day, each with its number."""
    definition = window.watched.placement.reward
    until_us = to_us(window.as_of) - round(definition.window_s * 1e6)
    for ref in sorted({key[0] for key in window.cells["choice"].keys}):
        yield from _batches(database, window, ref, until_us=until_us, most=MAX_CLOSED, rungs=_PREDICTED_RUNGS)


def recent_sample(database: Database, window: Window) -> list[InteractionBatch]:
    """Newest decisions, whoever made them; their numbers mean nothing yet."""
    found = _batches(database, window, None, until_us=to_us(window.as_of), most=MAX_RECENT, rungs=_ALL_RUNGS)
    return [batch for _, batch in found]


def _batches(
    database: Database, window: Window, ref: str | None, *, until_us: int, most: int, rungs: tuple[str, ...]
) -> Iterator[tuple[str, InteractionBatch]]:
    placement = window.watched.placement
    span = {"until": until_us, "since": until_us - DAY_HOURS * HOUR_US, "most": most}
    ((first, last),) = database.rows(_NEWEST, placement=placement.id, **span)
    if first is None:
        return
    as_of_us = to_us(window.as_of)
    definition = placement.reward
    if until_us == as_of_us:
        definition = replace(definition, window_s=1e-6)
    rows = join(database, placement.id, definition, Stretch(first, last + 1, database.head(), as_of_us), policy=ref)
    if len(rows):
        try:
            for batch in learning_batches(database, rows, dict[str, OfferSet](), rungs=rungs):
                yield ref or "", batch
        except InvalidInputError:  # an offer that changed its features on the way: what is left says nothing new
            return
