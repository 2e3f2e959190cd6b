"""The decision service in process: HTTP, the demo's bulk traffic and tests all go through here.

Every method that writes has an ``a…`` twin for an event loop; both wait until the fact is on disk. What stands behind
it: ``pipeline`` makes decisions, ``log`` waits for the disk, ``intake`` takes in facts, ``placements`` is configuration.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from sqlalchemy import select

from engine.decisions.configuration import Configuration
from engine.decisions.follower import Follower
from engine.decisions.intake import FactIntake
from engine.decisions.kept import Kept, find_kept
from engine.decisions.ladder import BASELINE, DEADLINE_S
from engine.decisions.log import BULK, COMMIT_TIMEOUT_S, DurableLog, conflict
from engine.decisions.pages import check_slots, digest_of_page, prepare_page, slot_decision_id, slot_requests
from engine.decisions.pipeline import Pipeline, Prepared, digest_of_request
from engine.decisions.placements import Placements
from engine.decisions.requests import (
    DecisionAnswer,
    DecisionRequest,
    EventReceipt,
    EventRequest,
    IdentifyReceipt,
    IdentifyRequest,
    OutcomeReceipt,
    OutcomeRequest,
    PageAnswer,
    PageRequest,
    PlacementStatus,
    RewardReceipt,
    RewardRequest,
)
from engine.decisions.stored import stored_decision, stored_payload
from engine.experiments.allocation import Allocation
from engine.experiments.controls import Controls, controls_of
from engine.experiments.lifecycle import Experiments
from engine.experiments.records import Experiment
from engine.offers.placement import Placement
from engine.registry.versions import Registry
from engine.rewards.seen import BOT
from engine.store import facts, tables
from engine.store.backends import opener
from engine.store.database import Database, sqlite_url
from engine.store.facts import Receipt, check_text
from engine.store.writer import ThreadWriter, Writer
from engine.subjects.links import People
from engine.subjects.state import SubjectStates
from policies.errors import InvalidInputError, NextofferError, NoEligibleOfferError, StoreUnavailableError
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
        self._facts = FactIntake(
            database,
            self.log,
            configuration=self._configuration,
            subjects=self.subjects,
            people=self.people,
            clock=clock,
        )
        self._placements = Placements(
            database, self.log, configuration=self._configuration, registry=self.policies, clock=clock
        )
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
                if ref is not None and ref != BASELINE:
                    with suppress(NextofferError, OSError):  # the ladder says so where somebody decides by it
                        self.policies.load(ref)

    @property
    def writer(self) -> Writer:
        """The one writer of the log."""
        return self.log.writer

    @property
    def n_unrecorded(self) -> int:
        """Decisions answered without a durable log since the start."""
        return self.log.n_unrecorded

    # Decisions

    def decide(self, request: DecisionRequest) -> DecisionAnswer:
        """Choose an offer, and answer when the choice is on disk.

        The same id with the same request gets the stored answer. If the log cannot be written, the answer is the
        baseline order's offer with ``recorded`` false.

        Raises
        ------
        ConflictError
            If the id was used for another request.
        UnknownNameError, InvalidInputError, NoEligibleOfferError, OverloadedError
            With the place and the mend.
        """
        prepared = self._prepare(request)
        if isinstance(prepared, DecisionAnswer):
            return prepared
        try:
            (receipt,) = self.log.wait([prepared.row])
        except StoreUnavailableError as error:
            return self._answer_unrecorded(prepared, error)
        return self._answer(prepared, receipt)

    async def adecide(self, request: DecisionRequest) -> DecisionAnswer:
        """``decide`` for an event loop."""
        prepared = self._prepare(request)
        if isinstance(prepared, DecisionAnswer):
            return prepared
        try:
            (receipt,) = await self.log.awaited([prepared.row])
        except StoreUnavailableError as error:
            return self._answer_unrecorded(prepared, error)
        return self._answer(prepared, receipt)

    def decide_many(self, requests: Sequence[DecisionRequest]) -> list[DecisionAnswer]:
        """``decide`` for each request in order, with one wait per 500: the same rows as one by one."""
        answers: list[DecisionAnswer] = []
        for start in range(0, len(requests), BULK):
            made = [self._prepare(r) for r in requests[start : start + BULK]]
            rows = [p.row for p in made if isinstance(p, Prepared)]
            receipts: list[Receipt] = []
            failure: BaseException | None = None
            if rows:
                try:
                    receipts = self.log.wait(rows)
                except StoreUnavailableError as error:
                    failure = error
            waiting = iter(receipts)
            for prepared in made:
                if isinstance(prepared, DecisionAnswer):
                    answers.append(prepared)
                elif failure is not None:
                    answers.append(self._answer_unrecorded(prepared, failure))
                else:
                    answers.append(self._answer(prepared, next(waiting)))
        return answers

    def decide_page(self, request: PageRequest) -> PageAnswer:
        """Choose an offer for each slot of a page, no offer twice; all are on disk together when this returns.

        Raises
        ------
        ConflictError
            If the page's id was used for another request.
        NoEligibleOfferError
            If a slot is left without an offer; then nothing is written.
        """
        page, made = self._prepare_page(request)
        if isinstance(made, PageAnswer):
            return made
        try:
            receipts = self.log.wait([p.row for p in made])
        except StoreUnavailableError as error:
            return self._page_unrecorded(request, page, made, error)
        return self._page_answer(request, page, made, receipts)

    async def adecide_page(self, request: PageRequest) -> PageAnswer:
        """``decide_page`` for an event loop."""
        page, made = self._prepare_page(request)
        if isinstance(made, PageAnswer):
            return made
        try:
            receipts = await self.log.awaited([p.row for p in made])
        except StoreUnavailableError as error:
            return self._page_unrecorded(request, page, made, error)
        return self._page_answer(request, page, made, receipts)

    def activate(self, decision_id: str, *, at: datetime | None = None, shown: str | None = None) -> bool:
        """Say that a decision answered with ``is_activated=False`` has been seen; True the first time.

        Parameters
        ----------
        shown
            Offer that the page has really shown: where it is another than the decision's, monitoring says so.

        Raises
        ------
        UnknownDecisionError
            If the decision is not in the log.
        """
        return self._facts.activate(decision_id, at=at, shown=shown)

    async def aactivate(self, decision_id: str, *, at: datetime | None = None, shown: str | None = None) -> bool:
        """``activate`` for an event loop."""
        return await self._facts.aactivate(decision_id, at=at, shown=shown)

    def get_decision(self, decision_id: str) -> Decision:
        """Read a decision as it was logged; ``activated`` also where it was activated later.

        Raises
        ------
        UnknownDecisionError
            If it is not in the log.
        """
        return stored_decision(self.database, decision_id)

    # What came of it

    def reward(self, request: RewardRequest) -> RewardReceipt:
        """Take in a reward; twice is once.

        Raises
        ------
        UnknownDecisionError
            If ``must_join`` and the decision is not in the log.
        ConflictError
            If the id was used for another reward.
        StoreUnavailableError, OverloadedError
            If it could not be written: send it again.
        """
        return self._facts.reward(request)

    async def areward(self, request: RewardRequest) -> RewardReceipt:
        """``reward`` for an event loop."""
        return await self._facts.areward(request)

    def reward_many(self, requests: Sequence[RewardRequest]) -> list[RewardReceipt]:
        """``reward`` for each request in order; all are checked before any is written."""
        return self._facts.reward_many(requests)

    def outcome(self, request: OutcomeRequest) -> OutcomeReceipt:
        """Take in an outcome of a subject, and say which decisions it is attributed to so far.

        Raises
        ------
        ConflictError
            If the id was used for another outcome.
        StoreUnavailableError, OverloadedError
            If it could not be written: send it again.
        """
        return self._facts.outcome(request)

    async def aoutcome(self, request: OutcomeRequest) -> OutcomeReceipt:
        """``outcome`` for an event loop."""
        return await self._facts.aoutcome(request)

    def outcome_many(self, requests: Sequence[OutcomeRequest]) -> int:
        """Take in many outcomes; return how many were new. Attribution is done where they are read."""
        return self._facts.outcome_many(requests)

    def event(self, request: EventRequest) -> EventReceipt:
        """Take in behaviour of a subject; its state has it when this returns."""
        return self._facts.event(request)

    async def aevent(self, request: EventRequest) -> EventReceipt:
        """``event`` for an event loop."""
        return await self._facts.aevent(request)

    def event_many(self, requests: Sequence[EventRequest]) -> list[EventReceipt]:
        """``event`` for each request in order; all are checked before any is written."""
        return self._facts.event_many(requests)

    def identify(self, request: IdentifyRequest) -> IdentifyReceipt:
        """Say that two ids are one person, such as an anonymous visitor and a login.

        Raises
        ------
        ConflictError
            If the id was identified as another one before, or the link would go in a circle.
        InvalidInputError
            If both ids are the same.
        """
        return self._facts.identify(request)

    async def aidentify(self, request: IdentifyRequest) -> IdentifyReceipt:
        """``identify`` for an event loop."""
        return await self._facts.aidentify(request)

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

    # Configuration

    def put_placement(self, placement: Placement, *, expected_revision: int | None = None, actor: str = "") -> int:
        """Write a placement and return its new revision.

        Raises
        ------
        ConflictError
            If ``expected_revision`` is given and is not the current one (0: does not exist yet).
        UnknownNameError
            If its policy or encoder is not registered.
        """
        return self._placements.put(placement, expected_revision=expected_revision, actor=actor)

    def placement(self, placement_id: str) -> tuple[Placement, int]:
        """Read a placement and its revision from the store.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        return self._placements.get(placement_id)

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

    def placements(self) -> list[str]:
        """Ids of all placements."""
        return self._placements.ids()

    def refresh(self) -> None:
        """See changes of configuration made elsewhere now instead of within a quarter of a second."""
        self._configuration.refresh()

    def status(self, placement_id: str) -> PlacementStatus:
        """How a placement is doing."""
        return self._placements.status(placement_id)

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

    # Inside

    def _prepare(self, request: DecisionRequest) -> Prepared | DecisionAnswer:
        try:
            return self._prepare_known(request)
        except StoreUnavailableError as error:
            if request.dry_run:  # nobody sees it, and what it asks cannot be told
                raise
            return self._answer_unrecorded(self._pipeline.prepare(request, is_store_away=True), error)

    def _prepare_known(self, request: DecisionRequest) -> Prepared | DecisionAnswer:
        if request.ttl_s is not None:
            kept = self._kept(request, request.ttl_s)
            again = self._shown_again(kept, [request], lambda decision_id, _: decision_id)
            if again is not None:
                return again[1][0]
            request = request._replace(id=kept.next_id, digest=kept.digest)
        try:
            prepared = self._pipeline.prepare(request)
        except NoEligibleOfferError:
            # An offer may have run out since the first answer: a retry still gets that answer.
            stored = None if request.id is None or request.dry_run else self._stored(request)
            if stored is None:
                raise
            return stored
        if request.dry_run:
            return DecisionAnswer(prepared.decision, prepared.payload, explanation=prepared.explanation)
        return prepared

    def _kept(self, request: DecisionRequest, ttl_s: float, slots: tuple[str, ...] = ()) -> Kept:
        if request.id is not None:
            raise InvalidInputError("a request has both id and ttl_s; a kept decision makes its own id: leave one out")
        at = request.at or self.clock()
        person = self.people.ids(check_text(request.subject, what="subject"))
        return find_kept(self.database, request.placement, person, ttl_s=ttl_s, at=at, slots=slots)

    def _shown_again(
        self, kept: Kept, requests: Sequence[DecisionRequest], id_of: Callable[[str, int], str]
    ) -> tuple[str, list[DecisionAnswer]] | None:
        """Newest kept decision (or page) whose every offer may still be shown, with its id."""
        if not kept.stored:
            return None
        payloads = [self._pipeline.showable_again(r) for r in requests]
        for stored in kept.stored:
            found = [self.get_decision(id_of(stored, i)) for i in range(len(requests))]
            was_bot = any(d.policy.name == BOT for d in found) and requests[0].role != "bot"
            if not was_bot and all(d.offer in p for d, p in zip(found, payloads, strict=True)):
                # What the site shows is today's: a title or a picture may have changed meanwhile.
                answers = zip(found, payloads, strict=True)
                return stored, [DecisionAnswer(d, p[d.offer], is_repeat=True) for d, p in answers]
        return None

    def _prepare_page(self, request: PageRequest) -> tuple[str, list[Prepared] | PageAnswer]:
        check_slots(request.slots)
        try:
            return self._prepare_known_page(request)
        except StoreUnavailableError as error:
            if request.decision.dry_run:
                raise
            page = request.decision.id or uuid.uuid4().hex
            alone = partial(self._pipeline.prepare, is_store_away=True)
            made = prepare_page(alone, request, page, digest_of_page(request))
            return page, self._page_unrecorded(request, page, made, error)

    def _prepare_known_page(self, request: PageRequest) -> tuple[str, list[Prepared] | PageAnswer]:
        one = request.decision
        kept = None if one.ttl_s is None else self._kept(one, one.ttl_s, tuple(s.id for s in request.slots))
        page = uuid.uuid4().hex if one.id is None and kept is None else one.id if kept is None else kept.next_id
        assert page is not None
        digest = digest_of_page(request) if kept is None else kept.digest
        if one.id is not None and not one.dry_run:
            stored = [self._stored(r) for r in slot_requests(request, page, digest)]
            if stored[0] is not None:
                return page, _page(request, page, [a for a in stored if a is not None])
        if kept is not None:
            slots = list(slot_requests(request, page, digest))
            again = self._shown_again(kept, slots, lambda before, i: slot_decision_id(before, request.slots[i].id))
            if again is not None:
                return page, _page(request, *again)
        made = prepare_page(self._pipeline.prepare, request, page, digest)
        if one.dry_run:
            return page, _page(
                request, page, [DecisionAnswer(p.decision, p.payload, explanation=p.explanation) for p in made]
            )
        return page, made

    def _page_answer(
        self, request: PageRequest, page: str, made: list[Prepared], receipts: Sequence[Receipt]
    ) -> PageAnswer:
        if any(r.status == facts.CONFLICT for r in receipts):
            # Another page of this id, with other slots, came between the look and the commit: take back what is new of ours.
            new = [p.decision for p, r in zip(made, receipts, strict=True) if r.status == facts.NEW]
            self.log.submit([facts.void_row(d.id, d.at) for d in new])
            raise conflict("page", page)
        return _page(request, page, [self._answer(p, r) for p, r in zip(made, receipts, strict=True)])

    def _page_unrecorded(
        self, request: PageRequest, page: str, made: list[Prepared], error: BaseException
    ) -> PageAnswer:
        answers: list[DecisionAnswer] = []
        for prepared in made:
            taken = {a.decision.offer for a in answers}
            answers.append(self._answer_unrecorded(prepared, error, taken=taken))
        return _page(request, page, answers)

    def _stored(self, request: DecisionRequest) -> DecisionAnswer | None:
        keys = tables.fact_keys
        with self.database.reading() as connection:
            digest = connection.execute(
                select(keys.c.digest).where(keys.c.kind == facts.DECISION, keys.c.id == request.id)
            ).scalar()
        if digest is None or request.id is None:
            return None
        if not facts.is_same(bytes(digest), digest_of_request(request)):
            raise conflict("decision", request.id)
        decision = self.get_decision(request.id)
        return DecisionAnswer(decision, stored_payload(self.database, decision), is_repeat=True)

    def _answer(self, prepared: Prepared, receipt: Receipt) -> DecisionAnswer:
        decision = prepared.decision
        if receipt.status == facts.CONFLICT:
            raise conflict("decision", decision.id)
        if receipt.status == facts.REPEAT:
            stored = self.get_decision(decision.id)
            if (stored.subject, stored.placement) != (decision.subject, decision.placement):
                raise conflict("decision", decision.id)  # an id made here, of which no digest is kept
            return DecisionAnswer(stored, stored_payload(self.database, stored), is_repeat=True)
        self._pipeline.note_stored(decision.offer_set_revision)
        if prepared.live.shown and decision.activated:
            self._configuration.count_shown(prepared.live, decision.offer)
        return DecisionAnswer(decision, prepared.payload, explanation=prepared.explanation)

    def _answer_unrecorded(
        self, prepared: Prepared, error: BaseException, *, taken: Collection[str] = ()
    ) -> DecisionAnswer:
        decision = self._pipeline.fallback(prepared, taken=taken)
        self.log.note_unrecorded(decision.id, decision.at)
        explanation = prepared.explanation
        if explanation is not None:
            explanation = replace(explanation, steps=(*explanation.steps, f"not recorded: {error}"))
        return DecisionAnswer(decision, prepared.payload_of(decision.offer), explanation=explanation)


