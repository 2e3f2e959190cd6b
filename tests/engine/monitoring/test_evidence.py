"""Evidence that may be read at every draw, distances and bins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.monitoring.evidence import (
    bin_of,
    bin_of_one,
    fingerprint,
    grouped,
    log_evidence,
    smallest_of,
    stability_index,
)


def test_evidence_of_one_cell_is_the_mean_of_its_bets() -> None:
    """Three draws of an offer with probabilities 0.2, 0.5 and 0.5 give the mean over ten bets of exp(xS - V(e^|x| - 1 - |x|))."""
    count, expected, variance = 3.0, 1.2, 0.16 + 0.25 + 0.25
    bets = [s * x for x in (0.01, 0.03, 0.1, 0.3, 1.0) for s in (1, -1)]
    by_hand = [math.exp(x * (count - expected) - variance * (math.exp(abs(x)) - 1 - abs(x))) for x in bets]
    assert float(log_evidence(count, expected, variance)) == pytest.approx(math.log(sum(by_hand) / 10))


def test_evidence_on_true_draws_hardly_ever_grows() -> None:
    """Over 2,000 logs read at every one of 400 draws, evidence reaches 1/0.05 in at most 5 % of them (Ville)."""
    rng = np.random.default_rng(3)
    p = rng.uniform(0.02, 0.9, size=(2_000, 400))
    drawn = rng.random(p.shape) < p
    sums = [x.cumsum(axis=1) for x in (drawn.astype(float), p, p * (1 - p))]
    largest = log_evidence(*sums).max(axis=1)
    assert (largest >= math.log(20)).mean() <= 0.05


def test_evidence_finds_a_wrong_probability() -> None:
    """An offer drawn with 0.5 and logged with 0.4 is found within 1,500 draws."""
    rng = np.random.default_rng(4)
    n = 1_500
    drawn = (rng.random((200, n)) < 0.5).sum(axis=1)
    found = log_evidence(drawn, np.full(200, 0.4 * n), np.full(200, 0.24 * n)) > math.log(1e6)
    assert found.mean() > 0.9


def test_stability_index_is_zero_for_equal_people_and_large_for_others() -> None:
    """Two samples of one distribution stay near 0 even when small; shares that swap give what the formula says."""
    rng = np.random.default_rng(5)
    same = [stability_index(rng.multinomial(200, [0.2] * 5), rng.multinomial(900, [0.2] * 5)) for _ in range(300)]
    assert np.mean(same) < 0.02
    swapped = stability_index([9_000, 1_000], [1_000, 9_000])
    assert swapped == pytest.approx(2 * 0.8 * math.log(9), rel=0.01)


def test_bins_are_half_octaves_with_a_sign() -> None:
    """Neighbouring bins begin a factor of the square root of two apart; zero and sign have bins of their own."""
    found = bin_of(np.array([0.0, 1.0, 1.3, 1.5, 2.0, -2.0, 1e30]))
    assert found.tolist() == [0, 40, 40, 41, 42, -42, 80]
    assert smallest_of(42) == pytest.approx(2.0)
    assert smallest_of(0) == 0.0
    numbers = np.random.default_rng(6).normal(size=500) * 10.0 ** np.arange(-10, 15, 0.05)
    assert [bin_of_one(float(x)) for x in numbers] == bin_of(numbers).tolist()


def test_a_fingerprint_tells_what_stands_from_what_moves() -> None:
    """Equal values share one fingerprint; small whole numbers and fractions spread over many."""
    assert len(set(fingerprint(np.full(50, 0.3)).tolist())) == 1
    assert len(set(fingerprint(np.arange(16.0)).tolist())) == 16
    assert len(set(fingerprint(np.random.default_rng(1).random(500)).tolist())) == 16


def test_grouped_sums_are_those_of_a_loop() -> None:
    """Sums by code of a column and a matrix agree with adding row by row; groups without rows are zero."""
    rng = np.random.default_rng(2)
    codes, x, m = rng.integers(0, 5, 40), rng.random(40), rng.random((40, 3))
    codes[codes == 2] = 0
    one, two = grouped(codes, 6, x, m)
    for g in range(6):
        assert one[g] == pytest.approx(x[codes == g].sum())
        assert two[g] == pytest.approx(m[codes == g].sum(axis=0))
