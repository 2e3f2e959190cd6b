"""A learner tails the ledger: each decision of its policy is learned from once, when its window has closed.

Every tick is written down (which stretch of the ledger, which facts were known, up to when) before it is learned from, so
that after a crash the last snapshot and the ticks since then give the same state to the bit, and an audit can recompute
every snapshot. A snapshot appears whole or not at all, and only if it answers with valid distributions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from engine.learner.snapshots import KEEP_NEWEST, check_snapshot, checkpoints, load_state, prune
from engine.learner.ticks import Tick, learn_from, mark, read_tick, read_ticks, write_tick
from engine.registry.versions import Registry, snapshot_folder
from engine.rewards.definition import RewardDefinition
from engine.rewards.joined import STRETCH, Stretch, end_of_closed
from engine.store.database import Database
from engine.store.facts import to_us
from policies.artifact import save_artifact
from policies.errors import NextofferError
from policies.protocols import OnlineLearner
from policies.records import DecisionTable, InteractionBatch, OfferSet
from policies.registry import load_policy

PUBLISH_EVERY_S = 1.0
TICK_EVERY_S = 0.1
# A busy placement does not wait for the second to be over: half of it will do.
PUBLISH_EVERY_N = 200
PUBLISH_APART_S = 0.5
_PRUNE_EVERY = 20
_PROBE_ROWS = 16
_SEARCH_S = 0.3

_log = logging.getLogger("nextoffer.learner")


class Learner:
    """Learns for one registered version, from its own decisions at one placement.

    Parameters
    ----------
    ref
        ``name@version`` of an online learner: the state it starts from.
    clock
        Decides which windows have closed.
    definition
        What counts; may be replaced between ticks, each of which says by which it was learned.
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
        keep_newest: int = KEEP_NEWEST,
    ) -> None:
        self._database = database
        self._registry = registry
        self._placement = placement
        self.definition = definition
        self._clock = clock
        self._keep_newest = keep_newest
        self.ref = str(registry.find(ref).ref)
        self.n_learned = 0
        self.n_refused = 0
        self.n_left_out = 0
        self._n_since_publish = 0
        self._published_at = 0.0
        self._n_published = 0
        self._is_behind = False
        self._offers: dict[str, OfferSet] = {}
        self._probe: DecisionTable | None = None
        self._unpublished: Tick | None = None
        self._number = 0
        self._end = 1
        self._policy: OnlineLearner
        self._restore()

    def _restore(self) -> None:
        """Newest snapshot, and the ticks since, each learned once.

        A tick that fails leaves a policy that may have learned half of it: it is left out, and all begins again at the snapshot.
        """
        while not self._has_replayed():
            pass

    def _has_replayed(self) -> bool:
        """Go from the newest snapshot through the ticks since; false, and that tick is left out, where one fails."""
        there = checkpoints(self._database, self._registry, self.ref)
        start = there[-1] if there else None
        self._policy = load_state(self._registry, self.ref, None if start is None else start.number)
        self._unpublished = None
        self._n_since_publish = 0
        if start is not None:
            self._number, self._end = start.number, start.stretch.end_offset
        for tick in read_ticks(self._database, self.ref, after=0 if start is None else start.number):
            self._number, self._end = tick.number, tick.stretch.end_offset
            if not tick.is_left_out:
                whole = self._whole(tick)
                batches, _ = read_tick(self._database, self.ref, whole, self._offers)
                if not self._has_learned(whole, batches):
                    return False
        return True

    def _whole(self, tick: Tick) -> Tick:
        """A tick of an earlier version has the placement and the definition that we were given."""
        if tick.placement is not None and tick.definition is not None:
            return tick
        return Tick(tick.number, tick.stretch, self._placement, self.definition, tick.is_published, tick.is_left_out)

    def tick(self) -> int:
        """Learn from what has matured since the last tick; return from how many decisions.

        Raises
        ------
        ConflictError
            If another learner has learned meanwhile.
        """
        as_of_us = to_us(self._clock())
        known = self._database.head()
        started = time.monotonic()
        while known > self._end:
            end = end_of_closed(
                self._database,
                self._placement,
                self.definition,
                first_offset=self._end,
                known_offset=known,
                as_of_us=as_of_us,
                policy=self.ref,
            )
            self._is_behind = end > self._end + STRETCH
            end = min(end, self._end + STRETCH)
            if end <= self._end:
                return 0
            tick = Tick(self._number + 1, Stretch(self._end, end, known, as_of_us), self._placement, self.definition)
            batches, n_left_out = read_tick(self._database, self.ref, tick, self._offers)
            if batches:
                write_tick(self._database, self.ref, tick)
                self._number, self._end = tick.number, end
                return self._taken_in(tick, batches, n_left_out=n_left_out)
            self._end = end  # nothing of ours in there: remember the place, but write no tick for it
            if time.monotonic() - started > _SEARCH_S:
                return 0  # others are learned in this process too
        return 0

    def _taken_in(self, tick: Tick, batches: Sequence[InteractionBatch], *, n_left_out: int) -> int:
        """Learn from a new tick; return from how many decisions. Only here is anything counted: what is learned again is not new."""
        if n_left_out:
            self.n_left_out += n_left_out
            _log.warning(
                "%d rewards of tick %d of %s are beyond reason and left out", n_left_out, tick.number, self.ref
            )
        if not self._has_learned(tick, batches):
            self._restore()
            return 0
        n = sum(len(b) for b in batches)
        self.n_learned += n
        return n

    def _has_learned(self, tick: Tick, batches: Sequence[InteractionBatch]) -> bool:
        """Learn from a tick; false, and it is left out, where the policy cannot: what the policy is then, nobody knows."""
        try:
            n = learn_from(self._policy, batches)
        except MemoryError:
            raise  # the machine's trouble and not the tick's: whoever begins again learns from it
        except Exception as error:  # a plug-in may raise anything, and the same tick would stop whoever comes next
            self._leave_out([tick.number], error)
            return False
        self._n_since_publish += n
        self._unpublished = tick
        if batches:
            self._probe = batches[-1].table.take(slice(-_PROBE_ROWS, None))
        return True

    def _leave_out(self, numbers: Sequence[int], error: Exception) -> None:
        """Write down that nobody will learn from some ticks again."""
        for number in numbers:
            mark(self._database, self.ref, number, is_left_out=True)
        told = error if isinstance(error, NextofferError) else f"{type(error).__name__}: {error}"
        _log.warning("ticks %s of %s are left out: %s", ", ".join(map(str, numbers)), self.ref, told)

    def publish(self) -> int | None:
        """Write a snapshot if something was learned since the last one; return its number.

        A state that does not answer with valid distributions is not published: the learner goes back to the last one
        that did, and leaves out what it has learned since.
        """
        tick = self._unpublished
        if tick is None:
            return None
        folder = snapshot_folder(self._registry.folder, self.ref, tick.number)
        try:
            artifact = self._policy.to_artifact()
            check_snapshot(artifact, load_policy(artifact), self._probe)
        except MemoryError:
            raise
        except Exception as error:  # here too
            self.n_refused += 1
            self._leave_out(self._since_published(), error)
            self._restore()
            return None
        if not folder.exists():
            save_artifact(artifact, folder)
        mark(self._database, self.ref, tick.number, is_published=True)
        self._unpublished = None
        self._n_since_publish = 0
        self._published_at = time.monotonic()
        self._n_published += 1
        if self._n_published % _PRUNE_EVERY == 0:
            prune(self._database, self._registry, self.ref, keep_newest=self._keep_newest)
        return tick.number

    def _since_published(self) -> list[int]:
        there = checkpoints(self._database, self._registry, self.ref)
        ticks = read_ticks(self._database, self.ref, after=there[-1].number if there else 0)
        return [t.number for t in ticks if not t.is_left_out]

    def step(self) -> int:
        """Tick, and publish where it is due: a second after the last time, or half a second if much was learned; return from how many."""
        since_s = time.monotonic() - self._published_at
        has_news = self._unpublished is not None
        # No tick that could not be published soon: each is written down, and what comes meanwhile is in the next.
        if not self._is_behind and since_s < (PUBLISH_EVERY_S if has_news else PUBLISH_APART_S):
            return 0
        n = self.tick()
        wait_s = PUBLISH_APART_S if self._n_since_publish >= PUBLISH_EVERY_N else PUBLISH_EVERY_S
        if self._unpublished is not None and since_s >= wait_s:
            self.publish()
        return n
