"""What came of decisions: rewards, outcomes of subjects, events and activations, checked and put into the log."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal

from engine.decisions.configuration import Configuration
from engine.decisions.log import DurableLog, conflict
from engine.decisions.requests import (
    EventReceipt,
    EventRequest,
    IdentifyReceipt,
    IdentifyRequest,
    OutcomeReceipt,
    OutcomeRequest,
    RewardReceipt,
    RewardRequest,
    Uncounted,
)
from engine.decisions.stored import placement_of
from engine.rewards.attribution import exposures_of, last_exposure
from engine.store import facts
from engine.store.database import Database
from engine.store.facts import FactRow, Receipt, check_text, to_us
from engine.subjects.links import People, people_of
from engine.subjects.state import SubjectStates
from policies.errors import ConflictError, InvalidInputError, UnknownDecisionError
from policies.records import DecisionId, Event, Outcome, Reward, SubjectId


class FactIntake:
    """Takes in facts; every method returns when they are on disk, and its ``a…`` twin does so for an event loop."""

    def __init__(
        self,
        database: Database,
        log: DurableLog,
        *,
        configuration: Configuration,
        subjects: SubjectStates,
        people: People,
        clock: Callable[[], datetime],
    ) -> None:
        self._people = people
        self._database = database
        self._log = log
        self._configuration = configuration
        self._subjects = subjects
        self._clock = clock

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
        row = self._activation_row(decision_id, at, shown)
        is_new = self._activated(decision_id, self._log.wait([row])[0])
        if is_new and self._configuration.has_stock:
            self._configuration.count_activated(decision_id)
        return is_new

    async def aactivate(self, decision_id: str, *, at: datetime | None = None, shown: str | None = None) -> bool:
        """``activate`` for an event loop."""
        row = self._activation_row(decision_id, at, shown)
        is_new = self._activated(decision_id, (await self._log.awaited([row]))[0])
        if is_new and self._configuration.has_stock:
            await asyncio.to_thread(self._configuration.count_activated, decision_id)
        return is_new

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
        if self._log.is_unrecorded(request.decision):
            return _ignored(request)
        reward = self._reward(request)
        (receipt,) = await self._log.awaited([facts.reward_row(reward, must_join=request.must_join)])
        return _reward_receipt(reward, receipt)

    def reward_many(self, requests: Sequence[RewardRequest]) -> list[RewardReceipt]:
        """``reward`` for each request in order; all are checked before any is written."""
        taken = [None if self._log.is_unrecorded(r.decision) else self._reward(r) for r in requests]
        rows = [facts.reward_row(r, must_join=q.must_join) for q, r in zip(requests, taken, strict=True) if r]
        receipts = iter(self._log.wait(rows))
        return [
            _ignored(q) if r is None else _reward_receipt(r, next(receipts))
            for q, r in zip(requests, taken, strict=True)
        ]

    def counts_everywhere(self, kind: str) -> bool:
        """Whether the reward definition of every placement names a kind; looks at nothing but memory."""
        return all(kind in live.placement.reward.kinds for live in self._configuration.all().values())

    def uncounted(self, decision_id: str, kind: str) -> Uncounted | None:
        """Where a reward of a kind is kept and nothing learns from it; None where it counts, or the decision is not known."""
        placement_id = placement_of(self._database, decision_id)
        live = None if placement_id is None else self._configuration.all().get(placement_id)
        if live is None or kind in live.placement.reward.kinds:
            return None
        return Uncounted(live.placement.id, tuple(sorted(live.placement.reward.kinds)))

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
        return self._outcome_receipt(outcome, self._log.wait([facts.outcome_row(outcome)])[0])

    async def aoutcome(self, request: OutcomeRequest) -> OutcomeReceipt:
        """``outcome`` for an event loop."""
        outcome = self._outcome(request)
        (receipt,) = await self._log.awaited([facts.outcome_row(outcome)])
        return await asyncio.to_thread(self._outcome_receipt, outcome, receipt)

    def outcome_many(self, requests: Sequence[OutcomeRequest]) -> int:
        """Take in many outcomes; return how many were new. Attribution is done where they are read."""
        rows = [facts.outcome_row(self._outcome(r)) for r in requests]
        return sum(r.status == facts.NEW for r in _checked("outcome", rows, self._log.wait(rows)))

    def event(self, request: EventRequest) -> EventReceipt:
        """Take in behaviour of a subject; its state has it when this returns."""
        return self.event_many([request])[0]

    async def aevent(self, request: EventRequest) -> EventReceipt:
        """``event`` for an event loop."""
        event = self._event(request)
        return self._event_receipt(event, (await self._log.awaited([facts.event_row(event)]))[0])

    def event_many(self, requests: Sequence[EventRequest]) -> list[EventReceipt]:
        """``event`` for each request in order; all are checked before any is written."""
        events = [self._event(r) for r in requests]
        receipts = self._log.wait([facts.event_row(e) for e in events])
        return [self._event_receipt(e, r) for e, r in zip(events, receipts, strict=True)]

    def identify(self, request: IdentifyRequest) -> IdentifyReceipt:
        """Say that two ids are one person; from the return on, decisions and attribution know it.

        Raises
        ------
        ConflictError
            If the id was identified as another one before, or the link would go in a circle.
        InvalidInputError
            If both ids are the same.
        """
        row = self._link_row(request)
        return self._identified(request, self._log.wait([row])[0])

    async def aidentify(self, request: IdentifyRequest) -> IdentifyReceipt:
        """``identify`` for an event loop."""
        row = await asyncio.to_thread(self._link_row, request)
        (receipt,) = await self._log.awaited([row])
        return await asyncio.to_thread(self._identified, request, receipt)

    def _link_row(self, request: IdentifyRequest) -> FactRow:
        subject = check_text(request.subject, what="subject")
        identified_as = check_text(request.identified_as, what="identified_as")
        if subject == identified_as:
            raise InvalidInputError(f"subject {subject!r} is identified as itself; send the id it has after the login")
        with self._database.reading() as connection:
            if people_of(connection, [identified_as])[identified_as] == subject:
                raise ConflictError(
                    f"{identified_as!r} was identified as {subject!r} before; a link back would go in a circle: nothing is to be done"
                )
        return facts.link_row(subject, identified_as, self._moment(request.at))

    def _identified(self, request: IdentifyRequest, receipt: Receipt) -> IdentifyReceipt:
        if receipt.status == facts.CONFLICT:
            raise ConflictError(
                f"{request.subject!r} was identified as another subject before; an id is identified once: give a device a new "
                "anonymous id when its user logs out"
            )
        self._people.follow()
        status: Literal["recorded", "repeat"] = "recorded" if receipt.status == facts.NEW else "repeat"
        person = self._people.ids(request.subject)
        return IdentifyReceipt(request.subject, request.identified_as, status, person, receipt.offset)

    def _moment(self, at: datetime | None) -> datetime:
        moment = at or self._clock()
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

    def _activation_row(self, decision_id: str, at: datetime | None, shown: str | None = None) -> FactRow:
        shown = None if shown is None else check_text(shown, what="offer that was shown")
        return facts.activation_row(check_text(decision_id, what="decision id"), self._moment(at), shown)

    def _activated(self, decision_id: str, receipt: Receipt) -> bool:
        if receipt.status == facts.UNKNOWN_DECISION:
            raise UnknownDecisionError(decision_id)
        return receipt.status == facts.NEW

    def _outcome_receipt(self, outcome: Outcome, receipt: Receipt) -> OutcomeReceipt:
        if receipt.status == facts.CONFLICT:
            raise conflict("outcome", outcome.id)
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
        with self._database.reading() as connection:
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
            raise conflict("event", event.id)
        if receipt.status == facts.NEW:
            self._subjects.advance(event, receipt.offset)
        return EventReceipt(event, "recorded" if receipt.status == facts.NEW else "repeat", receipt.offset)


def _number(value: object, *, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e12:
        raise InvalidInputError(f"value of the {what} is {value!r}; expected a finite number below 1e12 in size")
    return float(value)


def _checked(what: str, rows: Iterable[FactRow], receipts: Sequence[Receipt]) -> Sequence[Receipt]:
    for row, receipt in zip(rows, receipts, strict=True):
        if receipt.status == facts.CONFLICT:
            raise conflict(what, row.id)
    return receipts


def _ignored(request: RewardRequest) -> RewardReceipt:
    reward_id = request.id or f"{request.decision}:{request.kind}"
    return RewardReceipt(reward_id, request.decision, "ignored", joined=False)


def _reward_receipt(reward: Reward, receipt: Receipt) -> RewardReceipt:
    if receipt.status == facts.UNKNOWN_DECISION:
        raise UnknownDecisionError(reward.decision)
    if receipt.status == facts.CONFLICT:
        raise conflict("reward", reward.id)
    status: Literal["recorded", "repeat"] = "recorded" if receipt.status == facts.NEW else "repeat"
    return RewardReceipt(reward.id, reward.decision, status, joined=receipt.joined, offset=receipt.offset)
