"""A few made-up households in the form the demo's people have: small, with histories, traits and an encoder that runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from engine.simulation.people import People
from policies.records import Event, SubjectId
from simulator.parameters import WorldParameters
from simulator.population import Population
from simulator.streams import Purpose, normals


def few_people(n: int = 40) -> People:
    """Households whose traits are visible signs of their deal affinity."""
    ids = np.arange(n, dtype=np.int64)
    z = normals(5, ids, Purpose.TRAITS, 0)
    start = datetime(2025, 11, 1, 8, 30, tzinfo=UTC)
    histories = tuple(
        tuple(
            Event(f"h{i}:{j}", SubjectId(f"h{i}"), "basket" if (i + j) % 3 else "redemption", "GROCERY", 10.0 + j, start + timedelta(days=j, hours=i % 7))
            for j in range(i % 5)
        )
        for i in range(n)
    )  # fmt: skip
    population = Population(
        columns={
            "coupon_propensity": 1.0 / (1.0 + np.exp(-z)),
            "deal_share": 0.3 + 0.05 * z,
            "customer_income": np.asarray(["", "low", "high"])[ids % 3],
            "customer_age": np.asarray(["young", "old"])[ids % 2],
        },
        deal_affinity=0.6 * z + 0.8 * normals(5, ids, Purpose.TRAITS, 1),
        pace=np.ones(n),
        label=f"{n} made-up households",
    )
    return People(tuple(f"h{i}" for i in range(n)), population, histories, WorldParameters())
