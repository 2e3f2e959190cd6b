"""Planned looks, confidence sequences, split checks and power against published figures, brute force and simulation."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from scipy.special import betaln
from scipy.stats import norm
from statsmodels.stats.power import NormalIndPower

from offline_eval.abtest import Phase, Rollup, achieved_power, detectable_effect, required_subjects
from offline_eval.abtest.confidence_sequence import mixture_scale, multiplier, sequence_interval
from offline_eval.abtest.group_sequential import (
    bounds,
    crossing_probability,
    drift_for_power,
    expected_sample,
    planned_fractions,
    sample_inflation,
    spent,
)
from offline_eval.abtest.split_check import CONCENTRATIONS, check_split, log_bayes_factor
from policies.errors import InvalidInputError


def test_bounds_of_five_looks_are_the_published_ones() -> None:
    """Lan–DeMets bounds with O'Brien–Fleming-like spending at 0.05: 4.877, 3.357, 2.680, 2.290, 2.031."""
    made = bounds(planned_fractions(5))
    assert made == pytest.approx((4.877, 3.357, 2.680, 2.290, 2.031), abs=6e-4)


def test_one_look_is_the_ordinary_test() -> None:
    """A single look at full information has the normal critical value."""
    assert bounds((1.0,), alpha=0.03) == pytest.approx((norm.isf(0.015),), abs=1e-6)


def test_bounds_spend_what_was_promised() -> None:
    """Chances of a first crossing at uneven looks are the increments of the spending function, and sum to alpha."""
    fractions = (0.31, 0.46, 0.83, 1.0)
    above, below = crossing_probability(fractions, bounds(fractions, alpha=0.04))
    np.testing.assert_allclose(np.cumsum(above + below), [spent(t, 0.04) for t in fractions], atol=1e-8)
    assert float((above + below).sum()) == pytest.approx(0.04, abs=1e-7)
    np.testing.assert_allclose(above, below)


def test_crossing_probabilities_agree_with_simulation() -> None:
    """With a drift, the recursion agrees with 200,000 simulated paths within four standard errors."""
    fractions, drift = (0.25, 0.6, 1.0), 2.4
    critical = bounds(fractions)
    above, below = crossing_probability(fractions, critical, drift=drift)
    rng = np.random.default_rng(11)
    steps = np.diff((0.0, *fractions))
    score = np.cumsum(rng.normal(drift * steps, np.sqrt(steps), (200_000, 3)), axis=1)
    z = score / np.sqrt(fractions)
    outside = np.abs(z) >= critical
    first = np.where(outside.any(axis=1), outside.argmax(axis=1), -1)
    for i in range(3):
        seen = np.mean((first == i) & (z[:, i] > 0))
        assert abs(seen - above[i]) < 4 * math.sqrt(above[i] * (1 - above[i]) / 200_000) + 1e-9
    assert below.sum() < 1e-3


def test_looks_must_go_forward() -> None:
    """Fractions that do not increase are refused with what was found."""
    with pytest.raises(InvalidInputError, match=re.escape("expected fractions that increase")):
        bounds((0.5, 0.5))


def test_planned_looks_cost_little_and_save_much() -> None:
    """Five looks need 2 % more subjects at most for the same power, and stop after less than 80 % of the fixed sample on average."""
    drift = drift_for_power(planned_fractions(5), alpha=0.05, power=0.9)
    inflation = sample_inflation(5, alpha=0.05, power=0.9)
    assert 1.0 < inflation < 1.03
    assert inflation * expected_sample(5, alpha=0.05, drift=drift) < 0.8
    assert expected_sample(5, alpha=0.05, drift=0.0) > 0.98


def test_sequence_is_narrowest_about_when_planned() -> None:
    """ρ from the plan makes the sequence's width at N* the smallest that any ρ gives, within 1 %."""
    alpha, planned = 0.05, 4000.0
    best = min(
        math.sqrt((planned * r * r + 1) / (planned * r * r) * 2 * math.log(math.sqrt(planned * r * r + 1) / alpha))
        for r in mixture_scale(planned, alpha) * np.linspace(0.3, 3.0, 541)
    )
    assert multiplier(planned, planned=planned, alpha=alpha) == pytest.approx(best, rel=0.01)


def test_sequence_solves_the_mixture_equation() -> None:
    """At the limit the normal-mixture martingale of Robbins, integrated by brute force, is exactly 1 / alpha."""
    n, planned, alpha = 700.0, 2000.0, 0.05
    rho = mixture_scale(planned, alpha)
    s = multiplier(n, planned=planned, alpha=alpha) * math.sqrt(n)
    grid = np.linspace(-12 * rho, 12 * rho, 400_001)
    mixed = np.trapezoid(np.exp(grid * s - n * grid**2 / 2) * norm.pdf(grid, 0, rho), grid)
    assert mixed == pytest.approx(1 / alpha, rel=1e-6)


def test_sequence_is_centred_and_says_its_method() -> None:
    """The interval lies symmetrically around the estimate at the level asked for."""
    made = sequence_interval(0.3, 0.1, n=500, planned=1000, alpha=0.02)
    assert made.level == pytest.approx(0.98)
    assert made.high - 0.3 == pytest.approx(0.3 - made.low)
    with pytest.raises(InvalidInputError, match="planned sample"):
        mixture_scale(0, 0.05)


