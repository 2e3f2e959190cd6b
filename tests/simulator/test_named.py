"""The named worlds are what their sentences say."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import UnknownNameError
from simulator import world
from simulator.evidence import seen_from_the_start
from simulator.exact import Market
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import NO_OFFER, reference
from simulator.scenarios.named import WORLDS, alike, bargain_trap, lapsed, world_named
from simulator.truth import OUTCOMES, true_value
from tests.simulator.test_site import Always, Uniform


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_every_world_runs(name: str) -> None:
    """Visitors of each world click and sign, and each log is a valid input of estimators."""
    run = rollout(world_named(name), Uniform(), n_subjects=700, seed=1)
    batch = run.interactions("subscribed")
    assert batch.reward.sum() > 0
    assert run.rewards["clicked"].mean() > 0.05


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_where_all_are_alike_one_offer_is_best_for_each(outcome: str) -> None:
    """One offer is the best for every visitor on every day, so that showing it always is worth what knowing everything is.

    Were views tiring, changing offers from visit to visit would pay, and a policy sees the count of visits: so they are not.
    """
    scenario = alike()
    assert scenario.parameters.values()["fatigue_per_view"] == 0.0
    market = Market.of(scenario, world.Subjects.draw(scenario, np.arange(400), seed=2))
    best, choices = market.best(outcome)
    (offer,) = set(choices.ravel().tolist())
    np.testing.assert_allclose(market.value(outcome, np.eye(len(scenario.offers))[offer]), best, rtol=1e-12)


def test_lapsed_subscribers_are_shown_as_such_and_choose_again() -> None:
    """Three visitors in ten are lapsed, see what visitors see, sign more and keep less; without a share nobody is."""
    site = lapsed()
    run = rollout(site, Uniform(), n_subjects=20_000, seed=3)
    stage, offers = run.table.columns["stage"], run.table.offers
    assert set(np.unique(stage)) == {"visitor", "subscriber", "lapsed"}
    first = run.table.columns["n_visits"] == 0
    was = np.zeros(20_000, dtype=np.bool_)
    was[run.row[first]] = stage[first] == "lapsed"
    assert abs(was.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / len(was))
    is_lapsed = stage == "lapsed"
    assert run.table.eligible[is_lapsed][:, offers.index_of("suv_deal")].all()
    assert not run.table.eligible[is_lapsed][:, offers.index_of("loyal_care")].any()
    signed, kept = run.subjects.subscribed, run.subjects.kept_30d
    gain = signed[was].mean() - signed[~was].mean()
    assert gain > 4 * np.sqrt(signed.var() * (1 / was.sum() + 1 / (~was).sum()))
    stays = [kept[w & signed].mean() for w in (was, ~was)]
    assert stays[1] - stays[0] > 2 * np.sqrt(0.25 / (was & signed).sum())
    plain = rollout(reference(), Uniform(), n_subjects=500, seed=3)
    assert "lapsed" not in plain.table.columns["stage"]
    seen = seen_from_the_start(run)  # a fit sees visitors without a past only
    assert not was[seen.row].any()
    assert len(np.unique(seen.row)) == (~was).sum()


def test_the_trap_wins_the_week_and_loses_the_month() -> None:
    """Beyond four standard errors the deal sells more than the car with service, and keeps fewer where leaving is easy; not where discounts are kept."""
    differences = {}
    for weight in (0.0, 10.0):
        site = bargain_trap(cancel_per_discount=weight)
        deal = true_value(site, Always("compact_deal"), n_subjects=8_000, seed=3)
        care = true_value(site, Always("suv_care"), n_subjects=8_000, seed=3)
        differences[weight] = {name: deal.difference(care, name) for name in ("subscribed", "kept_30d")}
    sold, sold_error = differences[10.0]["subscribed"]
    kept, kept_error = differences[10.0]["kept_30d"]
    assert sold > 4 * sold_error
    assert kept < -4 * kept_error
    faithful, faithful_error = differences[0.0]["kept_30d"]
    assert faithful > 4 * faithful_error


def test_without_an_offer_the_base_churn_is_reproduced() -> None:
    """Subscribers who came without an offer leave at the rate that the hazard of their plain contract gives, within four standard errors."""
    scenario, n = alike(), 30_000
    site = scenario.open(n_subjects=n, visit_days=1, seed=5)
    for day in range(60):
        visits = site.visits(day)
        site.respond(visits, np.full(len(visits), scenario.offers.index_of(NO_OFFER)))
        site.end_of_day(day)
    signed = site.signed_day >= 0
    p = scenario.parameters.values()
    hazard = p["cancel_per_day"] * np.exp(p["cancel_per_term"] * 1.0)
    expected = (1.0 - hazard) ** 30
    share = site.is_kept[signed].mean()
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / signed.sum())


def test_unknown_worlds_are_named() -> None:
    """A misspelt world is refused with the nearest known one."""
    with pytest.raises(UnknownNameError, match="bargain-trap"):
        world_named("bargain_trap")
