"""What the simulator calls true is true: closed forms against rollouts, and bounds that hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from policies.errors import UnknownNameError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray
from simulator import world
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference, tabular
from simulator.truth import Oracle, market_value, true_value, upper_bound, visit_odds, visitor_offers
from tests.simulator.test_site import Always, Uniform


class BySegment:
    """One offer per segment; nothing where it may not be shown."""

    name = "by segment"
    traits = PolicyTraits()

    def __init__(self, offers: Mapping[str, str]) -> None:
        self._offers = offers

    def probabilities(self, table: DecisionTable) -> FloatArray:
        out = np.zeros(table.eligible.shape)
        wanted = np.asarray([table.offers.index_of(self._offers[str(s)]) for s in table.columns["segment"]])
        may = table.eligible[np.arange(len(table)), wanted]
        out[np.arange(len(table)), np.where(may, wanted, 0)] = 1.0
        return out


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


@pytest.mark.parametrize("outcome", ["subscribed", "kept_30d", "margin_eur"])
def test_exact_value_of_a_policy_on_the_tabular_site(outcome: str) -> None:
    """A rollout of a segment rule has the value that the recursion gives it, within four standard errors."""
    scenario, n = tabular(), 40_000
    rule = {"keen": "compact_deal", "plain": "suv_care", "wary": "city_flex"}
    run = true_value(scenario, BySegment(rule), n_subjects=n, seed=3, explore_share=0.0)
    subjects = world.Subjects.draw(scenario, np.arange(n), seed=3)
    policy = np.zeros((n, len(scenario.offers)))
    segment = scenario.population.columns["segment"][subjects.person]
    policy[np.arange(n), [scenario.offers.index_of(rule[str(s)]) for s in segment]] = 1.0
    odds = visit_odds(scenario, subjects)
    exact = market_value(
        odds, subjects.return_rate, outcome=outcome, allowed=visitor_offers(scenario), policy=policy
    ).mean()
    mean, error = run.value(outcome)
    assert abs(mean - exact) < 4 * error
    best = market_value(odds, subjects.return_rate, outcome=outcome, allowed=visitor_offers(scenario)).mean()
    assert best >= exact


def test_best_policy_of_the_tabular_site_attains_the_optimum() -> None:
    """The rule that shows each segment the offer most likely to sign is worth what dynamic programming says is possible."""
    scenario, n = tabular(), 40_000
    subjects = world.Subjects.draw(scenario, np.arange(3_000), seed=0)
    odds = visit_odds(scenario, subjects)
    allowed = visitor_offers(scenario)
    rule = {}
    for person, segment in enumerate(scenario.population.columns["segment"]):
        row = int(np.flatnonzero(subjects.person == person)[0])
        rule[str(segment)] = scenario.offers.ids[int(np.argmax(np.where(allowed > 0, odds.sign[row], -1.0)))]
    run = true_value(scenario, BySegment(rule), n_subjects=n, seed=3, explore_share=0.0)
    best, _ = upper_bound(scenario, n_subjects=n, seed=3, outcome="subscribed")
    mean, error = run.value("subscribed")
    assert abs(mean - best) < 4 * error


def test_nobody_beats_the_bound_and_the_oracle_comes_near() -> None:
    """A policy that sees the latent state beats any single offer, and stays below the bound."""
    scenario, n = reference(), 8_000
    bound, bound_error = upper_bound(scenario, n_subjects=n, seed=4)
    oracle = true_value(scenario, Oracle(scenario, seed=4), n_subjects=n, seed=4, explore_share=0.0)
    single = true_value(scenario, Always("suv_care"), n_subjects=n, seed=4, explore_share=0.0)
    gain, error = oracle.difference(single, "kept_30d")
    assert gain > 4 * error
    assert oracle.value("kept_30d")[0] < bound + 4 * bound_error


def test_a_visit_by_hand() -> None:
    """Two days of market left, one offer: q r + (1 - q) rate q r."""
    scenario = tabular()
    subjects = world.Subjects.draw(scenario, np.arange(5), seed=0)
    odds = visit_odds(scenario, subjects)
    q, r, rate = odds.sign[:, 4], odds.kept[:, 4], subjects.return_rate
    only = np.zeros((5, len(scenario.offers)))
    only[:, 4] = 1.0
    last = q * r
    rest = np.zeros(5)
    for _ in range(world.MARKET_DAYS - 1):
        rest = rate * (last + (1 - q) * rest) + (1 - rate) * rest
    by_hand = last + (1 - q) * rest
    made = market_value(odds, rate, outcome="kept_30d", allowed=np.ones(len(scenario.offers)), policy=only)
    np.testing.assert_allclose(made, by_hand, rtol=1e-12)


def test_unknown_outcomes_are_named() -> None:
    """A misspelt outcome is refused with the nearest known one."""
    with pytest.raises(UnknownNameError, match="kept_30d"):
        upper_bound(reference(), n_subjects=10, seed=1, outcome="kept")
