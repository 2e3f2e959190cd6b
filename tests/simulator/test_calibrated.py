"""A fitted site gives back what made its log, and says what it does not know."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks._recovery import Personal, drawn_site, known_truth
from engine.simulation.calibration import trend_text
from policies.errors import InvalidInputError
from policies.fixed import FixedOrder, Uniform
from policies.protocols import Policy
from simulator.calendar import Calendar
from simulator.calibrated import Calibrated, always, calibrate, value_grid, values_with_spread
from simulator.parameters import WorldParameters
from simulator.response import fit_response
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.scenarios.named import lapsed, retention
from simulator.times import TIMES
from simulator.truth import OUTCOMES, Oracle, true_value

SITE = drawn_site(7)


@pytest.fixture(scope="module")
def made() -> Calibrated:
    """A fit of three thousand visitors of a site with drawn parameters."""
    return calibrate(rollout(SITE, Uniform(), n_subjects=3_000, seed=3), SITE, n_nodes=64)


def test_estimates_are_near_the_truth(made: Calibrated) -> None:
    """Every identified parameter of the drawn site is within four standard errors, and most are identified."""
    truth = known_truth(SITE)
    assert len(made.identified) >= 15
    for name in made.identified:
        parameter = getattr(made.scenario.parameters, name)
        assert parameter.provenance == "fitted"
        assert abs(parameter.value - truth[name]) < 4 * parameter.standard_error, name


def test_every_fitted_parameter_is_on_one_of_two_lists(made: Calibrated) -> None:
    """What the log does not narrow is named as assumed, with the reason, and nothing is on both lists."""
    rows = {r["name"]: r for r in made.table()}
    assert not set(made.identified) & set(made.unidentified)
    assert "price_sensitivity_spread" in made.unidentified
    row = rows["price_sensitivity_spread"]
    assert row["provenance"] == "assumed"
    assert "hardly narrows" in row["reason"]
    assert rows["margin_contrast"]["is_identified"] is None


@pytest.mark.slow
def test_members_spread_as_the_errors_do(made: Calibrated) -> None:
    """The standard deviation of return rates and click bases over members is the standard error, within a third."""
    members = made.members(40, seed=1)
    for name in ("return_rate_per_day", "click_base", "delay_zero_share"):
        spread = np.std([getattr(m.parameters, name).value for m in members])
        assert abs(spread / getattr(made.scenario.parameters, name).standard_error - 1.0) < 1 / 3, name


@pytest.mark.slow
def test_the_interval_of_a_policy_holds_its_true_value(made: Calibrated) -> None:
    """A deal's value on the real site lies in the interval that the ensemble of fits gives."""
    deal = FixedOrder(("compact_deal",))
    values = values_with_spread(made, [always(deal)], n_members=8, n_subjects=2_000)
    truth = true_value(SITE, deal, n_subjects=20_000, seed=8)
    assert [v.outcome for v in values] == list(OUTCOMES)
    for value in values:
        assert value.low < truth.value(value.outcome)[0] < value.high
    assert values[0].to_json()["in_simulation"] is True


@pytest.mark.slow
def test_the_grid_covers_what_is_not_known(made: Calibrated) -> None:
    """Each unidentified coefficient is taken to both ends of what is plausible, and nothing else is."""
    rows = value_grid(made, always(FixedOrder(("suv_care",))), n_subjects=1_000)
    known = {*made.response.identified(), *made.times.identified()}
    assert {r["parameter"] for r in rows} == {*made.response.names, *(c.name for c in TIMES)} - known
    spread = [r["at"] for r in rows if r["parameter"] == "price_sensitivity_spread"]
    assert spread == sorted(spread)
    assert spread[0] < spread[1] < spread[2]
    middle = {r["mean"] for r in rows if r["place"] == "middle"}
    assert len(middle) == 1  # all places meet the same luck: the middle is the site at the estimates
    assert spread[1] == made.scenario.parameters.price_sensitivity_spread.value


def test_one_member_is_no_ensemble(made: Calibrated) -> None:
    """A single member is refused: it has no spread."""
    with pytest.raises(InvalidInputError, match="at least 2"):
        made.members(1, seed=0)


def test_a_log_of_one_offer_leaves_its_price_open() -> None:
    """Where only one offer was ever shown nothing of prices and discounts is called identified, and every member is a lawful site."""
    log = rollout(SITE, FixedOrder(("suv_care",)), n_subjects=2_500, seed=2, explore_share=0.0)
    made = calibrate(log, SITE, n_nodes=32)
    assert {"price_sensitivity", "discount_appeal", "cancel_per_discount"} <= set(made.unidentified)
    for member in made.members(12, seed=1):
        assert member.parameters.price_sensitivity.value > 0
    assert value_grid(made, always(FixedOrder(("suv_care",))), n_subjects=200)


