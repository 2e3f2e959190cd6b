"""Decisions from request to answer: made by the pipeline, awaited on the disk, answered; and what was decided before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import select

from engine.decisions.configuration import Configuration
from engine.decisions.kept import Kept, find_kept
from engine.decisions.log import BULK, DurableLog, conflict
from engine.decisions.pipeline import Pipeline, Prepared, digest_of_request
from engine.decisions.requests import DecisionAnswer, DecisionRequest
from engine.decisions.stored import stored_decision, stored_payload
from engine.rewards.seen import BOT
from engine.store import facts, tables
from engine.store.database import Database
from engine.store.facts import Receipt, check_text
from engine.subjects.links import People
from policies.errors import InvalidInputError, NoEligibleOfferError, StoreUnavailableError
from policies.records import Decision, Offer


class Deciding:
    """Makes single decisions; every method that writes returns when the decision is on disk, and its ``a…`` twin does so for an event loop."""

    def __init__(
        self,
        database: Database,
        log: DurableLog,
        pipeline: Pipeline,
        *,
        configuration: Configuration,
        people: People,
        clock: Callable[[], datetime],
    ) -> None:
        self.log, self.pipeline = log, pipeline
        self._database = database
        self._configuration = configuration
        self._people = people
        self._clock = clock

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
            return self.answer_unrecorded(prepared, error)
        return self.answer(prepared, receipt)

    async def adecide(self, request: DecisionRequest) -> DecisionAnswer:
        """``decide`` for an event loop."""
        prepared = self._prepare(request)
        if isinstance(prepared, DecisionAnswer):
            return prepared
        try:
            (receipt,) = await self.log.awaited([prepared.row])
        except StoreUnavailableError as error:
            return self.answer_unrecorded(prepared, error)
        return self.answer(prepared, receipt)

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
                    answers.append(self.answer_unrecorded(prepared, failure))
                else:
                    answers.append(self.answer(prepared, next(waiting)))
        return answers

    def _prepare(self, request: DecisionRequest) -> Prepared | DecisionAnswer:
        try:
            return self._prepare_known(request)
        except StoreUnavailableError as error:
            if request.dry_run:  # nobody sees it, and what it asks cannot be told
                raise
            return self.answer_unrecorded(self.pipeline.prepare(request, is_store_away=True), error)

    def _prepare_known(self, request: DecisionRequest) -> Prepared | DecisionAnswer:
        if request.ttl_s is not None:
            kept = self.kept(request, request.ttl_s)
            again = self.shown_again(kept, [request], lambda decision_id, _: decision_id)
            if again is not None:
                return again[1][0]
            request = request._replace(id=kept.next_id, digest=kept.digest)
        try:
            prepared = self.pipeline.prepare(request)
        except NoEligibleOfferError:
            # An offer may have run out since the first answer: a retry still gets that answer.
            stored = None if request.id is None or request.dry_run else self.stored(request)
            if stored is None:
                raise
            return stored
        if request.dry_run:
            return DecisionAnswer(prepared.decision, prepared.payload, explanation=prepared.explanation)
        return prepared

    def kept(self, request: DecisionRequest, ttl_s: float, slots: tuple[str, ...] = ()) -> Kept:
        """What the person was shown within the time to live, and the id that a new decision gets."""
        if request.id is not None:
            raise InvalidInputError("a request has both id and ttl_s; a kept decision makes its own id: leave one out")
        at = request.at or self._clock()
        person = self._people.ids(check_text(request.subject, what="subject"))
        return find_kept(self._database, request.placement, person, ttl_s=ttl_s, at=at, slots=slots)

    def shown_again(
        self, kept: Kept, requests: Sequence[DecisionRequest], id_of: Callable[[str, int], str]
    ) -> tuple[str, list[DecisionAnswer]] | None:
        """Newest kept decision (or page) whose every offer may still be shown, with its id."""
        if not kept.stored:
            return None
        payloads = [self.pipeline.showable_again(r) for r in requests]
        for stored in kept.stored:
            found = [stored_decision(self._database, id_of(stored, i)) for i in range(len(requests))]
            was_bot = any(d.policy.name == BOT for d in found) and requests[0].role != "bot"
            if not was_bot and all(d.offer in p for d, p in zip(found, payloads, strict=True)):
                # What the site shows is today's: a title or a picture may have changed meanwhile.
                answers = zip(found, payloads, strict=True)
                return stored, [DecisionAnswer(d, p[d.offer], is_repeat=True) for d, p in answers]
        return None

    def stored(self, request: DecisionRequest) -> DecisionAnswer | None:
        """Answer of a request whose id is on disk already; None where it is not."""
        keys = tables.fact_keys
        with self._database.reading() as connection:
            digest = connection.execute(
                select(keys.c.digest).where(keys.c.kind == facts.DECISION, keys.c.id == request.id)
            ).scalar()
        if digest is None or request.id is None:
            return None
        if not facts.is_same(bytes(digest), digest_of_request(request)):
            raise conflict("decision", request.id)
        live = self._configuration.all().get(request.placement)
        offers = request.offers or (() if live is None else live.offers)
        return self._repeated(stored_decision(self._database, request.id), offers)

    def answer(self, prepared: Prepared, receipt: Receipt) -> DecisionAnswer:
        """Answer of a decision that is on disk: its own, or the one that was there before under its id."""
        decision = prepared.decision
        if receipt.status == facts.CONFLICT:
            raise conflict("decision", decision.id)
        if receipt.status == facts.REPEAT:
            stored = stored_decision(self._database, decision.id)
            if (stored.subject, stored.placement) != (decision.subject, decision.placement):
                raise conflict("decision", decision.id)  # an id made here, of which no digest is kept
            return self._repeated(stored, prepared.offers)
        self.pipeline.note_stored(decision.offer_set_revision)
        if prepared.live.shown and decision.activated:
            self._configuration.count_shown(decision.placement, decision.offer)
        return DecisionAnswer(decision, prepared.payload, explanation=prepared.explanation)

    def _repeated(self, decision: Decision, offers: Iterable[Offer]) -> DecisionAnswer:
        """A decision from the log with what the site shows for it today, or did where the offer has left since."""
        payload = next((o.payload for o in offers if o.id == decision.offer), None)
        return DecisionAnswer(
            decision, stored_payload(self._database, decision) if payload is None else payload, is_repeat=True
        )

    def answer_unrecorded(
        self, prepared: Prepared, error: BaseException, *, taken: Collection[str] = ()
    ) -> DecisionAnswer:
        """Answer with the fallback, and remember to take the decision back should it have reached the disk."""
        decision = self.pipeline.fallback(prepared, taken=taken)
        self.log.note_unrecorded(decision.id, decision.at)
        explanation = prepared.explanation
        if explanation is not None:
            explanation = replace(explanation, steps=(*explanation.steps, f"not recorded: {error}"))
        return DecisionAnswer(decision, prepared.payload_of(decision.offer), explanation=explanation)
