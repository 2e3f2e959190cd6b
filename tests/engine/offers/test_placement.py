"""Placements: refused at the door with a sentence, equal after JSON."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from engine.offers.placement import CatalogueOffer, Placement, placement_from_json
from policies.eligibility import Condition, EligibilityRule
from policies.errors import DuplicateOfferError, InvalidInputError, NextofferError, UnknownNameError
from tests.engine.service_world import START, offer, shop


def test_a_placement_survives_json() -> None:
    """Offers with limits, rules with lists, policy, order, reward: all are read back equal."""
    rule = EligibilityRule("r", (Condition("price_eur", ">", 2.0),), (Condition("country", "in", ("de", "at")),))
    placement = Placement(
        "p-1",
        (CatalogueOffer(offer("a"), START, START + timedelta(days=1), 5), CatalogueOffer(offer("b", 3.0))),
        rules=(rule,),
        policy="x@1",
        baseline=("b",),
        explore_share=0.2,
        reward=shop().reward,
        encoder="e@1",
    )
    assert placement_from_json(placement.to_json()) == placement


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Placement("", (CatalogueOffer(offer("a")),)), InvalidInputError, "placement id ''"),
        (lambda: Placement("a/b", (CatalogueOffer(offer("a")),)), InvalidInputError, "letters, digits"),
        (lambda: Placement("p", ()), InvalidInputError, "offer set is empty"),
        (lambda: Placement("p", (CatalogueOffer(offer("a")),) * 2), DuplicateOfferError, "more than once"),
        (lambda: Placement("p", (CatalogueOffer(offer("a")),), baseline=("b",)), UnknownNameError, "unknown offer"),
        (lambda: Placement("p", (CatalogueOffer(offer("a")),), explore_share=1.0), InvalidInputError, "explore_share"),
        (lambda: CatalogueOffer(offer("a"), starts_at=datetime(2026, 1, 1)), InvalidInputError, "no time zone"),
        (lambda: CatalogueOffer(offer("a"), stock=-1), InvalidInputError, "stock"),
    ],
)
def test_what_cannot_be_shown_is_refused(build: object, error: type[NextofferError], words: str) -> None:
    """Each fault has its own sentence."""
    assert callable(build)
    with pytest.raises(error, match=words):
        build()