def test_split_evidence_for_two_variants_is_a_beta_binomial() -> None:
    """With two variants the Dirichlet-multinomial factor is the mean of beta-binomial ones, worked with beta functions."""
    x = np.array([530.0, 470.0])
    parts = [
        math.exp(betaln(c * 0.5 + 530, c * 0.5 + 470) - betaln(c * 0.5, c * 0.5) - 1000 * math.log(0.5))
        for c in CONCENTRATIONS
    ]
    assert float(log_bayes_factor(x, [0.5, 0.5])) == pytest.approx(math.log(np.mean(parts)))


def test_split_evidence_is_a_martingale() -> None:
    """Under the planned split the mean of the factor over every outcome of 6 subjects in 3 variants is exactly 1."""
    weights = np.array([0.5, 0.3, 0.2])
    total = 0.0
    for a in range(7):
        for b in range(7 - a):
            counts = np.array([a, b, 6 - a - b])
            ways = math.factorial(6) / np.prod([math.factorial(int(c)) for c in counts])
            total += ways * float(np.prod(weights**counts)) * math.exp(float(log_bayes_factor(counts, weights)))
    assert total == pytest.approx(1.0)


def test_split_check_fires_on_a_wrong_split_and_stays_fired() -> None:
    """A 52/48 split of 20,160 subjects is called broken, names the counts, and an alarm outlives later balance."""
    phase = Phase("1", {"A": 5000, "B": 5000})
    wrong = Rollup({}, np.array([[10_483, 9_677]]))
    check = check_split(wrong, [phase], ["A", "B"])
    assert check.is_broken
    assert "A 10,483 of 10,080 expected" in check.sentence()
    later = check_split(
        Rollup({}, np.array([[20_000, 20_000]])), [phase], ["A", "B"], largest_so_far=check.largest_log_bayes_factor
    )
    assert later.log_bayes_factor < 0
    assert later.is_broken


def test_split_check_judges_each_phase_by_its_own_weights() -> None:
    """Counts that fit two phases of different weights are no mismatch, though their sum fits neither."""
    phases = [Phase("1", {"A": 9000, "B": 1000}), Phase("2", {"A": 2000, "B": 8000})]
    check = check_split(Rollup({}, np.array([[9010, 990], [1990, 8010]])), phases, ["A", "B"])
    assert not check.is_broken
    assert check.expected == pytest.approx({"A": 11_000, "B": 9_000})


@pytest.mark.parametrize(("leaked", "mixed", "broken"), [(0, 0, False), (1, 20, False), (50, 0, True), (0, 200, True)])
def test_leaks_and_multiple_exposure_break_an_experiment(leaked: int, mixed: int, broken: bool) -> None:
    """More than 0.1 % of subjects in a variant without traffic, or 1 % in several variants, and no result is read."""
    check = check_split(
        Rollup({}, np.array([[5000, 5000]]), mixed, leaked), [Phase("1", {"A": 5000, "B": 5000})], ["A", "B"]
    )
    assert check.is_broken is broken
    assert (check.sentence() == "the traffic is split as planned") is (leaked + mixed == 0)


@pytest.mark.parametrize(("effect", "power", "share"), [(0.01, 0.8, 0.5), (0.02, 0.9, 0.3)])
def test_sample_size_agrees_with_statsmodels(effect: float, power: float, share: float) -> None:
    """The fixed-sample size is statsmodels' for a normal test with these shares."""
    sd = 0.22
    needed = required_subjects(standard_deviation=sd, effect=effect, weights=(1 - share, share), power=power)
    control = NormalIndPower().solve_power(effect / sd, power=power, alpha=0.05, ratio=share / (1 - share))
    assert needed == pytest.approx(control / (1 - share), rel=1e-4, abs=1)


def test_power_and_detectable_effect_invert_the_sample_size() -> None:
    """The planned sample finds the planned effect with the planned power, and the smallest detectable effect is the planned one."""
    n = required_subjects(standard_deviation=2.0, effect=0.1, weights=(0.4, 0.6), power=0.85)
    assert achieved_power(n=n, standard_deviation=2.0, effect=0.1, weights=(0.4, 0.6)) == pytest.approx(0.85, abs=1e-3)
    assert detectable_effect(n=n, standard_deviation=2.0, weights=(0.4, 0.6), power=0.85) == pytest.approx(
        0.1, rel=1e-3
    )


def test_more_treatments_and_looks_need_more_subjects() -> None:
    """Every extra treatment and every extra look costs sample, looks only a little."""
    one = required_subjects(standard_deviation=1.0, effect=0.1)
    looks = required_subjects(standard_deviation=1.0, effect=0.1, n_looks=5)
    three = required_subjects(standard_deviation=1.0, effect=0.1, weights=(1, 1, 1))
    assert one < looks < 1.03 * one < three
    with pytest.raises(InvalidInputError, match="expected both positive"):
        required_subjects(standard_deviation=1.0, effect=0.0)
