"""A fitted site gives back what made its log, and says what it does not know."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._recovery import drawn_site, known_truth
from policies.errors import InvalidInputError
from policies.fixed import FixedOrder, Uniform
from simulator.calibrated import Calibrated, calibrate, value_grid, values_with_spread
from simulator.rollouts import rollout
from simulator.times import TIMES
from simulator.truth import OUTCOMES, true_value

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
    values = values_with_spread(made, [deal], n_members=8, n_subjects=2_000)
    truth = true_value(SITE, deal, n_subjects=20_000, seed=8)
    assert [v.outcome for v in values] == list(OUTCOMES)
    for value in values:
        assert value.low < truth.value(value.outcome)[0] < value.high
    assert values[0].to_json()["in_simulation"] is True


@pytest.mark.slow
def test_the_grid_covers_what_is_not_known(made: Calibrated) -> None:
    """Each unidentified coefficient is taken to both ends of what is plausible, and nothing else is."""
    rows = value_grid(made, FixedOrder(("suv_care",)), n_subjects=1_000)
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
