"""The decision service in process: HTTP, the demo's bulk traffic and tests all go through here.

Every method that writes has an ``a…`` twin for an event loop; both wait until the fact is on disk.
"""

from __future__ import annotations

import asyncio
import json
import math
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from sqlalchemy import func, insert, select, update

from engine.decisions.configuration import Configuration, LivePlacement
from engine.decisions.pipeline import Pipeline, Prepared, digest_of_request
from engine.decisions.requests import (
    DecisionAnswer,
    DecisionRequest,
    EventReceipt,
    EventRequest,
    OutcomeReceipt,
    OutcomeRequest,
    PlacementStatus,
    RewardReceipt,
    RewardRequest,
)
from engine.experiments.lifecycle import Experiments
from engine.offers.placement import Placement, placement_from_json
from engine.registry.versions import Registry
from engine.rewards.attribution import exposures_of, last_exposure
from engine.store import facts, tables
from engine.store.backends import opener
from engine.store.database import Database, record_change, sqlite_url
from engine.store.facts import FactRow, Receipt, check_text, to_us
from engine.store.writer import ThreadWriter, Writer
from engine.subjects.state import SubjectStates
from policies.errors import (
    ConflictError,
    InvalidInputError,
    NoEligibleOfferError,
    OverloadedError,
    StoreUnavailableError,
    UnknownDecisionError,
    UnknownNameError,
)
from policies.records import Decision, DecisionId, Event, Outcome, Reward, SubjectId

