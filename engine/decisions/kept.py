"""The same person back within a time to live gets the same stored decision: no second draw, no second exposure.

A kept decision has an id made of placement, person, slots and the decision kept before it, so that two requests that
arrive together make one decision: the log holds an id once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from engine.rewards.seen import STANDS
from engine.store.database import Database
from engine.store.facts import DECISION, digest_of, to_us
from policies.errors import InvalidInputError

MIN_TTL_S, MAX_TTL_S = 1.0, 90 * 86_400.0
_PREFIX = "kept."
# Another host's clock may run ahead: its decision of just now is found all the same.
_CLOCKS_DIFFER_US = 2_000_000
# Between the id of a page and the id of a slot in the ids of its decisions.
SLOT_MARK = "#"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a person stands at a placement.

    Attributes
    ----------
    stored
        Ids of decisions (or pages) younger than the time to live, newest first.
    next_id
        Id of the one to be made if none of them can be shown.
    digest
        Under which it is logged: what the site knows of the visitor may change between two reloads.
    """

    stored: tuple[str, ...]
    next_id: str
    digest: bytes


def find_kept(
    database: Database, placement: str, person: Sequence[str], *, ttl_s: float, at: datetime, slots: Sequence[str] = ()
) -> Kept:
    """Look for stored decisions of a person at a placement (all of whose slots are the same) within the time to live."""
    if not MIN_TTL_S <= ttl_s <= MAX_TTL_S:
        raise InvalidInputError(f"ttl_s is {ttl_s:g}; expected {MIN_TTL_S:g} to {MAX_TTL_S:g} seconds")
    kind = hashlib.blake2b("\x00".join([placement, *slots]).encode(), digest_size=6).hexdigest()
    prefix = f"{_PREFIX}{kind}."
    end = f"{SLOT_MARK}{slots[0]}" if slots else ""
    wanted = {f"id{i}": id_ for i, id_ in enumerate(person)}
    now_us, ttl_us = to_us(at), round(ttl_s * 1e6)
    wanted["pattern"] = f"{prefix}%"

    def newest() -> tuple[str, ...]:
        rows = database.rows(
            "SELECT d.id FROM decisions d "
            f"WHERE d.subject IN ({', '.join(f':id{i}' for i in range(len(person)))}) AND d.placement = :placement "
            f"AND d.at_us > :since AND d.at_us <= :now AND d.id LIKE :pattern AND {STANDS} "
            "ORDER BY d.at_us DESC, d.ledger_offset DESC",
            placement=placement,
            since=now_us - ttl_us,
            now=now_us + _CLOCKS_DIFFER_US,
            **wanted,
        )
        return tuple(str(id_).removesuffix(end) for (id_,) in rows if str(id_).endswith(end))

    stored = newest()
    made = _next_id(prefix, placement, person[0], stored[0] if stored else str(now_us // ttl_us))
    while not stored and _is_known(database, made + end):
        # Made meanwhile by another request; or its person was erased, and the id is used up.
        stored = newest()
        made = _next_id(prefix, placement, person[0], stored[0] if stored else made)
    return Kept(stored, made, digest_of([placement, *slots]))


def _next_id(prefix: str, placement: str, person: str, before: str) -> str:
    return prefix + hashlib.blake2b("\x00".join([placement, person, before]).encode(), digest_size=16).hexdigest()


def _is_known(database: Database, decision_id: str) -> bool:
    return bool(database.rows(f"SELECT 1 FROM fact_keys WHERE kind = {DECISION} AND id = :id", id=decision_id))
