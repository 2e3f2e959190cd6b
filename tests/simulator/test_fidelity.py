"""Two logs of one world cannot be told apart; logs of different worlds can."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._recovery import ByColumn
from policies.errors import InvalidInputError
from simulator.fidelity import AsLogged, area_under_curve, days_of_arrival, fidelity
from simulator.habit import HabitScenario
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.named import lapsed
from tests.simulator.test_site import Uniform


def test_one_world_looks_like_itself() -> None:
    """Other visitors of the same world differ by chance only: no comparison beyond four errors, a classifier at a coin's accuracy."""
    runs = [rollout(reference(), Uniform(), n_subjects=n, seed=s) for s, n in ((1, 3_000), (2, 2_500))]
    report = fidelity(*runs)
    for distance in report.distances:
        assert abs(distance.first - distance.second) <= 4 * distance.error, distance.name
    assert not report.differing()
    low, high = report.auc_interval
    assert low < 0.5 < high
    assert not report.is_told_apart


def test_other_laws_are_found_out() -> None:
    """The second family is told from the first, and so is a world with another return rate in the figure that it changes."""
    here = rollout(reference(), Uniform(), n_subjects=2_500, seed=1)
    there = fidelity(here, rollout(HabitScenario(), Uniform(), n_subjects=2_500, seed=1))
    assert there.auc > 0.5 + 5 * there.auc_error
    assert there.is_told_apart
    assert "clicks per view, discount" in there.differing()
    site = reference()
    slow = reference(parameters=site.parameters.with_assumed(return_rate_per_day=0.2))
    visits = fidelity(here, rollout(slow, Uniform(), n_subjects=2_500, seed=2)).distances[0]
    assert visits.first - visits.second > 5 * visits.error
    assert visits.p_value < 1e-6


def test_survival_by_hand() -> None:
    """Where nobody is censored the share active after signing is the share that did not leave by then."""
    run = rollout(reference(), Uniform(), n_subjects=2_000, seed=3)
    report = fidelity(run, run)
    signed, left = run.subjects.signed_day, run.subjects.cancelled_day
    has, lasted = signed >= 0, np.where(left < 0, 999, left - signed)
    for day in (1, 7, 14, 30):
        (active,) = [d for d in report.distances if d.name == f"active {day} days after signing"]
        share = float((lasted[has] > day).mean())
        np.testing.assert_allclose([active.first, active.second], share)
        np.testing.assert_allclose(active.error, np.sqrt(2 * share * (1 - share) / has.sum()), rtol=1e-6)
    assert all(d.p_value == 1.0 for d in report.distances)


def test_a_log_cut_short_is_held_against_a_whole_one() -> None:
    """Visitors who came too late for thirty days are left out and contracts still running are censored: a cut is no difference."""
    whole = rollout(reference(), Uniform(), n_subjects=3_000, visit_days=30, seed=5)
    cut = rollout(reference(), Uniform(), n_subjects=3_000, visit_days=30, as_of=44, seed=6)
    report = fidelity(whole, cut)
    assert report.n_second < 0.6 * report.n_first
    assert not report.differing()
    assert not report.is_told_apart


def test_a_world_is_lived_as_the_log_showed_offers() -> None:
    """A log of a rule that looks at the class searched for is matched by its own mean distributions, and not by uniform ones."""
    deals = ByColumn("deals", "searched_class", {"city": "city_deal", "compact": "compact_deal", "suv": "suv_deal"})
    log = rollout(reference(), deals, n_subjects=2_500, seed=1)
    assert days_of_arrival(log) == 14
    same = rollout(reference(), AsLogged.of(log), n_subjects=2_500, seed=2, explore_share=0.0)
    assert not fidelity(log, same).is_told_apart
    assert fidelity(log, rollout(reference(), Uniform(), n_subjects=2_500, seed=2)).is_told_apart


def test_area_under_the_curve_by_hand() -> None:
    """Of two positives against three negatives four of six pairs are in order and one is a tie."""
    area, variance = area_under_curve(np.asarray([0.1, 0.4, 0.7]), np.asarray([0.4, 0.8]))
    np.testing.assert_allclose(area, (1 + 0.5 + 0 + 3) / 6)
    above, below = np.asarray([1.5 / 3, 1.0]), np.asarray([1.0, 0.75, 0.5])
    np.testing.assert_allclose(variance, above.var(ddof=1) / 2 + below.var(ddof=1) / 3)


def test_too_little_to_compare_is_refused() -> None:
    """A log of a few visitors is refused with their number."""
    few = rollout(reference(), Uniform(), n_subjects=20, seed=1)
    with pytest.raises(InvalidInputError, match="20 visitors"):
        fidelity(few, few)


def test_every_comparison_is_of_visitors_seen_from_the_start() -> None:
    """Delays and stays of lapsed subscribers, whose first contract no log saw, are in none of the figures of either log."""
    run = rollout(lapsed(), Uniform(), n_subjects=3_000, seed=3)
    told = {d.name: d for d in fidelity(run, run).distances}
    is_first = run.table.columns["n_visits"] == 0
    new = np.zeros(len(run.subjects.n_visits), dtype=np.bool_)
    new[run.row[is_first & (run.table.columns["stage"] == "visitor")]] = True
    signed, left = run.subjects.signed_day, run.subjects.cancelled_day
    has = new & (signed >= 0)
    assert has.sum() < (signed >= 0).sum()
    lasted = np.where(left < 0, 999, left - signed)
    for day in (7, 30):
        np.testing.assert_allclose(told[f"active {day} days after signing"].first, (lasted[has] > day).mean())
    credited = (run.rewards["subscribed"] > 0) & new[run.row]
    delays = signed[run.row[credited]] - run.day[credited]
    np.testing.assert_allclose(told["days from click to contract"].first, delays.mean())