COMMIT_TIMEOUT_S = 5.0
_MAX_UNRECORDED = 100_000
_BULK = 500


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
    commit_timeout_s
        How long a decision waits for the disk before it is answered with the fallback.
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
        clock: Callable[[], datetime] = utc_now,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
        is_shared: bool = False,
    ) -> None:
        if len(secret) < 16:
            raise InvalidInputError(f"the secret has {len(secret)} bytes; expected at least 16 random ones")
        self.database = database
        self.writer = writer
        self.clock = clock
        self.policies = Registry(database, artifacts)
        self.experiments = Experiments(database)
        self.subjects = SubjectStates(database, is_shared=is_shared)
        self._configuration = Configuration(database, is_shared=is_shared)
        self._pipeline = Pipeline(
            database,
            configuration=self._configuration,
            registry=self.policies,
            subjects=self.subjects,
            secret=secret,
            clock=clock,
        )
        self._commit_timeout_s = commit_timeout_s
        self._unrecorded: OrderedDict[str, None] = OrderedDict()
        self._to_void: OrderedDict[str, datetime] = OrderedDict()
        self._lock = threading.Lock()
        self.n_unrecorded = 0

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
            (receipt,) = self._submit([prepared.row]).result(self._commit_timeout_s)
        except (StoreUnavailableError, TimeoutError) as error:
            return self._answer_unrecorded(prepared, error)
        return self._answer(prepared, receipt)

    async def adecide(self, request: DecisionRequest) -> DecisionAnswer:
        """``decide`` for an event loop."""
        prepared = self._prepare(request)
        if isinstance(prepared, DecisionAnswer):
            return prepared
        try:
            (receipt,) = await self._awaited([prepared.row])
        except (StoreUnavailableError, TimeoutError) as error:
            return self._answer_unrecorded(prepared, error)
        return self._answer(prepared, receipt)

    def decide_many(self, requests: Sequence[DecisionRequest]) -> list[DecisionAnswer]:
        """``decide`` for each request in order, with one wait per 500: the same rows as one by one."""
        answers: list[DecisionAnswer] = []
        for start in range(0, len(requests), _BULK):
            made = [self._prepare(r) for r in requests[start : start + _BULK]]
            rows = [p.row for p in made if isinstance(p, Prepared)]
            receipts: list[Receipt] = []
            failure: BaseException | None = None
            if rows:
                try:
                    receipts = self._submit(rows).result(self._commit_timeout_s)
                except (StoreUnavailableError, TimeoutError) as error:
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

    def activate(self, decision_id: str, *, at: datetime | None = None) -> bool:
        """Say that a decision answered with ``is_activated=False`` has been seen; True the first time.

        Raises
        ------
        UnknownDecisionError
            If the decision is not in the log.
        """
        row = self._activation_row(decision_id, at)
        return self._activated(decision_id, self._wait([row])[0])

    async def aactivate(self, decision_id: str, *, at: datetime | None = None) -> bool:
        """``activate`` for an event loop."""
        row = self._activation_row(decision_id, at)
        return self._activated(decision_id, (await self._awaited([row]))[0])

    def get_decision(self, decision_id: str) -> Decision:
        """Read a decision as it was logged; ``activated`` also where it was activated later.

        Raises
        ------
        UnknownDecisionError
            If it is not in the log.
        """
        keys, table, activations = tables.fact_keys, tables.decisions, tables.activations
        with self.database.reading() as connection:
            offset = connection.execute(
                select(keys.c.ledger_offset).where(keys.c.kind == facts.DECISION, keys.c.id == decision_id)
            ).scalar()
            if offset is None:
                raise UnknownDecisionError(decision_id)
            row = connection.execute(select(table).where(table.c.ledger_offset == offset)).first()
            if row is None:
                raise UnknownDecisionError(decision_id)
            decision = facts.decision_from_values(row[1:])
            if not decision.activated:
                seen = connection.execute(
                    select(activations.c.at_us).where(activations.c.decision == decision_id)
                ).first()
                decision = replace(decision, activated=seen is not None)
        return decision

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
        return self.reward_many([request])[0]

    async def areward(self, request: RewardRequest) -> RewardReceipt:
        """``reward`` for an event loop."""
        if request.decision in self._unrecorded:
            return _ignored(request)
        reward = self._reward(request)
        (receipt,) = await self._awaited([facts.reward_row(reward, must_join=request.must_join)])
        return _reward_receipt(reward, receipt)

    def reward_many(self, requests: Sequence[RewardRequest]) -> list[RewardReceipt]:
        """``reward`` for each request in order; all are checked before any is written."""
        taken = [None if r.decision in self._unrecorded else self._reward(r) for r in requests]
        rows = [facts.reward_row(r, must_join=q.must_join) for q, r in zip(requests, taken, strict=True) if r]
        receipts = iter(self._wait(rows))
        return [
            _ignored(q) if r is None else _reward_receipt(r, next(receipts))
            for q, r in zip(requests, taken, strict=True)
        ]

    def outcome(self, request: OutcomeRequest) -> OutcomeReceipt:
        """Take in an outcome of a subject, and say which decisions it is attributed to so far.

        Raises
        ------
        ConflictError
            If the id was used for another outcome.
        StoreUnavailableError, OverloadedError
            If it could not be written: send it again.
        """
        outcome = self._outcome(request)
        return self._outcome_receipt(outcome, self._wait([facts.outcome_row(outcome)])[0])

    async def aoutcome(self, request: OutcomeRequest) -> OutcomeReceipt:
        """``outcome`` for an event loop."""
        outcome = self._outcome(request)
        (receipt,) = await self._awaited([facts.outcome_row(outcome)])
        return self._outcome_receipt(outcome, receipt)

    def outcome_many(self, requests: Sequence[OutcomeRequest]) -> int:
        """Take in many outcomes; return how many were new. Attribution is done where they are read."""
        rows = [facts.outcome_row(self._outcome(r)) for r in requests]
        return sum(r.status == facts.NEW for r in _checked("outcome", rows, self._wait(rows)))

    def event(self, request: EventRequest) -> EventReceipt:
        """Take in behaviour of a subject; its state has it when this returns."""
        return self.event_many([request])[0]

    async def aevent(self, request: EventRequest) -> EventReceipt:
        """``event`` for an event loop."""
        event = self._event(request)
        return self._event_receipt(event, (await self._awaited([facts.event_row(event)]))[0])

    def event_many(self, requests: Sequence[EventRequest]) -> list[EventReceipt]:
        """``event`` for each request in order; all are checked before any is written."""
        events = [self._event(r) for r in requests]
        receipts = self._wait([facts.event_row(e) for e in events])
        return [self._event_receipt(e, r) for e, r in zip(events, receipts, strict=True)]

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
        # A bare name is pinned to its newest version now: a later registration changes no running placement by itself.
        placement = replace(placement, policy=self._pinned(placement.policy), encoder=self._pinned(placement.encoder))
        at_us = to_us(self.clock())
        table = tables.placements
        document = json.dumps(placement.to_json())
        with self.database.writing() as connection:
            found = connection.execute(select(table.c.revision).where(table.c.id == placement.id)).scalar() or 0
            if expected_revision is not None and expected_revision != found:
                raise ConflictError(
                    f"placement {placement.id!r} is at revision {found}, not {expected_revision}: someone changed it "
                    "meanwhile; read it again and repeat the change"
                )
            values = {"revision": found + 1, "document": document, "updated_at_us": at_us}
            if found:
                connection.execute(update(table).where(table.c.id == placement.id).values(values))
            else:
                connection.execute(insert(table).values(id=placement.id, **values))
            record_change(
                connection,
                at_us=at_us,
                actor=actor,
                action="put",
                what=f"placement {placement.id}",
                document=placement.to_json(),
            )
        self._configuration.refresh()
        return found + 1

    def placement(self, placement_id: str) -> tuple[Placement, int]:
        """Read a placement and its revision from the store.

        Raises
        ------
        UnknownNameError
            If there is none.
        """
        table = tables.placements
        with self.database.reading() as connection:
            row = connection.execute(select(table).where(table.c.id == placement_id)).first()
            if row is None:
                raise UnknownNameError("placement", placement_id, connection.execute(select(table.c.id)).scalars())
        return placement_from_json(json.loads(row.document)), row.revision

    def placements(self) -> list[str]:
        """Ids of all placements."""
        return sorted(self._configuration.all())

    def refresh(self) -> None:
        """See changes of configuration made elsewhere now instead of within a quarter of a second."""
        self._configuration.refresh()

    def status(self, placement_id: str) -> PlacementStatus:
        """How a placement is doing."""
        live = self._configuration.placement(placement_id)
        decisions, rewards = tables.decisions, tables.rewards
        with self.database.reading() as connection:
            n, last = connection.execute(
                select(func.count(), func.max(decisions.c.at_us)).where(decisions.c.placement == placement_id)
            ).one()
            joined = rewards.join(decisions, decisions.c.id == rewards.c.decision)
            here = decisions.c.placement == placement_id
            n_rewards = connection.execute(select(func.count()).select_from(joined).where(here)).scalar_one()
            last_reward = connection.execute(
                select(rewards.c.kind, rewards.c.decision)
                .select_from(joined)
                .where(here)
                .order_by(rewards.c.ledger_offset.desc())
                .limit(1)
            ).first()
        return PlacementStatus(
            placement=placement_id,
            revision=live.revision,
            n_offers=len(live.offers),
            policy=live.placement.policy or "baseline",
            experiment=None if live.experiment is None else live.experiment.id,
            n_decisions=n,
            n_rewards=n_rewards,
            last_decision_at=None if last is None else facts.from_us(last),
            last_reward=None
            if last_reward is None
            else f"{last_reward.kind} joined to decision {last_reward.decision}",
            ledger_offset=self.database.head() - 1,
            is_log_healthy=self.writer.is_healthy,
            n_unrecorded=self.n_unrecorded,
        )

    def close(self) -> None:
        """Commit what waits and let go of the store."""
        self.writer.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Inside

    def _pinned(self, ref: str | None) -> str | None:
        return ref if ref is None or ref == "baseline" else str(self.policies.find(ref).ref)

    def _prepare(self, request: DecisionRequest) -> Prepared | DecisionAnswer:
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

    def _stored(self, request: DecisionRequest) -> DecisionAnswer | None:
        keys = tables.fact_keys
        with self.database.reading() as connection:
            digest = connection.execute(
                select(keys.c.digest).where(keys.c.kind == facts.DECISION, keys.c.id == request.id)
            ).scalar()
        if digest is None or request.id is None:
            return None
        if bytes(digest) != digest_of_request(request):
            raise _conflict("decision", request.id)
        decision = self.get_decision(request.id)
        return DecisionAnswer(decision, self._payload(decision), is_repeat=True)

    def _answer(self, prepared: Prepared, receipt: Receipt) -> DecisionAnswer:
        decision = prepared.decision
        if receipt.status == facts.CONFLICT:
            raise _conflict("decision", decision.id)
        if receipt.status == facts.REPEAT:
            stored = self.get_decision(decision.id)
            return DecisionAnswer(stored, self._payload(stored), is_repeat=True)
        self._pipeline.note_stored(decision.offer_set_revision)
        if prepared.live.has_limits and decision.activated:
            self._count_shown(prepared.live, decision.offer)
        return DecisionAnswer(decision, prepared.payload, explanation=prepared.explanation)

    def _answer_unrecorded(self, prepared: Prepared, error: BaseException) -> DecisionAnswer:
        decision = self._pipeline.fallback(prepared)
        with self._lock:
            self.n_unrecorded += 1
            self._unrecorded[decision.id] = None
            # Whether the row reached the disk is not known after a timeout: it is taken back when the log answers again.
            self._to_void[decision.id] = decision.at
            for memory in (self._unrecorded, self._to_void):
                while len(memory) > _MAX_UNRECORDED:
                    memory.popitem(last=False)
        explanation = prepared.explanation
        if explanation is not None:
            explanation = replace(explanation, steps=(*explanation.steps, f"not recorded: {error}"))
        return DecisionAnswer(decision, prepared.payload_of(decision.offer), explanation=explanation)

    def _count_shown(self, live: LivePlacement, offer: str) -> None:
        with self._lock:
            live.shown[offer] = live.shown.get(offer, 0) + 1

    def _payload(self, decision: Decision) -> Any:
        table = tables.offer_sets
        with self.database.reading() as connection:
            text = connection.execute(
                select(table.c.document).where(table.c.revision == decision.offer_set_revision)
            ).scalar()
        offers = [] if text is None else json.loads(text)
        return next((o["payload"] for o in offers if o["id"] == decision.offer), {})

    def _submit(self, rows: list[FactRow]) -> Future[list[Receipt]]:
        future = self.writer.submit(rows)
        if self._to_void and self.writer.is_healthy:
            self._take_back()
        return future

    def _take_back(self) -> None:
        """Void decisions that were answered as not recorded; kept until the log has said that it knows."""
        with self._lock:
            taken, self._to_void = self._to_void, OrderedDict()

        def keep() -> None:
            with self._lock:
                self._to_void.update(taken)

        rows = [facts.void_row(decision_id, at) for decision_id, at in taken.items()]
        try:
            self.writer.submit(rows).add_done_callback(lambda future: keep() if future.exception() else None)
        except (OverloadedError, StoreUnavailableError):
            keep()

    def _wait(self, rows: list[FactRow]) -> list[Receipt]:
        out: list[Receipt] = []
        for start in range(0, len(rows), _BULK * 4):
            part = rows[start : start + _BULK * 4]
            try:
                out += self._submit(part).result(self._commit_timeout_s)
            except TimeoutError as error:
                raise _too_slow(self._commit_timeout_s) from error
        return out

    async def _awaited(self, rows: list[FactRow]) -> list[Receipt]:
        try:
            async with asyncio.timeout(self._commit_timeout_s):
                return await asyncio.wrap_future(self._submit(rows))
        except TimeoutError as error:
            raise _too_slow(self._commit_timeout_s) from error

    def _moment(self, at: datetime | None) -> datetime:
        moment = at or self.clock()
        to_us(moment)
        return moment.astimezone(UTC)

    def _reward(self, request: RewardRequest) -> Reward:
        decision = check_text(request.decision, what="decision id of a reward")
        kind = check_text(request.kind, what="kind of a reward", max_length=64)
        reward_id = f"{decision}:{kind}" if request.id is None else check_text(request.id, what="id of a reward")
        return Reward(
            reward_id, DecisionId(decision), kind, _number(request.value, what="reward"), self._moment(request.at)
        )

    def _outcome(self, request: OutcomeRequest) -> Outcome:
        subject = check_text(request.subject, what="subject of an outcome")
        kind = check_text(request.kind, what="kind of an outcome", max_length=64)
        at = self._moment(request.at)
        outcome_id = (
            f"{subject}:{kind}:{to_us(at)}" if request.id is None else check_text(request.id, what="id of an outcome")
        )
        return Outcome(outcome_id, SubjectId(subject), kind, _number(request.value, what="outcome"), at)

    def _event(self, request: EventRequest) -> Event:
        subject = check_text(request.subject, what="subject of an event")
        kind = check_text(request.kind, what="kind of an event", max_length=64)
        item = request.item and check_text(request.item, what="item of an event")
        event_id = uuid.uuid4().hex if request.id is None else check_text(request.id, what="id of an event")
        value = _number(request.value, what="event")
        return Event(event_id, SubjectId(subject), kind, item, value, self._moment(request.at))

    def _activation_row(self, decision_id: str, at: datetime | None) -> FactRow:
        return facts.activation_row(check_text(decision_id, what="decision id"), self._moment(at))

    def _activated(self, decision_id: str, receipt: Receipt) -> bool:
        if receipt.status == facts.UNKNOWN_DECISION:
            raise UnknownDecisionError(decision_id)
        return receipt.status == facts.NEW

    def _outcome_receipt(self, outcome: Outcome, receipt: Receipt) -> OutcomeReceipt:
        if receipt.status == facts.CONFLICT:
            raise _conflict("outcome", outcome.id)
        return OutcomeReceipt(
            outcome.id,
            "recorded" if receipt.status == facts.NEW else "repeat",
            self._attributed_to(outcome),
            receipt.offset,
        )

    def _attributed_to(self, outcome: Outcome) -> tuple[str, ...]:
        out: list[str] = []
        concerned = [p for p in self._configuration.all().values() if outcome.kind in p.placement.reward.kinds]
        if not concerned:
            return ()
        with self.database.reading() as connection:
            for live in concerned:
                exposures = exposures_of(connection, [outcome.subject], placement=live.placement.id)
                window_us = round(live.placement.reward.window_s * 1e6)
                decision = last_exposure(
                    exposures.get(outcome.subject, []), at_us=to_us(outcome.at), window_us=window_us
                )
                if decision is not None:
                    out.append(decision)
        return tuple(out)

    def _event_receipt(self, event: Event, receipt: Receipt) -> EventReceipt:
        if receipt.status == facts.CONFLICT:
            raise _conflict("event", event.id)
        if receipt.status == facts.NEW:
            self.subjects.advance(event, receipt.offset)
        return EventReceipt(event, "recorded" if receipt.status == facts.NEW else "repeat", receipt.offset)


