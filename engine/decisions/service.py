"""The decision service in process: HTTP, the demo's bulk traffic and tests all go through here.

Every method that writes has an ``a…`` twin for an event loop; both wait until the fact is on disk. What stands behind it:
``deciding`` and ``page_deciding`` answer with decisions that ``pipeline`` makes, ``log`` waits for the disk, ``intake`` takes
in facts, ``placements`` is configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self

from engine.decisions.configuration import Configuration
from engine.decisions.deciding import Deciding
from engine.decisions.follower import Follower
from engine.decisions.intake import FactIntake
from engine.decisions.ladder import DEADLINE_S
from engine.decisions.log import COMMIT_TIMEOUT_S, DurableLog
from engine.decisions.page_deciding import PageDeciding
from engine.decisions.pipeline import Pipeline
from engine.decisions.placements import Placements
from engine.decisions.stored import stored_decision
from engine.experiments.allocation import Allocation
from engine.experiments.controls import Controls, controls_of
from engine.experiments.lifecycle import Experiments
from engine.experiments.records import Experiment, is_version
from engine.offers.placement import Placement
from engine.registry.versions import Registry
from engine.store.database import Database
from engine.store.writer import Writer
from engine.subjects.links import People
from engine.subjects.state import SubjectStates
from policies.errors import InvalidInputError, NextofferError
from policies.records import Decision, Features

if TYPE_CHECKING:
    from engine.subjects.erasure import Erasure


def utc_now() -> datetime:
    """Clock of a service that lives in real time."""
    return datetime.now(UTC)


class DecisionService:
    """Decides, and takes in what came of it.

    Parameters
    ----------
    writer
        Takes ownership: ``close`` closes it.
    secret
        Key of the draws; the same secret gives the same draws for the same ids.
    secret_version
        Number logged with each draw, by which an audit finds the secret it was made with.
    commit_timeout_s
        How long a decision waits for the disk before it is answered with the fallback.
    policy_deadline_s
        How long a policy may take, and a request may have waited, before a lower rung answers.
    is_shared
        Whether other processes write facts too, so that what is cached of subjects and stock has to follow the ledger.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        *,
        artifacts: Path,
        secret: bytes,
        secret_version: int = 1,
        clock: Callable[[], datetime] = utc_now,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
        policy_deadline_s: float = DEADLINE_S,
        is_shared: bool = False,
    ) -> None:
        if len(secret) < 16:
            raise InvalidInputError(f"the secret has {len(secret)} bytes; expected at least 16 random ones")
        self.database = database
        self.log = DurableLog(writer, commit_timeout_s=commit_timeout_s)
        self.clock = clock
        self.policies = Registry(database, artifacts)
        self.experiments = Experiments(database)
        self.people = People(database, is_shared=is_shared)
        self.subjects = SubjectStates(database, people=self.people, is_shared=is_shared)
        self._configuration = Configuration(database, is_shared=is_shared)
        self._pipeline = Pipeline(
            database,
            configuration=self._configuration,
            registry=self.policies,
            subjects=self.subjects,
            people=self.people,
            secret=secret,
            secret_version=secret_version,
            clock=clock,
            deadline_s=policy_deadline_s,
        )
        self.policies.warm = self._pipeline.warm
        self._follower: Follower | None = None
        deciding = Deciding(
            database,
            self.log,
            self._pipeline,
            configuration=self._configuration,
            people=self.people,
            clock=clock,
        )
        pages = PageDeciding(deciding)
        intake = FactIntake(
            database,
            self.log,
            configuration=self._configuration,
            subjects=self.subjects,
            people=self.people,
            clock=clock,
        )
        placements = Placements(
            database, self.log, configuration=self._configuration, registry=self.policies, clock=clock
        )
        # What the parts do for callers; each is described where it is done.
        self.decide, self.adecide, self.decide_many = deciding.decide, deciding.adecide, deciding.decide_many
        self.decide_page, self.adecide_page = pages.decide_page, pages.adecide_page
        self.activate, self.aactivate = intake.activate, intake.aactivate
        self.reward, self.areward, self.reward_many = intake.reward, intake.areward, intake.reward_many
        self.counts_everywhere, self.uncounted = intake.counts_everywhere, intake.uncounted
        self.outcome, self.aoutcome, self.outcome_many = intake.outcome, intake.aoutcome, intake.outcome_many
        self.event, self.aevent, self.event_many = intake.event, intake.aevent, intake.event_many
        self.identify, self.aidentify = intake.identify, intake.aidentify
        self.put_placement, self.placement = placements.put, placements.get
        self.placements, self.status = placements.ids, placements.status

    def follow(self) -> None:
        """See what changes elsewhere in a thread from now on, and load what running placements decide by, once, now.

        For a server: then no visitor waits for a snapshot to be read, or for a database that does not answer.
        """
        looks = [self._configuration.refresh, self._follow_policies, self.people.follow, self.subjects.follow_traits]
        if self.subjects.is_shared:
            looks.append(self.subjects.follow_events)
        for look in looks:  # before the first visitor: whoever is followed no longer looks for itself
            with suppress(NextofferError):  # a store that is away is followed until it is back
                look()
        for part in (self._configuration, self.policies, self.people, self.subjects):
            part.is_followed = True
        self._follower = Follower(looks)

    def _follow_policies(self) -> None:
        self.policies.follow()
        for live in self._configuration.all().values():
            for ref in (live.placement.policy, live.placement.fallback, *live.trials.policies):
                if is_version(ref):
                    # A plug-in may raise anything; the ladder says so where somebody decides by it.
                    with suppress(Exception):
                        self.policies.load(ref)

    @property
    def writer(self) -> Writer:
        """The one writer of the log."""
        return self.log.writer

    @property
    def n_unrecorded(self) -> int:
        """Decisions answered without a durable log since the start."""
        return self.log.n_unrecorded

    def get_decision(self, decision_id: str) -> Decision:
        """Read a decision as it was logged; ``activated`` also where it was activated later.

        Raises
        ------
        UnknownDecisionError
            If it is not in the log.
        """
        return stored_decision(self.database, decision_id)

    def erase(self, subject: str, *, actor: str = "", cold: Path | None = None) -> Erasure:
        """Erase a person (a subject and everybody linked with it); aggregates stay true under a pseudonym.

        Parameters
        ----------
        cold
            Folder of the cold path; by default beside the artefacts.
        """
        from engine.subjects.erasure import erase  # loads Arrow for the cold files; most servers never need it

        found = erase(
            self.database, subject, at=self.clock(), actor=actor, cold=cold or self.policies.folder.parent / "cold"
        )
        self.subjects.forget_all()
        return found

    def live_placement(self, placement_id: str) -> Placement:
        """Placement as this server decides by it, at most a quarter of a second old; no look at the store.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        return self._configuration.placement(placement_id).placement

    def allocation(self, placement_id: str, subject: str, features: Features) -> Allocation:
        """Who would decide for a subject now; nothing is recorded.

        Raises
        ------
        UnknownNameError
            If there is no such placement.
        """
        return self._pipeline.allocation(placement_id, subject, features)

    def running_experiments(self) -> list[Experiment]:
        """Experiments that take subjects now; none while they are paused."""
        return [e for live in self._configuration.all().values() for e in live.trials.experiments]

    def controls(self) -> Controls:
        """Switches over all experiments."""
        return controls_of(self.database)

    def refresh(self) -> None:
        """See changes of configuration made elsewhere now instead of within a quarter of a second."""
        self._configuration.refresh()

    def close(self) -> None:
        """Commit what waits and let go of the store."""
        if self._follower is not None:
            self._follower.close()
        self.log.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
