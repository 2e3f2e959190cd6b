"""A learner tails the ledger: each decision of its policy is learned from once, when its window has closed.

Every tick is written down (which stretch of the ledger, which facts were known, up to when) before it is learned from, so
that after a crash the last snapshot and the ticks since then give the same state to the bit, and an audit can recompute
every snapshot. A snapshot appears whole or not at all, and only if it answers with valid distributions.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from sqlalchemy import func, insert, select, update

from engine.decisions.ladder import APPRENTICE
from engine.registry.versions import Registry, snapshot_folder
from engine.rewards.definition import RewardDefinition
from engine.rewards.export import interactions, union_of_offers
from engine.rewards.joined import MICROSECONDS, Joined, slice_of_policy
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us
from policies.artifact import load_artifact, save_artifact
from policies.errors import NextofferError, StateError
from policies.protocols import OnlineLearner, Policy
from policies.records import DecisionTable, InteractionBatch
from policies.registry import load_policy
from policies.sampling import check_distribution

MAX_STRETCH = 20_000
_LEARNED_RUNGS = ("policy", "last_good", APPRENTICE)

_log = logging.getLogger("nextoffer.learner")


@dataclass(frozen=True, slots=True)
class Tick:
    """A stretch of the ledger that is learned from at once."""

    number: int
    first_offset: int
    end_offset: int
    known_offset: int
    as_of_us: int
    is_published: bool = False


class Learner:
    """Learns for one registered version, from its own decisions at one placement.

    Parameters
    ----------
    ref
        ``name@version`` of an online learner: the state it starts from.
    clock
        Decides which windows have closed.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        placement: str,
        definition: RewardDefinition,
        ref: str,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._registry = registry
        self._placement = placement
        self._definition = definition
        self._clock = clock
        self.ref = str(registry.find(ref).ref)
        self.n_learned = 0
        self.n_refused = 0
        self._probe: DecisionTable | None = None
        self._unpublished: Tick | None = None
        self._policy, self._last = self._restore()

    def _restore(self) -> tuple[OnlineLearner, Tick | None]:
        """Newest snapshot, and the ticks since."""
        ticks = read_ticks(self._database, self.ref)
        published = [
            t for t in ticks if t.is_published and snapshot_folder(self._registry.folder, self.ref, t.number).exists()
        ]
        start = published[-1] if published else None
        policy = load_state(self._registry, self.ref, None if start is None else start.number)
        last = start
        self._policy = policy
        for tick in ticks:
            if start is None or tick.number > start.number:
                self._learn(tick)
                self._unpublished = last = tick
        return policy, last

    def tick(self) -> int:
        """Learn from what has matured since the last tick; return from how many decisions."""
        as_of_us = to_us(self._clock())
        first = 1 if self._last is None else self._last.end_offset
        known = self._database.head()
        end = self._end(first, known, as_of_us=as_of_us)
        if end <= first:
            return 0
        number = 1 if self._last is None else self._last.number + 1
        tick = Tick(number, first, end, known, as_of_us)
        if self._count(first, end) == 0:
            # Nothing of ours in there: remember the place, but write no tick for it.
            if self._last is not None:
                self._last = Tick(self._last.number, first, end, known, as_of_us, self._last.is_published)
            return 0
        with self._database.writing() as connection:
            connection.execute(
                insert(tables.learner_ticks).values(
                    policy=self.ref,
                    number=number,
                    first_offset=first,
                    end_offset=end,
                    known_offset=known,
                    as_of_us=as_of_us,
                    is_published=False,
                )
            )
        n = self._learn(tick)
        self._last = self._unpublished = tick
        return n

    def publish(self) -> int | None:
        """Write a snapshot if something was learned since the last one; return its number.

        A state that does not answer with valid distributions is not published, and the learner goes back to the last one
        that did.
        """
        tick = self._unpublished
        if tick is None:
            return None
        folder = snapshot_folder(self._registry.folder, self.ref, tick.number)
        try:
            artifact = self._policy.to_artifact()
            check_snapshot(load_policy(artifact), self._probe)
        except NextofferError as error:
            self.n_refused += 1
            _log.warning("snapshot %d of %s is not published: %s", tick.number, self.ref, error)
            return None
        if not folder.exists():
            save_artifact(artifact, folder)
        with self._database.writing() as connection:
            ticks = tables.learner_ticks
            connection.execute(
                update(ticks).where(ticks.c.policy == self.ref, ticks.c.number == tick.number).values(is_published=True)
            )
        self._unpublished = None
        return tick.number

    def run(self, should_stop: Callable[[], bool], *, every_s: float = 0.2, publish_every_s: float = 1.0) -> None:
        """Tick and publish until told to stop."""
        published_at = 0.0
        while not should_stop():
            n = self.tick()
            if time.monotonic() - published_at >= publish_every_s and self.publish() is not None:
                published_at = time.monotonic()
            if not n:
                time.sleep(every_s)
        self.publish()

    def _end(self, first: int, known: int, *, as_of_us: int) -> int:
        """Where the stretch of closed windows ends: at the first decision of ours that is still open."""
        decisions = tables.decisions
        open_since_us = as_of_us - round(self._definition.window_s * MICROSECONDS)
        with self._database.reading() as connection:
            first_open = connection.execute(
                select(func.min(decisions.c.ledger_offset)).where(
                    decisions.c.ledger_offset >= first,
                    decisions.c.ledger_offset < known,
                    decisions.c.policy == self.ref,
                    decisions.c.at_us > open_since_us,
                )
            ).scalar()
        return min(known if first_open is None else int(first_open), first + MAX_STRETCH)

    def _count(self, first: int, end: int) -> int:
        rows = self._database.rows(
            "SELECT count(*) FROM decisions WHERE ledger_offset >= :first AND ledger_offset < :end AND policy = :policy",
            first=first,
            end=end,
            policy=self.ref,
        )
        return int(rows[0][0])

    def _learn(self, tick: Tick) -> int:
        batches = read_tick(self._database, self.ref, self._placement, self._definition, tick)
        n = learn_from(self._policy, batches)
        self.n_learned += n
        if batches:
            self._probe = batches[-1].table.take(slice(0, 16))
        return n


