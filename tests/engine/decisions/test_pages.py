"""Pages of slots: every slot's logged distribution is what it was drawn from, given what was placed before it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest, PageRequest, RewardRequest, Slot
from engine.decisions.service import DecisionService
from engine.learner.audit import audit
from policies.errors import ConflictError, InvalidInputError, NoEligibleOfferError, StoreUnavailableError
from policies.features import FeatureSpace
from policies.linear import LinTS
from policies.records import DecisionTable, InteractionBatch
from tests.engine.service_world import SECRET, START, Clock, exported, open_shop, shop

SLOTS = (Slot("hero"), Slot("side", {"size": "small"}, exclude=("b",)))


def _page(service: DecisionService, page_id: str | None = None, **rest: object) -> PageRequest:
    return PageRequest(DecisionRequest("shop", "u1", {"visits": 2.0}, id=page_id, **rest), SLOTS)  # type: ignore[arg-type]


def test_no_offer_twice_and_every_slot_is_a_decision_in_the_log(tmp_path: Path) -> None:
    """The side never shows what the hero shows, says why, and its probabilities sum to one over what was left."""
    with open_shop(tmp_path, placements=[shop(4, explore_share=0.5)]) as service:
        for i in range(40):
            page = service.decide_page(_page(service, f"p{i}"))
            hero, side = (answer.decision for _, answer in page.slots)
            assert (hero.id, side.id) == (f"p{i}#hero", f"p{i}#side")
            assert side.offer not in (hero.offer, "b")
            assert side.excluded[hero.offer] in ("placed", "request")
            assert set(side.offers) == {"a", "b", "c", "d"} - {hero.offer, "b"}
            assert sum(side.probabilities) == pytest.approx(1.0)
            assert dict(side.context) == {"visits": 2.0, "slot": "side", "slot.size": "small"}
            assert service.get_decision(side.id) == side


def test_slot_frequencies_match_the_logged_probabilities(tmp_path: Path) -> None:
    """Over many pages each ordered pair appears as often as the product of its slots' logged probabilities says."""
    n = 1500
    with open_shop(tmp_path, placements=[shop(3, explore_share=0.6)]) as service:
        pages = [
            service.decide_page(
                PageRequest(DecisionRequest("shop", "u", id=f"p{i}", dry_run=True), (Slot("one"), Slot("two")))
            )
            for i in range(n)
        ]
    seen: Counter[tuple[str, str]] = Counter()
    expected: dict[tuple[str, str], float] = {}
    for page in pages:
        one, two = (answer.decision for _, answer in page.slots)
        seen[one.offer, two.offer] += 1
        expected[one.offer, two.offer] = one.propensity * two.propensity
    # Baseline order a, b, c with 60 % explored: the first slot is known in closed form, the second over what is left.
    assert expected["a", "b"] == pytest.approx((0.4 + 0.2) * (0.4 + 0.3))
    assert set(expected) == set(permutations("abc", 2))
    for pair, p in expected.items():
        assert abs(seen[pair] / n - p) < 4 * np.sqrt(p * (1 - p) / n), pair


@pytest.mark.slow
def test_ope_of_a_slot_recovers_the_truth(tmp_path: Path) -> None:
    """Rewards that depend on slot and offer: inverse propensities from the log give each slot's value of a fixed offer."""
    worth = {"one": {"a": 0.2, "b": 0.5, "c": 0.9}, "two": {"a": 0.8, "b": 0.4, "c": 0.1}}
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=[shop(3, explore_share=0.9)]) as service:
        pages = [
            service.decide_page(PageRequest(DecisionRequest("shop", f"u{i}", id=f"p{i}"), (Slot("one"), Slot("two"))))
            for i in range(250)
        ]
        answers = [(slot, answer.decision) for page in pages for slot, answer in page.slots]
        service.reward_many([RewardRequest(d.id, "subscribed", worth[slot][d.offer]) for slot, d in answers])
        batch = exported(service.database, "shop", as_of=clock.forward(days=31))
    shown = np.asarray(batch.table.offers.ids)[batch.chosen]
    for slot, truth in worth.items():
        rows = batch.table.columns["slot"] == slot
        for offer, value in truth.items():
            eligible = batch.table.eligible[rows][:, batch.table.offers.index_of(offer)]
            weights = (shown[rows] == offer)[eligible] / batch.propensity[rows][eligible]
            estimate = float((weights * batch.reward[rows][eligible]).mean())
            error = float((weights * batch.reward[rows][eligible]).std() / np.sqrt(eligible.sum()))
            assert abs(estimate - value) < 4 * error + 1e-12, (slot, offer)


