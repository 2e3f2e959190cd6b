"""Worlds over what no data identifies: the reference site with its assumed responses drawn over all that is plausible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import qmc

from simulator.scenarios.car_subscription import Scenario, reference

# Lowest and highest value of each response that the reference site only assumes; base rates and delays stay where they are.
# Nothing, or twice what is assumed, unless the name bounds it.
RANGES: dict[str, tuple[float, float]] = {
    "taste_spread": (0.0, 1.8),
    "taste_shown": (0.0, 0.95),
    "price_sensitivity": (0.0, 1.6),
    "price_sensitivity_spread": (0.0, 0.8),
    "discount_appeal": (0.0, 4.4),
    "deal_affinity_weight": (0.0, 3.2),
    "perk_appeal": (0.0, 0.7),
    "term_dislike": (0.0, 0.06),
    "fatigue_per_view": (0.0, 0.5),
    "cancel_per_discount": (0.0, 3.0),
    "cancel_per_term": (-0.12, 0.0),
    "cancel_per_perk": (-0.7, 0.0),
    "cancel_per_taste": (-0.7, 0.0),
    "retention_offer_effect": (-0.6, 0.0),
}


@dataclass(frozen=True, slots=True)
class GridWorld:
    """One point of the grid.

    Attributes
    ----------
    at
        The drawn values by name.
    """

    number: int
    world: Scenario
    at: dict[str, float]


def grid_worlds(n: int, *, seed: int) -> list[GridWorld]:
    """Points of a scrambled Sobol sequence over ``RANGES``: few worlds, spread evenly."""
    size = 1 << max(0, (n - 1).bit_length())
    unit = qmc.Sobol(len(RANGES), seed=np.random.default_rng(seed)).random(size)[:n]
    low, high = (np.asarray([r[i] for r in RANGES.values()]) for i in (0, 1))
    site = reference()
    made = []
    for number, point in enumerate(low + unit * (high - low)):
        at = {name: float(v) for name, v in zip(RANGES, point, strict=True)}
        world = replace(site, name=f"grid-{number}", parameters=site.parameters.with_assumed(**at))
        made.append(GridWorld(number, world, at))
    return made
