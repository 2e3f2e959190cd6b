"""Caps, mandatory offers, margin floors, budgets and diversity: by hand, and through the service with reasons in the log."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest, IdentifyRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.offers.limits import (
    Budget,
    Diversity,
    FrequencyCap,
    Limits,
    Mandatory,
    MarginFloor,
    Situation,
    View,
    excluded_by_limits,
    limits_from_json,
)
from engine.offers.placement import CatalogueOffer, Placement, placement_from_json
from policies.eligibility import Condition
from policies.errors import InvalidInputError, NoEligibleOfferError
from policies.records import Offer, OfferId, OfferSet
from tests.engine.service_world import START, Clock, open_shop

OFFERS = OfferSet(
    [
        Offer(OfferId("plain"), {"family": "plain", "margin_eur": 60.0}),
        Offer(OfferId("deal"), {"family": "discount", "margin_eur": 20.0, "discount_eur": 50.0}),
        Offer(OfferId("steal"), {"family": "discount", "margin_eur": -5.0, "discount_eur": 90.0}),
        Offer(OfferId("none"), {}),
    ]
)
DEALS = (Condition("family", "==", "discount"),)
ALL = Limits(
    caps=(FrequencyCap("twice a week", 2, 7.0), FrequencyCap("deals cool down", 1, 1.0, DEALS, together=True)),
    mandatory=(Mandatory("notice", (Condition("id", "==", "none"),), (Condition("country", "==", "at"),)),),
    margin_floors=(MarginFloor("no loss", 0.0),),
    budgets=(Budget("march", "discount_eur", 1_000.0, START, START + timedelta(days=10), "subscribed", 0.2),),
    diversity=(Diversity("one family", "family"),),
)


def _excluded(limits: Limits, **rest: object) -> dict[str, str]:
    arguments: dict[str, object] = {"at": START, "features": {}, **rest}
    return {str(o): reason for o, reason in excluded_by_limits(limits, OFFERS, Situation(**arguments), {}).items()}  # type: ignore[arg-type]


def test_limits_survive_json() -> None:
    """All kinds of limits are read back equal, alone and inside a placement."""
    assert limits_from_json(ALL.to_json()) == ALL
    placement = Placement("p", tuple(CatalogueOffer(o) for o in OFFERS), limits=ALL)
    assert placement_from_json(placement.to_json()) == placement


def test_a_cap_counts_views_within_its_days() -> None:
    """Two views in a week are the last, one older than a week does not count, another offer is not touched."""
    limits = Limits(caps=(FrequencyCap("cap", 2, 7.0),))

    def ago(days: float, offer: str = "plain") -> View:
        return View(offer, START - timedelta(days=days))

    assert _excluded(limits, views=[ago(1), ago(8)]) == {}
    assert _excluded(limits, views=[ago(1), ago(6.9), ago(8)]) == {"plain": "cap"}
    assert _excluded(limits, views=[ago(7.0), ago(1)]) == {}  # exactly a week ago is over


def test_a_cool_down_over_a_family_holds_all_of_it_back() -> None:
    """One deal seen yesterday keeps every deal away, where they count together; each for itself it keeps away only that one."""
    seen = [View("deal", START - timedelta(hours=20))]
    together = Limits(caps=(FrequencyCap("cool", 1, 1.0, DEALS, together=True),))
    apart = Limits(caps=(FrequencyCap("cool", 1, 1.0, DEALS),))
    assert _excluded(together, views=seen) == {"deal": "cool", "steal": "cool"}
    assert _excluded(apart, views=seen) == {"deal": "cool"}


def test_a_mandatory_offer_forces_itself_only_where_it_may_be_shown() -> None:
    """Where the notice applies nothing else is eligible; where the notice itself is excluded it forces nothing."""
    limits = Limits(mandatory=ALL.mandatory)
    forced = {"plain": "notice", "deal": "notice", "steal": "notice"}
    assert _excluded(limits, features={"country": "at"}) == forced
    assert _excluded(limits, features={"country": "de"}) == {}
    situation = Situation(START, {"country": "at"})
    assert excluded_by_limits(limits, OFFERS, situation, {OfferId("none"): "ended"}) == {}


def test_a_margin_floor_excludes_what_loses_money_and_not_what_says_nothing() -> None:
    """Below the floor is out, at the floor is in, and an offer without a margin is not judged."""
    assert _excluded(Limits(margin_floors=(MarginFloor("floor", 20.0),))) == {"steal": "floor"}
    assert _excluded(Limits(margin_floors=(MarginFloor("floor", 20.5),))) == {"deal": "floor", "steal": "floor"}


def test_a_budget_is_released_evenly() -> None:
    """A fifth at once and the rest by the day: 360 after a fifth of the period; what costs more than is left waits."""
    budget = ALL.budgets[0]
    assert budget.released(START) == 200.0
    assert budget.released(START + timedelta(days=2)) == pytest.approx(360.0)
    assert budget.released(START + timedelta(days=99)) == 1_000.0
    limits = Limits(budgets=(budget,))
    assert _excluded(limits, spent={"march": 100.0}) == {}
    assert _excluded(limits, spent={"march": 120.0}) == {"steal": "march"}
    assert _excluded(limits, spent={"march": 160.0}) == {"deal": "march", "steal": "march"}
    assert _excluded(limits, spent={"march": 160.0}, at=START + timedelta(days=2)) == {}
    assert _excluded(limits, spent={"march": 9_999.0}, at=START + timedelta(days=11)) == {}


def test_a_page_shows_one_of_a_family() -> None:
    """After a deal in the first slot no other deal may follow; offers without a family may."""
    assert _excluded(Limits(diversity=ALL.diversity), placed=("deal",)) == {"deal": "one family", "steal": "one family"}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: FrequencyCap("c", 0, 7.0), "expected at least 1"),
        (lambda: Budget("b", "x", 1.0, START, START), "in order"),
        (lambda: Budget("b", "x", -1.0, START, START + timedelta(1)), "total -1.0"),
        (lambda: Diversity("d", "family", 0), "at least 1"),
        (
            lambda: Limits(caps=(FrequencyCap("same", 1, 1.0),), diversity=(Diversity("same", "x"),)),
            "share the id 'same'",
        ),
    ],
)
def test_nonsense_is_refused_at_the_door(build: object, words: str) -> None:
    """What cannot be meant is named when it is built."""
    with pytest.raises(InvalidInputError, match=words):
        build()  # type: ignore[operator]


def _shop(folder: Path, limits: Limits, clock: Clock) -> DecisionService:
    placement = Placement(
        "shop", tuple(CatalogueOffer(o) for o in OFFERS), baseline=("deal",), explore_share=0.0, limits=limits
    )
    return open_shop(folder, clock=clock, placements=[placement])


def test_the_service_counts_a_person_under_all_ids_and_logs_why(tmp_path: Path) -> None:
    """A deal seen before login keeps deals away after it, the log says which limit did, and a day later it is back."""
    clock = Clock()
    limits = Limits(caps=(FrequencyCap("cool", 1, 1.0, DEALS, together=True),))
    with _shop(tmp_path, limits, clock) as service:
        assert service.decide(DecisionRequest("shop", "anonymous")).decision.offer == "deal"
        service.identify(IdentifyRequest("anonymous", "customer"))
        clock.forward(hours=3)
        second = service.decide(DecisionRequest("shop", "customer")).decision
        assert second.offer == "plain"
        assert second.excluded == {"deal": "cool", "steal": "cool"}
        assert sum(second.probabilities) == pytest.approx(1.0)
        assert service.get_decision(second.id) == second
        assert service.decide(DecisionRequest("shop", "stranger")).decision.offer == "deal"
        clock.forward(hours=22)
        assert service.decide(DecisionRequest("shop", "customer")).decision.offer == "deal"


def test_a_decision_that_nobody_saw_counts_for_no_cap_until_it_is_activated(tmp_path: Path) -> None:
    """Deferred decisions are no views; activated later they are."""
    clock = Clock()
    with _shop(tmp_path, Limits(caps=(FrequencyCap("once", 1, 9.0, DEALS, together=True),)), clock) as service:
        first = service.decide(DecisionRequest("shop", "u", is_activated=False)).decision
        clock.forward(minutes=1)
        assert service.decide(DecisionRequest("shop", "u", is_activated=False)).decision.offer == "deal"
        service.activate(first.id)
        clock.forward(minutes=1)
        assert service.decide(DecisionRequest("shop", "u")).decision.offer == "plain"


def test_capping_everything_says_so(tmp_path: Path) -> None:
    """A cap on every offer leaves a visitor without any: an error that tells to keep one uncapped."""
    with _shop(tmp_path, Limits(caps=(FrequencyCap("all", 1, 9.0, together=True),)), Clock()) as service:
        service.decide(DecisionRequest("shop", "u"))
        with pytest.raises(NoEligibleOfferError):
            service.decide(DecisionRequest("shop", "u"))


def test_a_budget_is_spent_by_contracts(tmp_path: Path) -> None:
    """Rewards of the counted kind spend what their offers cost, once per decision, and the offer gives way when it is gone."""
    clock = Clock()
    budget = Budget("march", "discount_eur", 100.0, START, START + timedelta(days=10), "subscribed", 1.0)
    with _shop(tmp_path, Limits(budgets=(budget,)), clock) as service:
        counts = service._pipeline._counts
        for i in range(2):
            taken = service.decide(DecisionRequest("shop", f"u{i}")).decision
            assert taken.offer == "deal"
            service.reward(RewardRequest(taken.id, "clicked", 1.0))
            for again in range(2):
                service.reward(RewardRequest(taken.id, "subscribed", 1.0, id=f"r{i}{again}"))
            counts.forget()
            assert counts.spent("shop", budget, OFFERS) == 50.0 * (i + 1)
        last = service.decide(DecisionRequest("shop", "u9")).decision
        assert last.offer == "plain"
        assert last.excluded == {"deal": "march", "steal": "march"}


def test_showings_spend_where_no_kind_is_named(tmp_path: Path) -> None:
    """Without a kind of reward each showing costs."""
    with _shop(tmp_path, Limits(), Clock()) as service:
        for i in range(3):
            service.decide(DecisionRequest("shop", f"u{i}"))
        budget = Budget("all", "discount_eur", 1.0, START - timedelta(days=1), START + timedelta(days=1))
        assert service._pipeline._counts.spent("shop", budget, OFFERS) == 150.0