def test_who_had_a_contract_before_the_log_is_left_out() -> None:
    """In a world of lapsed subscribers the fit is one of those who never had a contract, and says how many it left out."""
    site = lapsed()
    log = rollout(site, Uniform(), n_subjects=3_000, seed=4)
    made = calibrate(log, site, n_nodes=32)
    was_lapsed = len(np.unique(log.row[log.table.columns["stage"] == "lapsed"]))
    assert made.n_left_out >= 0.9 * was_lapsed > 500
    p = made.scenario.parameters
    assert abs(p.click_base.value - site.parameters.click_base.value) < 4 * (p.click_base.standard_error or 0)


@pytest.mark.slow
def test_weighted_visits_give_back_the_site_too() -> None:
    """Weights by inverse propensity do not make visitors look more different than they are: errors hold under a personal policy."""
    log = rollout(SITE, Personal(), n_subjects=2_000, seed=5)
    truth = known_truth(SITE)
    for is_weighted in (False, True):
        made = calibrate(log, SITE, n_nodes=64, is_weighted=is_weighted)
        z = [
            (getattr(made.scenario.parameters, n).value - truth[n])
            / getattr(made.scenario.parameters, n).standard_error
            for n in made.identified
        ]
        assert len(z) >= 12
        assert max(np.abs(z)) < 4
        assert np.mean(np.square(z)) < 2.2


def test_members_are_people_of_a_resample(made: Calibrated) -> None:
    """Each member's people are the visitors of its own resample: about two in three of the log, some twice."""
    ages = made.people.columns["deal_share"]
    (first, second) = made.members(2, seed=3)
    for member in (first, second):
        share = len(np.unique(member.population.columns["deal_share"])) / len(np.unique(ages))
        assert 0.55 < share < 0.95
    assert not np.array_equal(first.population.columns["deal_share"], second.population.columns["deal_share"])


def test_a_log_that_drifts_is_told(made: Calibrated) -> None:
    """A strong drift of offers' appeal shows in the score test of slopes over dates, and a world without dates does not."""
    assert made.response.trend_p > 0.01
    drifting = replace(SITE, calendar=Calendar(drift_per_day=0.15))
    fit = fit_response(rollout(drifting, Uniform(), n_subjects=2_500, seed=501), SITE, n_nodes=32)
    assert fit.trend_p < 1e-4
    assert "errors and intervals are too small" in trend_text(fit.trend_p)


def test_nothing_of_the_laws_of_the_scenario_is_kept() -> None:
    """What is neither fitted nor in the log is as it is by default: effects across visits, other laws, dates; columns are the log's."""
    log = rollout(retention(), Uniform(), n_subjects=1_000, seed=3)
    told = retention()
    laws = told.parameters.with_assumed(cancel_per_fatigue=0.4, margin_contrast=0.5, lapsed_share=0.2)
    made = calibrate(
        log, replace(told, parameters=laws, shows_history=False, calendar=Calendar(drift_per_day=0.1)), n_nodes=16
    )
    for site in (made.scenario, *made.members(2, seed=1), made.where(price_sensitivity=1.0)):
        values = site.parameters.values()
        found = {*made.identified, *made.unidentified}
        assert "cancel_per_dependence" not in found
        assert {n: v for n, v in values.items() if n not in found} == {
            n: v for n, v in WorldParameters().values().items() if n not in found
        }
        assert (site.calendar, site.shows_history) == (None, True)


def test_a_yardstick_is_made_for_every_site(made: Calibrated) -> None:
    """The estimates and each member are valued under a policy made for them: an oracle of another site would see other people."""
    met: list[Scenario] = []

    def oracle(site: Scenario) -> Policy:
        met.append(site)
        return Oracle(site, seed=1)

    values = values_with_spread(made, [oracle], n_members=2, n_subjects=300)
    assert [v.policy for v in values] == ["oracle"] * len(OUTCOMES)
    assert [s.parameters for s in met] == [s.parameters for s in (made.scenario, *made.members(2, seed=1))]
    member = met[2]
    own, stale = (true_value(member, Oracle(s, seed=1), n_subjects=3_000, seed=1) for s in (member, made.scenario))
    gain, error = own.difference(stale, "kept_30d")
    assert gain > 2 * error
