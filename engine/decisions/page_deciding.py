"""Pages from request to answer: the decisions of their slots, made one after the other and written together."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial

from engine.decisions.deciding import Deciding
from engine.decisions.log import conflict
from engine.decisions.pages import check_slots, digest_of_page, prepare_page, slot_decision_id, slot_requests
from engine.decisions.pipeline import Prepared
from engine.decisions.requests import DecisionAnswer, PageAnswer, PageRequest
from engine.store import facts
from engine.store.facts import Receipt
from policies.errors import StoreUnavailableError


class PageDeciding:
    """Decides for pages of slots.

    Parameters
    ----------
    deciding
        Makes the decision of each slot.
    """

    def __init__(self, deciding: Deciding) -> None:
        self._deciding = deciding
        self._log = deciding.log

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
            receipts = self._log.wait([p.row for p in made])
        except StoreUnavailableError as error:
            return self._page_unrecorded(request, page, made, error)
        return self._page_answer(request, page, made, receipts)

    async def adecide_page(self, request: PageRequest) -> PageAnswer:
        """``decide_page`` for an event loop."""
        page, made = self._prepare_page(request)
        if isinstance(made, PageAnswer):
            return made
        try:
            receipts = await self._log.awaited([p.row for p in made])
        except StoreUnavailableError as error:
            return self._page_unrecorded(request, page, made, error)
        return self._page_answer(request, page, made, receipts)

    def _prepare_page(self, request: PageRequest) -> tuple[str, list[Prepared] | PageAnswer]:
        check_slots(request.slots)
        try:
            return self._prepare_known_page(request)
        except StoreUnavailableError as error:
            if request.decision.dry_run:
                raise
            page = request.decision.id or uuid.uuid4().hex
            alone = partial(self._deciding.pipeline.prepare, is_store_away=True)
            made = prepare_page(alone, request, page, digest_of_page(request))
            return page, self._page_unrecorded(request, page, made, error)

    def _prepare_known_page(self, request: PageRequest) -> tuple[str, list[Prepared] | PageAnswer]:
        one = request.decision
        kept = None if one.ttl_s is None else self._deciding.kept(one, one.ttl_s, tuple(s.id for s in request.slots))
        page = uuid.uuid4().hex if one.id is None and kept is None else one.id if kept is None else kept.next_id
        assert page is not None
        digest = digest_of_page(request) if kept is None else kept.digest
        if one.id is not None and not one.dry_run:
            stored = [self._deciding.stored(r) for r in slot_requests(request, page, digest)]
            if stored[0] is not None:
                return page, _page(request, page, [a for a in stored if a is not None])
        if kept is not None:
            slots = list(slot_requests(request, page, digest))
            again = self._deciding.shown_again(
                kept, slots, lambda before, i: slot_decision_id(before, request.slots[i].id)
            )
            if again is not None:
                return page, _page(request, *again)
        made = prepare_page(self._deciding.pipeline.prepare, request, page, digest)
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
            self._log.submit([facts.void_row(d.id, d.at) for d in new])
            raise conflict("page", page)
        return _page(request, page, [self._deciding.answer(p, r) for p, r in zip(made, receipts, strict=True)])

    def _page_unrecorded(
        self, request: PageRequest, page: str, made: list[Prepared], error: BaseException
    ) -> PageAnswer:
        answers: list[DecisionAnswer] = []
        for prepared in made:
            taken = {a.decision.offer for a in answers}
            answers.append(self._deciding.answer_unrecorded(prepared, error, taken=taken))
        return _page(request, page, answers)


def _page(request: PageRequest, page: str, answers: Sequence[DecisionAnswer]) -> PageAnswer:
    return PageAnswer(page, tuple((slot.id, a) for slot, a in zip(request.slots, answers, strict=True)))