def open_service(
    folder: Path,
    *,
    url: str | None = None,
    secret: bytes | None = None,
    clock: Callable[[], datetime] = utc_now,
    commit_timeout_s: float = COMMIT_TIMEOUT_S,
    writer: Literal["thread", "process"] = "thread",
) -> DecisionService:
    """Open (and first make, or migrate) a store and the service over it.

    Parameters
    ----------
    folder
        Data folder: artefacts, the secret, and the store itself unless ``url`` names another.
    secret
        Key of the draws; by default one is made on the first start and kept in the folder.
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
        clock=clock,
        commit_timeout_s=commit_timeout_s,
        is_shared=writer == "process" or not database.is_sqlite,
    )


def _helper(database: Database, folder: Path) -> Writer:
    from engine.store.writer_process import SocketWriter, socket_path, start_helper

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


def _number(value: object, *, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:
        raise InvalidInputError(f"value of the {what} is {value!r}; expected a finite number below 1e12 in size")
    return float(value)


def _conflict(what: str, fact_id: str) -> ConflictError:
    return ConflictError(
        f"id {fact_id!r} was used before for another {what}; a retry repeats the first request exactly: choose a new id"
    )


def _too_slow(timeout_s: float) -> StoreUnavailableError:
    return StoreUnavailableError(f"the log did not answer within {timeout_s:g} s; send the same id again")


def _checked(what: str, rows: Iterable[FactRow], receipts: Sequence[Receipt]) -> Sequence[Receipt]:
    for row, receipt in zip(rows, receipts, strict=True):
        if receipt.status == facts.CONFLICT:
            raise _conflict(what, row.id)
    return receipts


def _ignored(request: RewardRequest) -> RewardReceipt:
    reward_id = request.id or f"{request.decision}:{request.kind}"
    return RewardReceipt(reward_id, request.decision, "ignored", joined=False)


def _reward_receipt(reward: Reward, receipt: Receipt) -> RewardReceipt:
    if receipt.status == facts.UNKNOWN_DECISION:
        raise UnknownDecisionError(reward.decision)
    if receipt.status == facts.CONFLICT:
        raise _conflict("reward", reward.id)
    status: Literal["recorded", "repeat"] = "recorded" if receipt.status == facts.NEW else "repeat"
    return RewardReceipt(reward.id, reward.decision, status, joined=receipt.joined, offset=receipt.offset)
