"""What is known of a subject at a decision: its last events as a state vector, and its batch-scored traits.

The last raw events in the store are the truth; the vector is a cache keyed by subject and model version, rebuilt on a miss.
"""

from __future__ import annotations

import json
import threading
import time
from bisect import insort
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, insert, select

from engine.store import tables
from engine.store.database import Database, tell_servers
from engine.store.facts import check_text, from_us, to_us
from engine.subjects.links import People
from policies.records import Event, Features, FeatureValue, SubjectId, check_features

LAST_EVENTS = 128
_MAX_CACHED = 50_000
_RECENT = (
    "SELECT ledger_offset, id, kind, item, value, at_us FROM events WHERE subject = :subject AND at_us < :before_us "
    "ORDER BY at_us DESC, ledger_offset DESC LIMIT :limit"
)
_END_OF_TIME = 1 << 62
_FOLLOW_S = 0.1
_TRAITS_CHECK_S = 1.0
_MAX_FOLLOWED = 10_000


class Encoder(Protocol):
    """Turns raw events into a state vector; ``engine.models.encoder.SequenceEncoder`` is one."""

    version: str
    width: int

    def encode_events(self, events: Sequence[Event], *, as_of: datetime) -> NDArray[np.float32]:
        """State after the events strictly before ``as_of``, shape ``(width,)``."""
        ...


class StoredEvent(NamedTuple):
    """An event and where it lies in the ledger; sorts by time."""

    at_us: int
    offset: int
    event: Event