def learn_from(policy: OnlineLearner, batches: Sequence[InteractionBatch]) -> int:
    """Learn from some batches in order; return from how many decisions."""
    for batch in batches:
        policy.learn(batch)
    return sum(len(b) for b in batches)


def read_ticks(database: Database, ref: str) -> list[Tick]:
    """All ticks of a policy, in order."""
    table = tables.learner_ticks
    with database.reading() as connection:
        rows = connection.execute(select(table).where(table.c.policy == ref).order_by(table.c.number)).all()
    return [Tick(*row[1:]) for row in rows]


def read_tick(
    database: Database, ref: str, placement: str, definition: RewardDefinition, tick: Tick
) -> list[InteractionBatch]:
    """What a tick learns from: one batch per stretch with one set of offers."""
    with database.reading() as connection:
        rows = slice_of_policy(
            connection,
            ref,
            placement,
            definition,
            first_offset=tick.first_offset,
            end_offset=tick.end_offset,
            known_offset=tick.known_offset,
            as_of_us=tick.as_of_us,
        )
        rows = [r for r in rows if r.decision.rung in _LEARNED_RUNGS]
        groups: list[list[Joined]] = [
            list(group) for _, group in itertools.groupby(rows, key=lambda r: r.decision.offer_set_revision)
        ]
        return [
            interactions(group, union_of_offers(connection, [group[0].decision.offer_set_revision])) for group in groups
        ]


def load_state(registry: Registry, ref: str, number: int | None) -> OnlineLearner:
    """State of a learner at a snapshot, or as it was registered."""
    folder: Path | None = None if number is None else snapshot_folder(registry.folder, ref, number)
    policy = load_policy(registry.artifact(ref) if folder is None else load_artifact(folder))
    if not isinstance(policy, OnlineLearner):
        raise StateError(f"policy version {ref!r} does not learn online; train it anew and register the result")
    return policy


def check_snapshot(policy: Policy, probe: DecisionTable | None) -> None:
    """Refuse a state that has gone bad: its answers on the last decisions must be distributions.

    Raises
    ------
    ProbabilityError
        If they are not.
    """
    if probe is not None:
        answer = np.asarray(policy.probabilities(probe), dtype=np.float64)
        check_distribution(answer, probe.eligible, policy_name=policy.name)


def learned_in(database: Database, ref: str, offset: int) -> int | None:
    """Number of the first published snapshot that has learned from the decision at an offset; None: not yet."""
    rows = database.rows(
        "SELECT min(number) FROM learner_ticks WHERE policy = :policy AND is_published AND number >= "
        "(SELECT min(number) FROM learner_ticks WHERE policy = :policy AND first_offset <= :at AND end_offset > :at)",
        policy=ref,
        at=offset,
    )
    return None if rows[0][0] is None else int(rows[0][0])
