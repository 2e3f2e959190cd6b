"""What the date does: seeded, scheduled, and nothing where nothing is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.eligibility import Condition, EligibilityRule
from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import Uniform
from simulator.calendar import Calendar, Shock
from simulator.env import CarSubscriptionVectorEnv
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import OFFERS, RULES, reference
from simulator.scenarios.files import load_scenario, save_scenario
from simulator.scenarios.named import changing, trial
from simulator.spaces import reference_space
from simulator.truth import true_value
from tests.simulator.test_site import Always


def test_drift_is_seeded_and_spreads_with_the_root_of_time() -> None:
    """One seed gives one drift, another another; after n days it has the spread of n steps, within four standard errors."""
    one, same, other = (Calendar(drift_per_day=0.1, n_days=100, seed=s).log_odds(OFFERS) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    ends = np.concatenate([Calendar(drift_per_day=0.1, n_days=100, seed=s).log_odds(OFFERS)[-1] for s in range(60)])
    assert abs(ends.std() - 1.0) < 4 / np.sqrt(2 * len(ends))


def test_a_shock_acts_on_its_days_and_offers() -> None:
    """By hand: two days, one offer, the rest of the table nought; weekdays repeat after seven days."""
    made = Calendar(shocks=(Shock(2, 3, -0.5, ("suv_deal",)),), n_days=6).log_odds(OFFERS)
    expected = np.zeros((6, 8))
    expected[2:4, 6] = -0.5
    np.testing.assert_array_equal(made, expected)
    week = Calendar(weekday_log_odds=(1, 2, 3, 4, 5, 6, 7), n_days=9).log_odds(OFFERS)
    assert week[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 1, 2]


def test_a_season_is_a_cosine_and_sells_more_in_its_height() -> None:
    """Highest on the first day, lowest half a season later, the same for all offers; first visits click more at its height than in its depth."""
    made = Calendar(season_log_odds=0.8, season_days=40.0, n_days=81).log_odds(OFFERS)
    assert (made == made[:, :1]).all()
    np.testing.assert_allclose(made[[0, 10, 20, 40, 60], 0], [0.8, 0.0, -0.8, 0.8, -0.8], atol=1e-12)
    assert reference().calendar is None
    site = replace(reference(), calendar=Calendar(season_log_odds=0.8, season_days=40.0))
    run = rollout(site, Always("suv_deal"), n_subjects=6_000, visit_days=40, seed=2)
    first = run.table.columns["n_visits"] == 0
    height, depth = (
        run.rewards["clicked"][first & np.isin(run.day, days)] for days in ((0, 1, 2, 38, 39), range(18, 23))
    )
    assert height.mean() - depth.mean() > 4 * np.sqrt(0.25 / len(height) + 0.25 / len(depth))


def test_offers_come_late_sell_out_and_are_shown_a_limited_number_of_times() -> None:
    """In the log no offer is eligible outside its days, and none is shown to one visitor more often than allowed."""
    site = changing()
    run = rollout(site, Uniform(), n_subjects=1_500, visit_days=50, seed=3)
    shown = run.chosen == OFFERS.index_of("compact_year")
    assert run.day[shown].min() == 10
    assert run.day[run.chosen == OFFERS.index_of("suv_care")].max() == 40
    eligible = run.table.eligible[:, OFFERS.index_of("suv_care")]
    assert not eligible[run.day > 40].any()
    often = np.bincount(run.row[run.chosen == OFFERS.index_of("city_deal")])
    assert often.max() == 3


def test_a_shock_lowers_what_it_acts_on() -> None:
    """Clicks on a deal fall after its shock, beyond four standard errors, against the same visitors without it."""
    site = replace(reference(), calendar=Calendar(shocks=(Shock(0, 99, -1.0, ("suv_deal",)),)))
    shocked, plain = (rollout(s, Always("suv_deal"), n_subjects=3_000, seed=2) for s in (site, reference()))
    a, b = (r.rewards["clicked"][r.table.columns["n_visits"] == 0] for r in (shocked, plain))
    assert (b - a).mean() > 4 * (b - a).std() / np.sqrt(len(a))
    assert ((b - a) >= 0).all()  # the same luck: nobody clicks because of it


def test_a_calendar_of_nothing_changes_nothing() -> None:
    """A site with an empty calendar writes the log of the site without one."""
    a, b = (
        rollout(s, Uniform(), n_subjects=300, seed=4) for s in (reference(), replace(reference(), calendar=Calendar()))
    )
    np.testing.assert_array_equal(a.chosen, b.chosen)
    np.testing.assert_array_equal(a.subjects.margin_eur, b.subjects.margin_eur)


def test_a_subject_is_the_same_in_halves_of_a_changing_site() -> None:
    """Dates act on all alike: two halves of a cohort live the lives of the whole."""
    whole = rollout(changing(), Uniform(), n_subjects=200, visit_days=30, seed=4)
    parts = [rollout(changing(), Uniform(), n_subjects=100, visit_days=30, seed=4, first_subject=f) for f in (0, 100)]
    for name in ("kept_30d", "margin_eur", "n_visits"):
        joined = np.concatenate([getattr(p.subjects, name) for p in parts])
        np.testing.assert_array_equal(getattr(whole.subjects, name), joined)


def test_a_trial_ends_contracts_on_its_last_day() -> None:
    """More leave on the day the trial ends than on any other; who is on trial is shown as such, for seven days."""
    run = rollout(trial(), Uniform(), n_subjects=6_000, seed=5)
    left = run.subjects.cancelled_day >= 0
    tenure = run.subjects.cancelled_day[left] - run.subjects.signed_day[left]
    assert np.bincount(tenure).argmax() == 7
    days = run.table.columns["tenure_days"]
    is_trial = run.table.columns["stage"] == "trial"
    assert is_trial.sum() > 100
    np.testing.assert_array_equal(is_trial, days < 7)
    sooner = true_value(trial(), Uniform(), n_subjects=2_000, seed=5).value("kept_30d")[0]
    assert sooner < true_value(trial(), Uniform(), n_subjects=2_000, seed=5).value("subscribed")[0]


def test_the_vector_environment_masks_what_is_sold_out() -> None:
    """Observation and mask agree in a site where offers come and go, and what is masked is never shown."""
    site = changing()
    env = CarSubscriptionVectorEnv(400, scenario=site, space=reference_space(site, n_subjects=200))
    obs, info = env.reset(seed=1)
    seen_sold_out = False
    for step in range(12):
        np.testing.assert_array_equal(obs[:, :8], info["action_mask"])
        seen_sold_out |= bool((info["action_mask"][:, 5] == 0).any() and (info["action_mask"][:, 1] == 1).any())
        mask = info["action_mask"].copy()
        obs, _, _, _, info = env.step(np.full(400, step % 8))
        is_visit = info["shown"] >= 0
        assert (mask[is_visit, info["shown"][is_visit]] == 1).all()
    assert seen_sold_out


def test_a_calendar_survives_a_file(tmp_path: Path) -> None:
    """A saved site has the same dates, rules and log as the one that was saved."""
    for made in (changing(seed=4), trial()):
        again = load_scenario(save_scenario(made, tmp_path / made.name))
        assert again.calendar == made.calendar
        a, b = (rollout(s, Uniform(), n_subjects=100, visit_days=20, seed=1) for s in (made, again))
        np.testing.assert_array_equal(a.chosen, b.chosen)


def test_a_saved_site_keeps_its_offers_prices_and_rules(tmp_path: Path) -> None:
    """Another catalogue, what was usual before it was repriced, and rules of one's own come back from a file."""
    rule = EligibilityRule(
        "phones see no deals", (Condition("family", "in", ("discount",)),), (Condition("device", "!=", "mobile"),)
    )
    made = replace(reference().repriced({"suv_deal": 399.0}), rules=(*RULES, rule))
    again = load_scenario(save_scenario(made, tmp_path / "site"))
    assert again.offers is made.offers
    assert again.rules == made.rules
    assert again.usual_prices() == made.usual_prices() == reference().usual_prices()
    a, b = (rollout(s, Uniform(), n_subjects=200, seed=1) for s in (made, again))
    np.testing.assert_array_equal(a.table.eligible, b.table.eligible)
    np.testing.assert_array_equal(a.rewards["clicked"], b.rewards["clicked"])


def test_bad_calendars_are_named() -> None:
    """Six weekdays, an unknown offer and a page without anything are refused."""
    with pytest.raises(InvalidInputError, match="6 numbers"):
        Calendar(weekday_log_odds=(0.0,) * 6)
    with pytest.raises(UnknownNameError, match="suv_deal"):
        Calendar(shocks=(Shock(0, 1, 1.0, ("suv_del",)),)).log_odds(OFFERS)
    with pytest.raises(InvalidInputError, match="ends before it begins"):
        Calendar(shocks=(Shock(9, 3, 1.0),))
    with pytest.raises(InvalidInputError, match="ends before it begins"):
        Calendar(offered={"suv_deal": (9, 3)})
    with pytest.raises(InvalidInputError, match="0 times"):
        Calendar(max_views={"suv_deal": 0})
    with pytest.raises(InvalidInputError, match="finite"):
        Calendar(season_log_odds=float("nan"))
    with pytest.raises(InvalidInputError, match="drift of -1"):
        Calendar(drift_per_day=-1.0)
    with pytest.raises(InvalidInputError, match="on all days"):
        Calendar(offered=dict.fromkeys(OFFERS.ids, (1, 5))).is_offered(OFFERS)
