"""Recursions against rollouts, brute force and numbers worked out by hand."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import FixedOrder
from policies.records import FloatArray
from simulator import world
from simulator.calendar import Calendar
from simulator.exact import Market, StateRule, greedy_crossing, myopic, solve, value_of, visible_market
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import Scenario, reference, tabular
from simulator.scenarios.named import retention_tabular
from simulator.truth import Oracle, true_value, upper_bound
from tests.simulator.worlds import drawn_world, numbers

SEGMENTS = np.asarray(["keen", "plain", "wary"])


def _rule(scenario: Scenario, offers: tuple[str, str, str]) -> StateRule:
    wanted = np.asarray([scenario.offers.index_of(o) for o in offers])
    return StateRule("by segment", SEGMENTS, np.broadcast_to(wanted[:, None, None], (3, world.MARKET_DAYS, 4)).copy())


@pytest.mark.parametrize("outcome", ["subscribed", "kept_30d", "margin_eur"])
@pytest.mark.parametrize("scenario", [tabular(), retention_tabular()], ids=["tabular", "retention"])
def test_exact_value_of_a_rule_is_what_happens(scenario: Scenario, outcome: str) -> None:
    """A rollout of a segment rule has the value that the recursion gives it, within four standard errors."""
    rule = _rule(scenario, ("compact_deal", "suv_care", "city_flex"))
    mean, error = true_value(scenario, rule, n_subjects=20_000, seed=3, explore_share=0.0).value(outcome)
    assert abs(mean - value_of(scenario, rule, outcome=outcome)) < 4 * error


def test_the_planned_policy_attains_its_value_in_a_rollout() -> None:
    """What dynamic programming promises is what the planned policy earns, within four standard errors, and more than greedy earns."""
    scenario = retention_tabular()
    best, value = solve(scenario)
    run = true_value(scenario, best, n_subjects=40_000, seed=5, explore_share=0.0)
    mean, error = run.value("kept_30d")
    assert abs(mean - value) < 4 * error
    greedy = true_value(scenario, myopic(scenario), n_subjects=40_000, seed=5, explore_share=0.0)
    gain, gain_error = run.difference(greedy, "kept_30d")
    assert gain > 4 * gain_error


def test_no_segment_rule_beats_the_planned_policy() -> None:
    """Of all 512 rules that show each segment one of eight offers for ever, none is worth more than the optimum."""
    scenario = retention_tabular()
    _, best = solve(scenario)
    ids = scenario.offers.ids
    per_segment = np.stack([_by_segment(scenario, offer) for offer in ids])  # (8, 3): offers do not act across segments
    values = [per_segment[list(rule), range(3)].mean() for rule in itertools.product(range(len(ids) - 1), repeat=3)]
    assert max(values) <= best + 1e-12
    assert max(values) > 0.5 * best


def test_no_plan_at_all_beats_the_planned_policy() -> None:
    """In a window of three days each of 3^6 plans over day and discounts seen is valued by walking through all that can happen.

    The walk knows neither the recursion nor its states: it follows one visitor from day to day, visit by visit.
    """
    market, _ = visible_market(retention_tabular(discount_dependence=1.5))
    market, offers = replace(market, n_days=3), (1, 4, 5)

    def walk(plan: dict[tuple[int, int], int], day: int, seen: int) -> float:
        offer = plan[day, seen]
        odds = market.odds[seen]
        value, chance = odds.sign[0, offer] * odds.kept[0, offer], 1.0 - odds.sign[0, offer]
        for later in range(day + 1, 3):
            value += chance * market.rate[0] * walk(plan, later, seen + int(market.is_discounted[offer]))
            chance *= 1.0 - market.rate[0]
        return float(value)

    states = [(day, seen) for day in range(3) for seen in range(day + 1)]
    plans = [dict(zip(states, chosen, strict=True)) for chosen in itertools.product(offers, repeat=len(states))]
    every = [walk(plan, 0, 0) for plan in plans]
    value, choices = market.best("kept_30d", among=np.isin(np.arange(8), offers))
    np.testing.assert_allclose(max(every), value[0], rtol=1e-12)
    assert len({round(v, 12) for v in every}) > 30
    best = plans[int(np.argmax(every))]
    assert choices[0, 0, 0] == best[0, 0]
    table = np.zeros((1, 3, 4, 8))
    for (day, seen), offer in plans[123].items():
        table[0, day, seen, offer] = 1.0
    np.testing.assert_allclose(market.value("kept_30d", table)[0], every[123], rtol=1e-12)


def test_dates_have_no_exact_optimum() -> None:
    """A tabular site with a calendar is refused: the recursion knows no dates."""
    with pytest.raises(InvalidInputError, match="has dates"):
        solve(replace(tabular(), calendar=Calendar(drift_per_day=0.1)))


@pytest.mark.slow
@pytest.mark.parametrize("outcome", ["subscribed", "kept_30d", "margin_eur"])
@settings(max_examples=2, deadline=None, derandomize=True)
@given(number=numbers)
def test_the_bound_holds_in_every_world(outcome: str, number: int) -> None:
    """Neither the oracle nor any single offer is worth more than the bound, whatever the laws and dates, on the same visitors."""
    site = drawn_world(number)
    kind = {name: abs(site.parameters.values()[name]) for name in ("fatigue_per_view", "cancel_per_fatigue")}
    site = replace(site, parameters=site.parameters.with_assumed(**kind))
    n = 2_000
    bound, error = upper_bound(site, n_subjects=n, seed=number, outcome=outcome)
    policies = (Oracle(site, seed=number, outcome=outcome), FixedOrder(("suv_deal",)), FixedOrder(("compact_year",)))
    for policy in policies:
        mean, own = true_value(site, policy, n_subjects=n, seed=number, explore_share=0.0).value(outcome)
        assert mean < bound + 4 * (own**2 + error**2) ** 0.5


def _by_segment(scenario: Scenario, offer: str) -> FloatArray:
    market, _ = visible_market(scenario)
    return market.value("kept_30d", np.eye(len(scenario.offers))[scenario.offers.index_of(offer)])


def test_selling_most_keeps_most_below_the_crossing_and_not_above() -> None:
    """At every coefficient the greedy seller wins the week; the month it wins below the crossing point only."""
    at = greedy_crossing(lambda c: retention_tabular(discount_dependence=c))
    assert 0.1 < at < 2.0
    for coefficient, wins_month in ((0.0, True), (at - 0.02, True), (at + 0.02, False), (2.0, False)):
        site = retention_tabular(discount_dependence=coefficient)
        greedy, (careful, kept) = myopic(site), solve(site, with_discounts=False)
        assert value_of(site, greedy, outcome="subscribed") > value_of(site, careful, outcome="subscribed")
        assert (value_of(site, greedy) > kept) is wins_month


def test_without_dependence_the_greedy_seller_is_as_good_as_planning() -> None:
    """At coefficient nought discounts cost nothing later, and the best choice of each visit is the best of all."""
    site = retention_tabular(discount_dependence=0.0)
    assert abs(value_of(site, myopic(site, outcome="kept_30d")) - solve(site)[1]) < 1e-3 * solve(site)[1]


def test_a_lead_that_never_turns_is_refused() -> None:
    """A range without a crossing point says who leads at both ends."""
    with pytest.raises(InvalidInputError, match="widen the range"):
        greedy_crossing(lambda c: retention_tabular(discount_dependence=c), low=0.0, high=0.1)


def test_two_days_by_hand() -> None:
    """One offer that sells with chance q: after the last day nothing, the day before q r + (1 - q) rate q r, and so on."""
    scenario = tabular()
    subjects = world.Subjects.draw(scenario, np.arange(5), seed=0)
    market = Market.of(scenario, subjects)
    q, r, rate = market.odds[0].sign[:, 5], market.odds[0].kept[:, 5], market.rate
    last = q * r
    rest = np.zeros(5)
    for _ in range(world.MARKET_DAYS - 1):
        rest = rate * (last + (1 - q) * rest) + (1 - rate) * rest
    made = market.value("kept_30d", np.eye(len(scenario.offers))[5])
    np.testing.assert_allclose(made, last + (1 - q) * rest, rtol=1e-12)


def test_what_a_site_hides_is_named() -> None:
    """A site with hidden differences has no exact optimum here, and the message says which parameters hide it."""
    with pytest.raises(InvalidInputError, match="taste_spread"):
        solve(reference())


def test_the_bound_of_a_tabular_site_is_its_optimum() -> None:
    """Nothing is hidden, so that seeing everything gains nothing: the bound is the optimum, up to the draw of the segments."""
    scenario = retention_tabular()
    mean, error = upper_bound(scenario, n_subjects=20_000, seed=3)
    assert abs(mean - solve(scenario)[1]) < 4 * error


def test_history_is_shown_where_it_matters() -> None:
    """The count of discounts a policy sees is the number of discounts the log shows before, subject by subject."""
    scenario = retention_tabular()
    rule = _rule(scenario, ("compact_deal", "suv_care", "city_deal"))
    run = rollout(scenario, rule, n_subjects=300, seed=2, explore_share=0.5)
    discounted = scenario.offer_numbers("discount_pct")[run.chosen] > 0
    seen = np.zeros(300)
    for i, row in enumerate(run.row):
        assert run.table.columns["discounts_seen"][i] == seen[row]
        seen[row] += discounted[i]


def test_misspelt_outcomes_are_named() -> None:
    """An outcome that is not known is refused with those that are."""
    with pytest.raises(UnknownNameError, match=re.escape("kept_30d")):
        solve(tabular(), outcome="kept")
