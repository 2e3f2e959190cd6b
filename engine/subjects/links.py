"""Who is who: an anonymous visitor logs in, and from then on two ids are one person.

A link is an append-only fact: ``subject`` was identified as ``identified_as``. An id is identified once: the same again is a
repeat, as another id a conflict (a shared device must get a new anonymous id at log-out). Several ids may lead to one, links
are transitive, and a person is everything that is linked together, named by the id that the links lead to.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from sqlalchemy import Connection, or_, select

from engine.store import tables
from engine.store.database import Database, in_parts

END_OF_LEDGER = 1 << 62
_MAX_CACHED = 100_000
_FOLLOW_S = 0.1
# Most subjects are linked with nobody: that costs one look at two indexes, on the path of a decision.
_IS_LINKED = "SELECT 1 FROM links WHERE subject = :id UNION ALL SELECT 1 FROM links WHERE identified_as = :id LIMIT 1"


def people_of(connection: Connection, subjects: Iterable[str], *, known_offset: int = END_OF_LEDGER) -> dict[str, str]:
    """Name of the person that each subject belongs to, and of everybody linked with them.

    Parameters
    ----------
    known_offset
        Read the links as they were at an offset of the ledger (exclusive).
    """
    links = tables.links
    wanted = set(subjects)
    out = {subject: subject for subject in wanted}
    if connection.execute(select(links.c.ledger_offset).limit(1)).first() is None:
        return out
    edges: dict[str, str] = {}
    known, frontier = set(wanted), wanted
    while frontier:
        found: set[str] = set()
        for part in in_parts(sorted(frontier)):
            query = select(links.c.subject, links.c.identified_as).where(
                or_(links.c.subject.in_(part), links.c.identified_as.in_(part)), links.c.ledger_offset < known_offset
            )
            for subject, identified_as in connection.execute(query):
                edges[subject] = identified_as
                found |= {subject, identified_as}
        frontier = found - known
        known |= found
    return out | _names(edges)


def everybody(connection: Connection, *, known_offset: int = END_OF_LEDGER) -> dict[str, str]:
    """Name of the person of every subject that is linked with another."""
    links = tables.links
    query = select(links.c.subject, links.c.identified_as).where(links.c.ledger_offset < known_offset)
    return _names({row.subject: row.identified_as for row in connection.execute(query)})


def _names(edges: Mapping[str, str]) -> dict[str, str]:
    """Follow each id to where its links lead; two ids identified as each other at once share the smaller name."""
    out: dict[str, str] = {}
    for start in edges:
        path: list[str] = []
        node = start
        while node in edges and node not in out and node not in path:
            path.append(node)
            node = edges[node]
        name = min(path[path.index(node) :]) if node in path else out.get(node, node)
        out |= dict.fromkeys([*path, node], name)
    return out


class People:
    """Ids of each person, as servers hold them: read on a miss, dropped when a new link concerns them.

    Safe for several threads.

    Parameters
    ----------
    is_shared
        Whether other processes link subjects too: then the ledger is looked at every tenth of a second.
    """

    def __init__(self, database: Database, *, is_shared: bool = False) -> None:
        self._database = database
        self._is_shared = is_shared
        self._lock = threading.Lock()
        self._followed_at = 0.0
        self._followed_offset = -1
        self.is_followed = False  # somebody else calls follow
        self._known: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    def ids(self, subject: str) -> tuple[str, ...]:
        """All ids of the person that a subject belongs to, the person's name first; mostly the subject alone."""
        if self._followed_offset < 0 or (
            self._is_shared and not self.is_followed and time.monotonic() - self._followed_at > _FOLLOW_S
        ):
            self.follow()
        if not self._followed_offset:
            return (subject,)
        known = self._known.get(subject)
        if known is not None:
            return known
        seen = self._followed_offset
        ids = (subject,) if not self._database.rows(_IS_LINKED, id=subject) else self._read(subject)
        with self._lock:
            if seen == self._followed_offset:  # else a link may have come between the read and now
                self._known |= dict.fromkeys(ids, ids)
            while len(self._known) > _MAX_CACHED:
                self._known.popitem(last=False)
        return ids

    def forget_all(self) -> None:
        """Read everything anew."""
        with self._lock:
            self._known.clear()
            self._followed_offset = -1

    def _read(self, subject: str) -> tuple[str, ...]:
        with self._database.reading() as connection:
            names = people_of(connection, [subject])
        name = names[subject]
        return (name, *sorted(id_ for id_, other in names.items() if other == name and id_ != name))

    def follow(self) -> None:
        """Take in links that are newer than the last one seen."""
        self._followed_at = time.monotonic()
        after = max(0, self._followed_offset)
        rows = self._database.rows(
            "SELECT ledger_offset, subject, identified_as FROM links WHERE ledger_offset > :after", after=after
        )
        with self._lock:
            for offset, *ends in rows:
                after = max(after, int(offset))
                for end in ends:
                    for id_ in self._known.pop(end, ()):
                        self._known.pop(id_, None)
            self._followed_offset = after