def test_the_same_page_again_is_the_stored_page(tmp_path: Path) -> None:
    """A retry gets the stored decisions, also after the catalogue moved on; another request under the id is a conflict."""
    with open_shop(tmp_path, placements=[shop(4, explore_share=0.9)]) as service:
        first = service.decide_page(_page(service, "p1"))
        service.put_placement(shop(4, explore_share=0.9, baseline=("d", "c")))
        service.refresh()
        again = service.decide_page(_page(service, "p1"))
        assert [a.decision for _, a in again.slots] == [a.decision for _, a in first.slots]
        assert all(a.is_repeat for _, a in again.slots)
        other = _page(service, "p1")
        with pytest.raises(ConflictError):
            service.decide_page(replace(other, slots=(Slot("hero"),)))
        assert service.status("shop").n_decisions == 2


def test_a_slot_left_without_an_offer_writes_nothing(tmp_path: Path) -> None:
    """Three slots and two offers: the slot is named, and no slot of the page is in the log."""
    with open_shop(tmp_path, placements=[shop(2)]) as service:
        with pytest.raises(NoEligibleOfferError, match="slot three"):
            service.decide_page(PageRequest(DecisionRequest("shop", "u"), (Slot("one"), Slot("two"), Slot("three"))))
        assert service.status("shop").n_decisions == 0
        for wrong in ((), (Slot("x"), Slot("x")), (Slot("a#b"),)):
            with pytest.raises(InvalidInputError):
                service.decide_page(PageRequest(DecisionRequest("shop", "u"), wrong))


def test_without_a_log_the_page_still_shows_different_offers(tmp_path: Path) -> None:
    """The fallback fills the slots in baseline order, none twice, recorded false."""
    with open_shop(tmp_path, placements=[shop(4, explore_share=0.9, baseline=("c", "a"))]) as service:

        def refuse(rows: object) -> None:
            raise StoreUnavailableError("disk full")

        service.log.submit = refuse  # type: ignore[method-assign, assignment]  # a disk that is full
        page = service.decide_page(_page(service))
        assert [a.decision.offer for _, a in page.slots] == ["c", "a"]
        assert not any(a.decision.recorded for _, a in page.slots)


def test_the_audit_recomputes_every_slot(tmp_path: Path) -> None:
    """With a contextual policy, every slot's distribution and draw is recomputed with difference 0.0."""
    with open_shop(tmp_path, placements=[shop(4)]) as service:
        offers = shop(4).offer_set
        table = DecisionTable(
            offers,
            np.ones((6, 4), dtype=np.bool_),
            {"visits": np.arange(6.0), "slot": np.asarray(["hero", "side"] * 3)},
        )
        policy = LinTS(FeatureSpace.fit(table))
        policy.learn(
            InteractionBatch(table, np.asarray([0, 1, 2, 3, 0, 1]), np.full(6, 0.25), np.asarray([1.0, 0, 1, 0, 0, 1]))
        )
        ref = service.policies.register(policy.to_artifact(), name="p", at=START)
        service.put_placement(shop(4, policy=str(ref)))
        service.refresh()
        for i in range(20):
            service.decide_page(_page(service, f"p{i}"))
        found = audit(service.database, service.policies, secret=SECRET)
        assert (found.n_recomputed, found.largest_difference, found.n_other_choice) == (40, 0.0, 0)