class SubjectStates:
    """Recent events and state vectors of subjects, read from the store on a miss.

    Safe for several threads.

    Parameters
    ----------
    people
        Who is linked with whom; a person's state is made from the events of all of its ids.
    is_shared
        Whether other processes take in events too: then the ledger is looked at every tenth of a second, and what is cached
        of subjects with news is dropped.
    """

    def __init__(
        self,
        database: Database,
        *,
        people: People | None = None,
        last_events: int = LAST_EVENTS,
        max_cached: int = _MAX_CACHED,
        is_shared: bool = False,
    ) -> None:
        self._people = people
        self.is_shared = is_shared
        self.is_followed = False  # somebody else calls what follows
        self._followed_at = 0.0
        self._traits_checked_at = 0.0
        self._has_traits = False
        self._n_erased = 0
        self._revision = -1
        self._n_forgotten = 0  # rounds: what was read before one is not kept after it
        self._followed_offset: int | None = None
        self._database = database
        self._last_events = last_events
        self._max_cached = max_cached
        self._events: OrderedDict[str, list[StoredEvent]] = OrderedDict()
        self._vectors: OrderedDict[tuple[str, str], tuple[tuple[int, ...], tuple[float, ...]]] = OrderedDict()
        self._traits: OrderedDict[str, Features] = OrderedDict()
        self._lock = threading.Lock()
        self._n_advances = 0

    def recent(self, subject: str, *, as_of: datetime) -> list[StoredEvent]:
        """Last events strictly before a moment, oldest first."""
        as_of_us = to_us(as_of)
        if self.is_shared and not self.is_followed and time.monotonic() - self._followed_at > _FOLLOW_S:
            self.follow_events()
        with self._lock:
            known = self._events.get(subject)
            if known is not None:
                self._events.move_to_end(subject)
                kept = [e for e in known if e.at_us < as_of_us]
                # The cache holds the newest events; a moment before the oldest of a full list needs the store.
                if len(kept) == len(known) or len(known) < self._last_events:
                    return kept[-self._last_events :]
        if known is not None:
            return self._read(subject, before_us=as_of_us)
        seen = self._n_advances
        newest = self._read(subject, before_us=None)
        with self._lock:
            if seen == self._n_advances:  # else an event may have come between the read and now
                self._events[subject] = newest
            _shrink(self._events, self._max_cached)
        if newest and newest[-1].at_us >= as_of_us:
            return self._read(subject, before_us=as_of_us)
        return newest

    def vector(self, subject: str, encoder: Encoder, *, as_of: datetime) -> tuple[tuple[float, ...], int]:
        """State vector of a subject and the ledger offset of the newest event in it (0: none)."""
        ids = (subject,) if self._people is None else self._people.ids(subject)
        if len(ids) == 1:
            events = self.recent(subject, as_of=as_of)
        else:
            events = sorted(e for id_ in ids for e in self.recent(id_, as_of=as_of))[-self._last_events :]
        cursor = max((e.offset for e in events), default=0)
        key = (subject, encoder.version)
        offsets = tuple(e.offset for e in events)
        with self._lock:
            cached = self._vectors.get(key)
            if cached is not None and cached[0] == offsets:
                return cached[1], cursor
        vector = tuple(encoder.encode_events([e.event for e in events], as_of=as_of).astype(float).tolist())
        with self._lock:
            self._vectors[key] = (offsets, vector)
            _shrink(self._vectors, self._max_cached)
        return vector, cursor

    def advance(self, event: Event, offset: int) -> None:
        """Take in an event that is on disk."""
        with self._lock:
            self._n_advances += 1
            known = self._events.get(event.subject)
            if known is not None and all(e.offset != offset for e in known):
                insort(known, StoredEvent(to_us(event.at), offset, event))
                del known[: -self._last_events]

    def forget(self, subjects: Iterable[str]) -> None:
        """Drop what is cached of subjects whose truth has changed elsewhere."""
        with self._lock:
            self._n_forgotten += 1
            for subject in subjects:
                self._events.pop(subject, None)
                self._traits.pop(subject, None)

    def forget_all(self) -> None:
        """Drop everything that is cached of subjects: somebody was erased, and nobody here knows who."""
        with self._lock:
            self._n_advances += 1
            self._n_forgotten += 1
            self._events.clear()
            self._vectors.clear()
            self._traits.clear()
        if self._people is not None:
            self._people.forget_all()

    def traits(self, subject: str) -> Features:
        """Batch-scored features of a subject; empty where there are none."""
        if not self.is_followed and time.monotonic() - self._traits_checked_at > _TRAITS_CHECK_S:
            self.follow_traits()
        if not self._has_traits:
            return {}
        with self._lock:
            known = self._traits.get(subject)
        if known is not None:
            return known
        seen = self._n_forgotten
        rows = self._database.rows("SELECT document FROM traits WHERE subject = :subject", subject=subject)
        found: dict[str, FeatureValue] = json.loads(rows[0][0]) if rows else {}
        with self._lock:
            if seen == self._n_forgotten:  # else it may have been replaced between the read and now
                self._traits[subject] = found
            _shrink(self._traits, self._max_cached)
        return found

    def load_traits(self, rows: Mapping[str, Features], *, at: datetime) -> None:
        """Replace the traits of some subjects.

        Raises
        ------
        InvalidInputError
            If a trait is not a finite number, text or boolean; nothing is written then.
        """
        for subject, features in rows.items():
            check_text(subject, what="subject of traits")
            check_features(features, where=f"subject {subject!r}")
        table = tables.traits
        values = [{"subject": s, "document": json.dumps(dict(f)), "updated_at_us": to_us(at)} for s, f in rows.items()]
        with self._database.writing() as connection:
            for start in range(0, len(values), 500):
                part = values[start : start + 500]
                connection.execute(delete(table).where(table.c.subject.in_([v["subject"] for v in part])))
                connection.execute(insert(table), part)
            tell_servers(connection)
        self.forget(rows)
        self._has_traits = self._has_traits or bool(rows)

    def follow_traits(self) -> None:
        """See whether somebody was erased or traits were loaded elsewhere, and whether there are traits at all."""
        n_erased = int(self._database.rows("SELECT count(*) FROM erasures")[0][0])
        if n_erased != self._n_erased:
            self._n_erased = n_erased
            self.forget_all()
        # Not by the times of the rows: those are of the loader's clock, and no index finds the newest of a million.
        revision = self._database.config_revision()
        if revision != self._revision:
            with self._lock:
                self._n_forgotten += 1
                self._traits.clear()
            self._revision = revision
        self._has_traits = bool(self._database.rows("SELECT 1 FROM traits LIMIT 1"))
        self._traits_checked_at = time.monotonic()

    def follow_events(self) -> None:
        """Drop what is cached of subjects that other processes have taken in events of."""
        self._followed_at = time.monotonic()
        table = tables.events
        with self._database.reading() as connection:
            newest = connection.execute(select(func.max(table.c.ledger_offset))).scalar() or 0
            before, self._followed_offset = self._followed_offset, newest
            if newest == before:
                return
            query = select(table.c.subject).where(table.c.ledger_offset > (before or 0)).limit(_MAX_FOLLOWED + 1)
            subjects = [] if before is None else list(connection.execute(query).scalars())
        with self._lock:
            self._n_advances += 1
            if before is None or len(subjects) > _MAX_FOLLOWED:
                self._events.clear()
            for subject in subjects:
                self._events.pop(subject, None)

    def _read(self, subject: str, *, before_us: int | None) -> list[StoredEvent]:
        rows = self._database.rows(
            _RECENT,
            subject=subject,
            before_us=_END_OF_TIME if before_us is None else before_us,
            limit=self._last_events,
        )
        return [
            StoredEvent(at_us, offset, Event(event_id, SubjectId(subject), kind, item, value, from_us(at_us)))
            for offset, event_id, kind, item, value, at_us in reversed(rows)
        ]


def _shrink(cache: OrderedDict[Any, Any], limit: int) -> None:
    while len(cache) > limit:
        cache.popitem(last=False)
