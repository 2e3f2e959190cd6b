"""What the simulator calls true is true: closed forms against rollouts, and bounds that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InvalidInputError, UnknownNameError
from simulator import world
from simulator.calendar import Calendar, Shock
from simulator.exact import visit_odds
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from simulator.truth import Oracle, true_value, upper_bound
from tests.simulator.test_site import Always, Uniform


def test_closed_form_of_a_visit_is_what_happens() -> None:
    """First visits of a uniform rollout click and sign as often as the closed form says, within four standard errors."""
    scenario, n = reference(), 30_000
    run = rollout(scenario, Uniform(), n_subjects=n, visit_days=1, seed=6, explore_share=0.0)
    first = run.table.columns["n_visits"] == 0
    odds = visit_odds(scenario, world.Subjects.draw(scenario, run.row[first], seed=6))
    taken = run.chosen[first]
    expected = odds.click[np.arange(n), taken]
    seen = run.rewards["clicked"][first]
    assert abs((seen - expected).mean()) < 4 * np.sqrt((expected * (1 - expected)).sum()) / n


def test_nobody_beats_the_bound_and_the_oracle_comes_near() -> None:
    """A policy that sees the latent state beats any single offer, and stays below the bound."""
    scenario, n = reference(), 8_000
    bound, bound_error = upper_bound(scenario, n_subjects=n, seed=4)
    oracle = true_value(scenario, Oracle(scenario, seed=4), n_subjects=n, seed=4, explore_share=0.0)
    single = true_value(scenario, Always("suv_care"), n_subjects=n, seed=4, explore_share=0.0)
    gain, error = oracle.difference(single, "kept_30d")
    assert gain > 4 * error
    assert oracle.value("kept_30d")[0] < bound + 4 * bound_error


def test_the_bound_knows_the_dates() -> None:
    """A shock before the first visit lowers the bound as it lowers the appeal; one after the last leaves it; what is sold out is not in it."""
    site, n = reference(), 2_000

    def bound(calendar: Calendar | None) -> float:
        return upper_bound(replace(site, calendar=calendar), n_subjects=n, seed=4, visit_days=3)[0]

    plain = bound(None)
    assert bound(Calendar()) == pytest.approx(plain, rel=1e-12)
    assert bound(Calendar(shocks=(Shock(17, 99, -3.0),))) == pytest.approx(
        plain, rel=1e-12
    )  # last visits are on day 2 + 13
    lower = replace(site, parameters=site.parameters.with_assumed(click_base=-2.2, convert_base=-5.0))
    everywhere = bound(Calendar(shocks=(Shock(0, 99, -1.0),)))
    assert everywhere == pytest.approx(upper_bound(lower, n_subjects=n, seed=4)[0], rel=1e-9)
    gone = dict.fromkeys(("city_flex", "city_deal", "compact_year", "compact_deal", "suv_deal", "loyal_care"), (90, 99))
    odds = visit_odds(site, world.Subjects.draw(site, np.arange(n), seed=4), is_cared_for=True)
    assert bound(Calendar(offered=gone)) < plain
    only = bound(Calendar(offered={**gone, "suv_care": (99, 99)}))
    assert only < odds.kept.max() * 0.05


def test_unknown_outcomes_are_named() -> None:
    """A misspelt outcome is refused with the nearest known one, and a site where views please because it has no bound."""
    pleasing = replace(reference(), parameters=reference().parameters.with_assumed(fatigue_per_view=-0.1))
    with pytest.raises(InvalidInputError, match="views that please"):
        upper_bound(pleasing, n_subjects=10, seed=1)
    with pytest.raises(UnknownNameError, match="kept_30d"):
        upper_bound(reference(), n_subjects=10, seed=1, outcome="kept")


def test_an_oracle_can_sell_less_to_keep_more_of_it() -> None:
    """A cost for every contract leaves fewer of them, and a larger part of those that are left is kept."""
    site = reference()
    plain, careful = (
        true_value(site, Oracle(site, seed=4, cost_per_contract=c), n_subjects=4_000, seed=4, explore_share=0.0)
        for c in (0.0, 0.76)
    )
    assert careful.value("subscribed")[0] < plain.value("subscribed")[0]
    kept = [t.value("kept_30d")[0] / t.value("subscribed")[0] for t in (plain, careful)]
    assert kept[1] > kept[0] + 0.02
