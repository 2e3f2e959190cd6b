"""A shop for benchmarks of the whole way: 20 offers, ten thousand visitors, a VW policy with crosses."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from engine.decisions.opening import open_service
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import RewardDefinition
from policies.features import FeatureSpace
from policies.records import Context, DecisionTable, Offer, OfferId, SubjectId
from policies.vw import VowpalWabbit

N_OFFERS = 20
N_SUBJECTS = 10_000


def visitors(rng: np.random.Generator, n: int = N_SUBJECTS) -> list[dict[str, float | str]]:
    """Features of visitors."""
    return [
        {
            "visits": float(rng.poisson(3)),
            "days_since_last": float(round(rng.exponential(7), 2)),
            "country": str(rng.choice(["de", "fr", "pl", "ru", "us"])),
            "device": str(rng.choice(["phone", "desktop", "tablet"])),
            "stage": str(rng.choice(["new", "returning", "lapsed"])),
        }
        for _ in range(n)
    ]


def open_shop(home: Path, features: list[dict[str, float | str]], *, reward: RewardDefinition) -> str:
    """Make the placement ``shop`` in a new home; return the version that decides there."""
    offers = tuple(
        CatalogueOffer(
            Offer(
                OfferId(f"offer-{i}"),
                {"price_eur": 5.0 + i, "months": float(1 + i % 12), "tier": f"t{i % 4}"},
                {"title": f"Offer {i}"},
            )
        )
        for i in range(N_OFFERS)
    )
    table = DecisionTable.from_contexts(
        Placement("shop", offers).offer_set, [Context(SubjectId(f"s{i}"), f) for i, f in enumerate(features[:2_000])]
    )
    with open_service(home) as service:
        policy = VowpalWabbit(FeatureSpace.fit(table))
        ref = service.policies.register(policy.to_artifact(), name="vw", at=datetime.now(UTC))
        service.put_placement(Placement("shop", offers, policy=str(ref), reward=reward))
    return str(ref)
