"""The second family of laws keeps the interface and the honesty of the first, and is a different world."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.habit import HabitParameters, HabitScenario, HabitSite
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import NO_OFFER, OFFERS, reference
from simulator.truth import true_value
from tests.simulator.test_site import Always, Uniform


def test_batching_changes_no_fate() -> None:
    """Two parts of a cohort live the same lives as the whole."""
    world = HabitScenario()
    whole = rollout(world, Uniform(), n_subjects=500, seed=4)
    parts = [rollout(world, Uniform(), n_subjects=n, seed=4, first_subject=f) for f, n in ((0, 200), (200, 300))]
    for name in ("subscribed", "kept_30d", "margin_eur", "n_visits"):
        joined = np.concatenate([getattr(part.subjects, name) for part in parts])
        np.testing.assert_array_equal(getattr(whole.subjects, name), joined)


def test_null_world_makes_no_difference() -> None:
    """Where offers make no difference, every visitor meets the same fate under any policy."""
    null = HabitScenario().null()
    a = true_value(null, Always("compact_deal"), n_subjects=3_000, seed=2)
    b = true_value(null, Always("suv_care"), n_subjects=3_000, seed=2)
    assert a.value("subscribed")[0] > 0
    for outcome in ("subscribed", "kept_30d", "margin_eur"):
        assert a.difference(b, outcome) == (0.0, 0.0)


@pytest.mark.slow
def test_offers_matter_and_none_is_best_for_all() -> None:
    """A good offer sells more than nothing beyond five standard errors, and shows another order than the first family."""
    world, n = HabitScenario(), 6_000
    suv = true_value(world, Always("suv_care"), n_subjects=n, seed=2)
    nothing = true_value(world, Always(NO_OFFER), n_subjects=n, seed=2)
    gain, error = suv.difference(nothing, "subscribed")
    assert gain > 5 * error
    names = [o for o in OFFERS.ids if o not in (NO_OFFER, "loyal_care")]
    ranks = []
    for site in (world, reference()):
        values = [true_value(site, Always(o), n_subjects=2_000, seed=5).value("kept_30d")[0] for o in names]
        ranks.append(np.argsort(values).tolist())
    assert ranks[0] != ranks[1]


@pytest.mark.parametrize("offer", [1, 4])
def test_a_higher_price_never_raises_appeal(offer: int) -> None:
    """Appeal falls as the price shown rises past the remembered one, and twice as fast above it as below."""
    site = HabitSite(HabitScenario(), n_subjects=5, visit_days=1, seed=1)
    rows, day, chosen = np.arange(5), np.zeros(5, dtype=np.int64), np.full(5, offer)
    car = site._car[offer]
    index = []
    for price in (-100.0, 0.0, 100.0):
        site._effective[offer] = site._list_price[car] + price
        index.append(site.appeal(rows, day, chosen))
    p = HabitParameters().values()
    np.testing.assert_allclose(index[0] - index[1], p["gain_per_100_eur"])
    np.testing.assert_allclose(index[1] - index[2], p["loss_per_100_eur"])


def test_leaving_is_tested_when_the_discount_ends() -> None:
    """Contracts with a discount end more often around the day the full price is told than a week before."""
    site = HabitScenario().open(n_subjects=30_000, visit_days=1, seed=3)
    deal = OFFERS.index_of("compact_deal")
    for day in range(60):
        visits = site.visits(day)
        may = visits.table.eligible[:, deal]
        site.respond(visits, np.where(may, deal, 0))
        site.end_of_day(day)
    left = site.cancelled_day >= 0
    tenure = (site.cancelled_day - site.signed_day)[left & (site.signed_offer == deal)]
    told = int(HabitParameters().discount_end_day.value)
    around = np.isin(tenure, (told - 1, told, told + 1)).sum()
    before = np.isin(tenure, (told - 8, told - 7, told - 6)).sum()
    assert around - before > 3 * np.sqrt(around + before)
    assert (tenure > 0).all()


def test_every_parameter_is_marked_as_assumed_with_a_reason() -> None:
    """Nothing in this family claims to have been fitted."""
    parameters = HabitParameters()
    for name in parameters.values():
        assert getattr(parameters, name).provenance == "assumed"
        assert getattr(parameters, name).reason
