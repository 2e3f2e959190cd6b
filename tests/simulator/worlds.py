"""Worlds drawn at random with everything on, for properties that have to hold in all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from simulator.calendar import Calendar, Shock
from simulator.habit import HabitScenario
from simulator.scenarios.car_subscription import Scenario
from simulator.scenarios.named import everything
from simulator.scenarios.sealed import sealed_worlds

_RANGES: dict[str, tuple[float, float]] = {
    "return_rate_per_day": (0.05, 0.9), "return_rate_spread": (0, 1), "click_base": (-2, 1), "convert_base": (-4, 0),
    "no_offer_penalty": (-2, 1), "taste_spread": (0, 2), "taste_shown": (0, 1), "price_sensitivity": (0, 3),
    "price_sensitivity_spread": (0, 1), "discount_appeal": (-3, 5), "deal_affinity_weight": (-2, 3), "perk_appeal": (-1, 1),
    "term_dislike": (-0.1, 0.1), "fatigue_per_view": (-0.2, 1), "fatigue_decay_per_day": (0, 1), "delay_zero_share": (0, 0.95),
    "delay_mean_days": (1.1, 9), "cancel_per_day": (0.001, 0.1), "cancel_per_discount": (-2, 9), "cancel_per_term": (-0.1, 0.1),
    "cancel_per_perk": (-1, 1), "cancel_per_taste": (-1, 1), "engagement_gain": (-0.5, 0.5), "appeal_per_dependence": (-0.5, 1),
    "discount_wear": (-0.5, 1), "cancel_per_dependence": (-1, 1), "cancel_per_fatigue": (-0.3, 0.5), "trial_leave": (0, 0.6),
    "margin_contrast": (0, 1), "retention_offer_effect": (-2, 2), "lapsed_share": (0, 1), "lapsed_appeal": (-1, 1),
    "cancel_per_lapse": (-1, 1),
}  # fmt: skip


def drawn_world(number: int) -> Scenario:
    """The world of a number: every parameter drawn, and on most of them dates of all kinds."""
    rng = np.random.default_rng(number)
    site = everything()
    begins = rng.integers(0, 30, size=2).tolist()
    laws = {name: float(rng.uniform(*span)) for name, span in _RANGES.items()}
    laws["trial_days"] = float(rng.integers(0, 40))
    calendar = Calendar(
        weekday_log_odds=tuple(rng.normal(0.0, 0.5, 7).tolist()),
        season_log_odds=float(rng.uniform(-1, 1)),
        season_days=float(rng.uniform(5, 200)),
        drift_per_day=float(rng.uniform(0, 0.2)),
        shocks=(
            Shock(begins[0], begins[0] + int(rng.integers(0, 40)), -1.5, ("suv_deal",)),
            Shock(3, 9, 0.7),
        ),
        offered={
            "compact_year": (begins[1], begins[1] + int(rng.integers(0, 60))),
            "suv_care": (0, int(rng.integers(0, 60))),
            "loyal_care": (int(rng.integers(0, 20)), 999),
        },
        max_views={"city_deal": int(rng.integers(1, 5)), "loyal_care": 2, "city_flex": 1},
        n_days=int(rng.integers(20, 180)),
        seed=number,
    )
    return replace(
        site, parameters=site.parameters.with_assumed(**laws), calendar=calendar if rng.random() < 0.8 else None
    )


def drawn_habit(number: int) -> HabitScenario:
    """A world of the second family with drawn parameters, traps included."""
    return sealed_worlds(3, seed=number)[number % 3].world


numbers = st.integers(0, 10_000)
