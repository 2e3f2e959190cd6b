"""Several offers on one page: each slot is a decision of its own among what the slots before it have left.

The distribution of a slot is the policy's over the offers still free, given the slot; it is what the slot is drawn from and
what is logged, with the offers already placed as the reason why they were not eligible. A slot's decision can so be judged
and learned from like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from engine.decisions.kept import SLOT_MARK
from engine.decisions.pipeline import Prepared
from engine.decisions.requests import DecisionRequest, PageRequest, Slot, identity_of
from engine.store.facts import check_text, digest_of
from policies.errors import InvalidInputError, NoEligibleOfferError

MAX_SLOTS = 50


def check_slots(slots: tuple[Slot, ...]) -> None:
    """Refuse slots that could not be told apart."""
    if not 1 <= len(slots) <= MAX_SLOTS:
        raise InvalidInputError(f"a page has {len(slots)} slots; expected 1 to {MAX_SLOTS}")
    for slot in slots:
        check_text(slot.id, what="id of a slot", max_length=64)
        if SLOT_MARK in slot.id:
            raise InvalidInputError(f"id of a slot is {slot.id!r}; expected no {SLOT_MARK!r} in it")
    ids = [slot.id for slot in slots]
    if len(set(ids)) < len(ids):
        raise InvalidInputError(f"slot ids {ids} repeat; give each slot one of its own")


def slot_decision_id(page: str, slot: str) -> str:
    """Id of the decision of a slot."""
    return f"{page}{SLOT_MARK}{slot}"


def digest_of_page(request: PageRequest) -> bytes:
    """What makes two requests with one page id the same."""
    slots = [[s.id, dict(s.features), list(s.exclude), s.first] for s in request.slots]
    return digest_of([*identity_of(request.decision), slots])


def slot_requests(request: PageRequest, page: str, digest: bytes) -> Iterator[DecisionRequest]:
    """Requests of the slots, nothing placed yet."""
    one = request.decision
    for slot in request.slots:
        offers = one.offers
        if offers is not None and slot.first is not None:
            offers = tuple(sorted(offers, key=lambda o, first=slot.first: o.id != first))  # type: ignore[misc]  # mypy sees no default
        yield one._replace(
            id=slot_decision_id(page, slot.id),
            features={**one.features, "slot": slot.id, **{f"slot.{n}": v for n, v in slot.features.items()}},
            offers=offers,
            exclude=(*one.exclude, *slot.exclude),
            digest=digest,
            ttl_s=None,
        )


def prepare_page(
    prepare: Callable[[DecisionRequest], Prepared], request: PageRequest, page: str, digest: bytes
) -> list[Prepared]:
    """Decide for each slot in order, without writing.

    Raises
    ------
    NoEligibleOfferError
        Naming the slot that is left without an offer.
    """
    placed: tuple[str, ...] = ()
    out: list[Prepared] = []
    for slot, one in zip(request.slots, slot_requests(request, page, digest), strict=True):
        try:
            prepared = prepare(one._replace(placed=placed))
        except NoEligibleOfferError as error:
            raise NoEligibleOfferError([0], subject=f"{one.subject} in slot {slot.id}") from error
        placed = (*placed, prepared.decision.offer)
        out.append(prepared)
    return out
