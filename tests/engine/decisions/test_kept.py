"""A time to live: a reload is no second draw and no second exposure."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest, IdentifyRequest, PageRequest, Slot
from policies.errors import InvalidInputError, NoEligibleOfferError
from tests.engine.service_world import Clock, open_shop, shop

ASK = DecisionRequest("shop", "u1", ttl_s=600.0)


def test_a_reload_within_the_time_to_live_is_the_stored_decision(tmp_path: Path) -> None:
    """Other features, a later moment, the login of the visitor: one decision; after the time another one."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=[shop(explore_share=0.9)]) as service:
        first = service.decide(ASK)
        clock.forward(minutes=9)
        again = service.decide(DecisionRequest("shop", "u1", {"visits": 7.0}, ttl_s=600.0))
        assert again.is_repeat
        assert again.decision == first.decision
        service.identify(IdentifyRequest("u1", "customer-7"))
        assert service.decide(DecisionRequest("shop", "customer-7", ttl_s=600.0)).decision.id == first.decision.id
        assert service.decide(DecisionRequest("shop", "u2", ttl_s=600.0)).decision.id != first.decision.id
        assert service.status("shop").n_decisions == 2
        clock.forward(minutes=1)
        assert service.decide(ASK).decision.id != first.decision.id
        assert service.status("shop").n_decisions == 3


def test_requests_that_arrive_together_make_one_decision(tmp_path: Path) -> None:
    """Eight tabs at once: the log holds one decision, and all got its offer."""
    with open_shop(tmp_path, placements=[shop(explore_share=0.9)]) as service, ThreadPoolExecutor(8) as pool:
        asked = [DecisionRequest("shop", "u1", {"tab": float(i)}, ttl_s=600.0) for i in range(8)]
        answers = list(pool.map(service.decide, asked))
        assert len({(a.decision.id, a.decision.offer) for a in answers}) == 1
        assert service.status("shop").n_decisions == 1


def test_an_offer_that_may_not_be_shown_any_more_is_replaced_once(tmp_path: Path) -> None:
    """Excluded or taken out of the catalogue, the offer gives way to a new decision, which is kept in its turn."""
    with open_shop(tmp_path, placements=[shop(explore_share=0.9)]) as service:
        first = service.decide(ASK).decision
        other = service.decide(DecisionRequest("shop", "u1", exclude=(first.offer,), ttl_s=600.0))
        assert not other.is_repeat
        assert other.decision.offer != first.offer
        # The newest that may be shown wins.
        assert service.decide(ASK).decision.id == other.decision.id
        assert service.status("shop").n_decisions == 2


def test_what_its_own_view_used_up_does_not_take_a_kept_offer_back(tmp_path: Path) -> None:
    """The last one in stock stays on the visitor's page through a reload; another visitor does not get it."""
    entries = tuple(replace(entry, stock=1) for entry in shop(2).offers)
    with open_shop(
        tmp_path, placements=[replace(shop(2, baseline=("a",), explore_share=0.0), offers=entries)]
    ) as service:
        first = service.decide(ASK).decision
        assert first.offer == "a"
        assert service.decide(ASK).decision.id == first.id
        assert service.decide(DecisionRequest("shop", "u2", ttl_s=600.0)).decision.offer == "b"
        assert service.decide(ASK).decision.id == first.id  # nothing at all is left for a new decision
        with pytest.raises(NoEligibleOfferError):
            service.decide(DecisionRequest("shop", "u3", ttl_s=600.0))


def test_a_machine_s_answer_is_not_kept_for_a_person(tmp_path: Path) -> None:
    """A subject taken for a machine once gets a decision of its own when it is a person again."""
    with open_shop(tmp_path) as service:
        machine = service.decide(ASK._replace(role="bot")).decision
        person = service.decide(ASK)
        assert person.decision.id != machine.id
        assert person.decision.activated
        assert not person.is_repeat


def test_an_erased_person_who_comes_back_starts_anew(tmp_path: Path) -> None:
    """The id of the erased decision is used up; the visitor gets an offer, not a conflict."""
    with open_shop(tmp_path) as service:
        first = service.decide(ASK).decision
        service.erase("u1")
        again = service.decide(ASK)
        assert again.decision.id != first.id
        assert not again.is_repeat
        assert service.decide(ASK).decision.id == again.decision.id


def test_a_page_is_kept_whole(tmp_path: Path) -> None:
    """A reload of a page gets every slot again; a page with other slots is another page."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=[shop(4, explore_share=0.9)]) as service:
        page = PageRequest(ASK, (Slot("one"), Slot("two")))
        first = service.decide_page(page)
        clock.forward(seconds=5)
        again = service.decide_page(page)
        assert again.id == first.id
        assert [a.decision for _, a in again.slots] == [a.decision for _, a in first.slots]
        assert service.decide_page(PageRequest(ASK, (Slot("one"),))).id != first.id
        assert service.decide(ASK).decision.id not in {a.decision.id for _, a in first.slots}


@pytest.mark.parametrize("wrong", [{"ttl_s": 0.0}, {"ttl_s": 1e-117}, {"ttl_s": 1e9}, {"id": "d1", "ttl_s": 60.0}])
def test_a_time_to_live_that_cannot_be_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    """Nothing, a century, or an id of the caller's own beside it is an error that says so."""
    with open_shop(tmp_path) as service, pytest.raises(InvalidInputError, match="ttl_s"):
        service.decide(DecisionRequest("shop", "u1", **wrong))  # type: ignore[arg-type]
