"""All learners of a store in one process: one state per version that decides somewhere, each claimed before it is learned.

Several such processes may run: each learns what it could claim, and takes over what another one has let go.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from engine.experiments.lifecycle import Experiments
from engine.experiments.records import is_version
from engine.learner.learner import TICK_EVERY_S, Learner
from engine.offers.stored import all_placements
from engine.registry.versions import Registry
from engine.rewards.definition import RewardDefinition
from engine.store.database import Database
from engine.store.ownership import Ownership, ownership_of
from policies.errors import ConflictError, NextofferError, StateError, StoreUnavailableError

LOOK_EVERY_S = 1.0
_RETRY_S = 5.0

_log = logging.getLogger("nextoffer.learner")


@dataclass(frozen=True, slots=True)
class Job:
    """What one version learns from."""

    placement: str
    definition: RewardDefinition


class Learners:
    """Learns every version that decides at some placements.

    Parameters
    ----------
    jobs
        Says which versions are to be learned, and from what; asked when the configuration has changed.
    """

    def __init__(
        self,
        database: Database,
        registry: Registry,
        *,
        jobs: Callable[[], Mapping[str, Job]],
        clock: Callable[[], datetime],
        ownership: Ownership | None = None,
    ) -> None:
        self._database = database
        self._registry = registry
        self._jobs = jobs
        self._clock = clock
        self._ownership = ownership or ownership_of(database)
        self._learners: dict[str, Learner] = {}
        self._retry_at: dict[str, float] = {}
        self._looked_at = 0.0
        self._n_before = 0
        self._is_outage_told = False
        self._revision = -1
        self._wanted: Mapping[str, Job] = {}

    @property
    def n_learned(self) -> int:
        """Decisions learned from so far."""
        return self._n_before + sum(learner.n_learned for learner in self._learners.values())

    @property
    def owned(self) -> tuple[str, ...]:
        """Versions that are learned here now."""
        return tuple(sorted(self._learners))

    def run(self, should_stop: Callable[[], bool]) -> None:
        """Learn and publish until told to stop; an outage of the store is waited out."""
        try:
            while not should_stop():
                started = time.monotonic()
                try:
                    n = self.step()
                    self._is_outage_told = False
                except StoreUnavailableError as error:
                    if not self._is_outage_told:
                        _log.warning("learning waits: %s", error)
                        self._is_outage_told = True
                    self._drop_all()
                    n = 0
                if not n:
                    time.sleep(max(0.0, TICK_EVERY_S - (time.monotonic() - started)))
            self._publish_all()
        finally:
            self.close()

    def step(self) -> int:
        """One round over all owned versions; return from how many decisions was learned."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._look()
        n = 0
        for ref, learner in list(self._learners.items()):
            try:
                n += learner.step()
            except StoreUnavailableError:
                raise
            except ConflictError as error:
                _log.warning("%s", error)
                self._drop(ref)
            except Exception as error:  # one placement's trouble must not stop the learning of the others
                _tell_pause(ref, error)
                self._drop(ref)
        return n

    def close(self) -> None:
        """Let go of everything; what was learned and not published is learned again by whoever comes next."""
        self._drop_all()
        self._ownership.close()

    def _look(self) -> None:
        """Follow the configuration, and claim what nobody learns."""
        if self._learners and not self._ownership.is_held():
            _log.warning("the session that held our claims has ended; claiming again")
            self._drop_all()
        revision = self._database.config_revision()
        if revision != self._revision:
            self._wanted, self._revision = self._jobs(), revision
        for ref in [r for r in self._learners if r not in self._wanted]:
            self._drop(ref)
        now = time.monotonic()
        for ref, job in self._wanted.items():
            learner = self._learners.get(ref)
            if learner is not None:
                learner.definition = job.definition
            elif self._retry_at.get(ref, 0.0) <= now and self._ownership.claim(ref):
                self._start(ref, job)
        self._looked_at = time.monotonic()

    def _start(self, ref: str, job: Job) -> None:
        try:
            self._learners[ref] = Learner(
                self._database,
                self._registry,
                placement=job.placement,
                definition=job.definition,
                ref=ref,
                clock=self._clock,
            )
            _log.info("learning %s from placement %s", ref, job.placement)
        except StateError:
            self._ownership.release(ref)
            self._retry_at[ref] = float("inf")  # a version never changes: it will not learn tomorrow either
        except StoreUnavailableError:
            self._ownership.release(ref)
            raise
        except Exception as error:  # a plug-in may raise anything
            _tell_pause(ref, error)
            self._ownership.release(ref)
            self._retry_at[ref] = time.monotonic() + _RETRY_S

    def _publish_all(self) -> None:
        for ref, learner in self._learners.items():
            try:
                learner.publish()
            except StoreUnavailableError:
                raise
            except Exception as error:  # the last snapshots of the others are still to be written
                _log.warning("the last snapshot of %s is not published: %s", ref, error)

    def _drop(self, ref: str) -> None:
        learner = self._learners.pop(ref)
        self._n_before += learner.n_learned
        self._retry_at[ref] = time.monotonic() + _RETRY_S
        try:
            self._ownership.release(ref)
        except Exception as error:  # the session may be what broke; then the lock has gone with it
            _log.info("claim on %s ended by itself: %s", ref, error)

    def _drop_all(self) -> None:
        for ref in list(self._learners):
            self._drop(ref)
            self._retry_at.pop(ref, None)
        self._ownership.close()
        self._looked_at = 0.0


def _tell_pause(ref: str, error: Exception) -> None:
    # An error of ours says all by itself; anything else is a fault that someone has to find.
    is_expected = isinstance(error, NextofferError)
    _log.warning("learning of %s pauses for %g s: %s", ref, _RETRY_S, error, exc_info=not is_expected)


def all_jobs(database: Database) -> dict[str, Job]:
    """Every version that decides at a placement, by itself or as a variant of one of the experiments that run there."""
    with database.reading() as connection:
        placements = all_placements(connection)
    running: dict[str, list[str]] = {}
    for experiment in Experiments(database).list(state="running"):
        named = (v.policy for phase in experiment.phases for v in phase.variants)
        running.setdefault(experiment.placement, []).extend(named)
    out: dict[str, Job] = {}
    for placement_id, (placement, _) in placements.items():
        refs = (placement.policy, *running.get(placement_id, ()))
        for ref in dict.fromkeys(r for r in refs if is_version(r)):
            job = out.setdefault(ref, Job(placement_id, placement.reward))
            if job.placement != placement_id:
                _log.warning(
                    "version %s decides at placements %s and %s; it learns from the first only: register a copy under "
                    "another name for the second",
                    ref,
                    job.placement,
                    placement_id,
                )
    return out
