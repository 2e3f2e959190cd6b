"""What the simulator calls true is true: closed forms against rollouts, and bounds that hold."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import InvalidInputError, UnknownNameError
from simulator import world
from simulator.exact import visit_odds
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.named import changing
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


def test_unknown_outcomes_are_named() -> None:
    """A misspelt outcome is refused with the nearest known one, and a site with dates because it has no bound."""
    with pytest.raises(InvalidInputError, match="has dates"):
        upper_bound(changing(), n_subjects=10, seed=1)
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
