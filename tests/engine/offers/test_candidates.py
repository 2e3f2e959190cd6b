"""A catalogue larger than one decision compares: candidates are few, the same for the same visitor, and what the log holds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.decisions.requests import DecisionRequest
from engine.offers.candidates import MAX_OFFERS, CandidateIndex, CandidateRule
from engine.offers.placement import CatalogueOffer, Placement, placement_from_json
from policies.eligibility import Condition, EligibilityRule
from policies.errors import InvalidInputError, NoEligibleOfferError
from policies.records import Features, Offer, OfferId, OfferSet
from tests.engine.service_world import open_shop, shop

TOPICS, REGIONS = ("news", "sport", "arts"), ("north", "south")


def offer(i: int) -> Offer:
    """The i-th offer of a catalogue."""
    return Offer(OfferId(f"o{i}"), {"topic": TOPICS[i % 3], "region": REGIONS[i % 2]}, {"title": f"Offer {i}"})


def by_hand(offers: list[Offer], match: tuple[str, ...], order: Sequence[str], features: Features) -> list[str]:
    """All offers as the rule's words rank them: by the first feature in common, then by the baseline order."""

    def key(o: Offer) -> tuple[int, int]:
        alike = [
            i for i, name in enumerate(match) if features.get(name) is not None and o.features[name] == features[name]
        ]
        return (alike[0] if alike else len(match), order.index(o.id))

    return [o.id for o in sorted(offers, key=key)]


@given(
    n=st.integers(1, 40),
    k=st.integers(1, 7),
    match=st.sampled_from([(), ("topic",), ("region", "topic")]),
    features=st.fixed_dictionaries(
        {}, optional={"topic": st.sampled_from([*TOPICS, "war", None]), "region": st.sampled_from(REGIONS)}
    ),
    seed=st.randoms(),
)
def test_windows_are_the_ranking_cut_into_pieces(
    n: int, k: int, match: tuple[str, ...], features: Features, seed: object
) -> None:
    """Each piece has the next k of the ranking, in catalogue order; together they are the catalogue, once."""
    offers = [offer(i) for i in range(n)]
    order = [o.id for o in offers]
    seed.shuffle(order)  # type: ignore[attr-defined]
    index = CandidateIndex(OfferSet(offers), CandidateRule(k, match), order=tuple(order))
    ranked = by_hand(offers, match, order, features)
    for _ in range(2):  # the second time from memory
        windows = list(index.windows(features))
        assert [set(w.offers.ids) for w in windows] == [set(ranked[s : s + k]) for s in range(0, n, k)]
        for window in windows:
            assert list(window.offers.ids) == [o.id for o in offers if o.id in window.offers.ids]
            assert list(window.order) == [o for o in order if o in window.offers.ids]


def large(n: int = 600, **rest: object) -> Placement:
    """A placement with more offers than one decision compares."""
    arguments: dict[str, object] = {"candidates": CandidateRule(10, ("topic",)), **rest}
    return Placement("shop", tuple(CatalogueOffer(offer(i)) for i in range(n)), **arguments)  # type: ignore[arg-type]


def test_a_decision_compares_its_candidates_and_logs_them(tmp_path: Path) -> None:
    """The logged set is the candidates, of the visitor's topic; the same visitor finds the same; the floor is over them."""
    with open_shop(tmp_path, placements=[large(baseline=("o3",), explore_share=0.1)]) as service:
        decisions = [
            service.decide(DecisionRequest("shop", f"u{i}", {"topic": topic})).decision
            for i, topic in enumerate(["arts", "arts", "war"])
        ]
        assert decisions[0].offers == tuple(f"o{i}" for i in range(2, 32, 3))
        assert decisions[1].offers == decisions[0].offers
        assert decisions[2].offers == tuple(f"o{i}" for i in range(10))
        assert min(decisions[0].probabilities) == pytest.approx(0.1 / 10)
        assert decisions[2].probabilities[3] == pytest.approx(0.9 + 0.1 / 10)  # first of the baseline order
        for decision in decisions:
            stored = service.get_decision(decision.id)
            assert stored.offers == decision.offers
            rows = service.database.rows(
                "SELECT document FROM offer_sets WHERE revision = :r", r=decision.offer_set_revision
            )
            assert len(rows) == 1
        again = service.decide(DecisionRequest("shop", "u0", {"topic": "arts"}, id=decisions[0].id))
        assert (again.is_repeat, again.payload) == (True, {"title": f"Offer {decisions[0].offer[1:]}"})


@pytest.mark.slow
def test_a_hundred_placements_and_ten_thousand_offers(tmp_path: Path) -> None:
    """Each placement decides from its own catalogue; of 10,000 offers a decision compares k, those that match the visitor first."""
    large = Placement(
        "large",
        tuple(
            CatalogueOffer(Offer(OfferId(f"o{i}"), {"category": f"c{i % 100}", "price_eur": float(i)}))
            for i in range(10_000)
        ),
        candidates=CandidateRule(20, match=("category",)),
    )
    small = [shop(1 + i % 5, placement=f"p{i}") for i in range(99)]
    with open_shop(tmp_path, placements=[*small, large]) as service:
        assert len(service.placements()) == 100
        for placement in small:
            decision = service.decide(DecisionRequest(placement.id, "u")).decision
            assert (decision.placement, decision.offers) == (placement.id, placement.offer_set.ids)
        started = time.process_time()
        for i in range(100):
            decision = service.decide(DecisionRequest("large", f"u{i}", {"category": f"c{i}"})).decision
            assert len(decision.offers) == 20
            assert {int(o[1:]) % 100 for o in decision.offers} == {i}
        assert (time.process_time() - started) / 100 < 0.02  # looking at all 10,000 would take longer than that


def test_where_no_candidate_may_be_shown_the_next_are_looked_at(tmp_path: Path) -> None:
    """A rule that shuts out the first topic does not leave the visitor without an offer; one that shuts out all does."""
    not_arts = EligibilityRule(
        "no-arts", offers=(Condition("topic", "==", "arts"),), requires=(Condition("grown_up", "==", True),)
    )
    nothing = EligibilityRule("nothing", requires=(Condition("grown_up", "==", True),))
    with open_shop(tmp_path / "a", placements=[large(30, rules=(not_arts,))]) as service:
        decision = service.decide(DecisionRequest("shop", "u", {"topic": "arts"})).decision
        assert decision.offers
        assert not {o for o in decision.offers if int(o[1:]) % 3 == 2}
    with (
        open_shop(tmp_path / "b", placements=[large(30, rules=(nothing,))]) as service,
        pytest.raises(NoEligibleOfferError),
    ):
        service.decide(DecisionRequest("shop", "u", {"topic": "arts"}))


def test_a_large_catalogue_says_how_candidates_are_found() -> None:
    """More than 200 offers need the declaration; more than 10,000 are refused; it survives being written down."""
    with pytest.raises(InvalidInputError, match="say how candidates are found"):
        large(MAX_OFFERS + 1, candidates=None)
    with pytest.raises(InvalidInputError, match="expected 1 to 200"):
        CandidateRule(0)
    placement = large(MAX_OFFERS + 1)
    assert placement_from_json(placement.to_json()) == placement