def _page(request: PageRequest, page: str, answers: Sequence[DecisionAnswer]) -> PageAnswer:
    return PageAnswer(page, tuple((slot.id, a) for slot, a in zip(request.slots, answers, strict=True)))


def open_service(
    folder: Path,
    *,
    url: str | None = None,
    secret: bytes | None = None,
    secret_version: int = 1,
    clock: Callable[[], datetime] = utc_now,
    commit_timeout_s: float = COMMIT_TIMEOUT_S,
    policy_deadline_s: float = DEADLINE_S,
    writer: Literal["thread", "process"] = "thread",
) -> DecisionService:
    """Open (and first make, or migrate) a store and the service over it.

    Parameters
    ----------
    folder
        Data folder: artefacts, the secret, and the store itself unless ``url`` names another.
    secret
        Key of the draws; by default one is made on the first start and kept in the folder.
    secret_version
        Number logged with each draw: raised with a new secret, so that an audit finds the one a draw was made with.
    writer
        ``process``: a helper that several workers on this host share; ``thread``: this process is the only one that writes facts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(url or sqlite_url(folder / "nextoffer.db"))
    database.upgrade()
    return DecisionService(
        database,
        ThreadWriter(opener(database)) if writer == "thread" else _helper(database, folder),
        artifacts=folder / "artifacts",
        secret=secret or _kept_secret(folder / "secret"),
        secret_version=secret_version,
        clock=clock,
        commit_timeout_s=commit_timeout_s,
        policy_deadline_s=policy_deadline_s,
        is_shared=writer == "process" or not database.is_sqlite,
    )


def _helper(database: Database, folder: Path) -> Writer:
    from engine.store.writer_client import SocketWriter
    from engine.store.writer_process import socket_path, start_helper

    url = database.url.render_as_string(hide_password=False)
    path = socket_path(folder)
    return SocketWriter(path, lambda: start_helper(url, path))


def _kept_secret(path: Path) -> bytes:
    import os
    import secrets

    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        made = secrets.token_bytes(32)
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    return made
