"""Retention bounds, survival curves and histograms against worked examples and other engines."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.duration.survfunc import SurvfuncRight

from offline_eval.abtest.histogram import ValueHistogram
from offline_eval.abtest.retention import lee_bounds, read_retention, worst_case_bounds
from offline_eval.abtest.survival import kaplan_meier
from policies.errors import InvalidInputError, SchemaError


def test_lee_bounds_by_hand() -> None:
    """10 % and 20 % subscribe, 60 % and 70 % of them stay: half of the treated are trimmed, so 0.4 to 1.0 minus 0.6."""
    assert lee_bounds(np.array([[0.1, 0.06], [0.2, 0.14]])) == pytest.approx((-0.2, 0.4))
    # The other way round the control is trimmed: 0.6 minus (0.4 to 1.0).
    assert lee_bounds(np.array([[0.2, 0.14], [0.1, 0.06]])) == pytest.approx((-0.4, 0.2))


@given(st.integers(0, 10_000))
def test_bounds_contain_the_truth_among_the_same_people(seed: int) -> None:
    """In random populations with known types the difference among always-subscribers lies within both bounds."""
    rng = np.random.default_rng(seed)
    always, only_t, never = rng.dirichlet([2.0, 1.0, 1.0])
    stay_c, stay_t, stay_new = rng.random(3)
    p = np.array([[always, always * stay_c], [always + only_t, always * stay_t + only_t * stay_new]])
    low, high = lee_bounds(p)
    wide_low, wide_high = worst_case_bounds(p)
    truth = stay_t - stay_c
    assert low - 1e-9 <= truth <= high + 1e-9
    assert wide_low - 1e-9 <= truth <= wide_high + 1e-9
    assert never >= 0


def test_equal_conversion_gives_the_plain_difference() -> None:
    """Where as many subscribe in both variants nobody is trimmed and both bounds are the plain difference."""
    reading = read_retention(n=(9000, 9000), subscribed=(900, 900), kept=(450, 540))
    assert reading is not None
    assert reading.lee.estimate == pytest.approx(0.1)
    assert reading.lee.low < 0.1 < reading.lee.high
    assert lee_bounds(np.array([[0.1, 0.05], [0.1, 0.06]])) == pytest.approx((0.1, 0.1))


def test_everybody_kept_is_no_error() -> None:
    """Where every subscriber stayed the bounds are still read (their sampling variance rounds to just below zero)."""
    reading = read_retention(n=(10, 8), subscribed=(1, 2), kept=(1, 2))
    assert reading is not None
    assert reading.treatment.estimate == 1.0
    assert reading.lee.low <= 0.0 <= reading.lee.high


def test_no_subscriber_no_retention() -> None:
    """Without a subscriber in one variant there is nothing to describe, and rare subscribers leave the worst case open."""
    assert read_retention(n=(10, 12), subscribed=(0, 3), kept=(0, 1)) is None
    assert worst_case_bounds(np.array([[0.1, 0.06], [0.2, 0.14]])) == (-1.0, 1.0)


def test_kaplan_meier_agrees_with_statsmodels() -> None:
    """Share and Greenwood error at every day equal statsmodels' on the same subscribers."""
    rng = np.random.default_rng(2)
    leave, seen = rng.geometric(0.05, 400), rng.integers(1, 40, 400)
    day, has_left = np.minimum(leave, seen), leave <= seen
    left = np.bincount(day[has_left], minlength=45)
    censored = np.bincount(day[~has_left], minlength=45)
    curve = kaplan_meier(left, censored)
    oracle = SurvfuncRight(day, has_left.astype(int))
    for t, s in zip(oracle.surv_times, oracle.surv_prob, strict=True):
        assert curve.at(int(t)) == pytest.approx(s)
    middle = 10
    se = oracle.surv_prob_se[list(oracle.surv_times).index(middle)]
    s = curve.at(middle)
    half = 1.959964 * se / (s * np.log(s))
    assert curve.low[middle] == pytest.approx(s ** np.exp(-half), rel=1e-4)
    assert curve.high[middle] == pytest.approx(s ** np.exp(half), rel=1e-4)


def test_kaplan_meier_by_hand() -> None:
    """Five subscribers: one leaves on day 1, one is last seen on day 1, one leaves on day 3, two stay: 0.8, 0.8, 0.533."""
    curve = kaplan_meier(np.array([0, 1, 0, 1]), np.array([0, 1, 0, 2]))
    np.testing.assert_allclose(curve.share, [1.0, 0.8, 0.8, 0.8 * 2 / 3])
    assert curve.at_risk.tolist() == [5, 5, 3, 3]
    assert np.isnan(curve.at(9))
    assert (curve.low <= curve.share).all()
    assert (curve.share <= curve.high).all()
    with pytest.raises(InvalidInputError, match="at least one subscriber"):
        kaplan_meier(np.zeros(3, dtype=int), np.zeros(3, dtype=int))
    with pytest.raises(SchemaError, match="one count a day"):
        kaplan_meier(np.zeros(3, dtype=int), np.zeros(2, dtype=int))


def test_histogram_moments_are_those_of_capped_rows() -> None:
    """Sums under a cap at an edge are exact, whatever the rows, and parts add up."""
    rng = np.random.default_rng(4)
    values = rng.lognormal(1, 1.2, 5000)
    edges = np.geomspace(0.1, 200, 60)
    histogram = ValueHistogram.of(values[:1800], edges) + ValueHistogram.of(values[1800:], edges)
    cap = histogram.cap_at(0.99)
    assert np.mean(values <= cap) >= 0.99
    assert np.mean(values <= edges[int(np.searchsorted(edges, cap)) - 1]) < 0.99
    capped = np.minimum(values, cap)
    assert histogram.moments(cap) == pytest.approx((5000, capped.sum(), (capped**2).sum()))
    assert histogram.moments() == pytest.approx((5000, values.sum(), (values**2).sum()))


def test_histogram_refuses_caps_it_cannot_keep() -> None:
    """A cap that is no edge would be approximate, and a quantile above the edges unknown: both are refused."""
    histogram = ValueHistogram.of(np.array([1.0, 2.0, 30.0]), np.array([1.5, 2.5]))
    with pytest.raises(InvalidInputError, match=re.escape("cap 2.0 is no edge")):
        histogram.moments(2.0)
    with pytest.raises(InvalidInputError, match="lies above the last edge"):
        histogram.cap_at(0.99)
    with pytest.raises(SchemaError, match="do not increase"):
        ValueHistogram(np.array([2.0, 1.0]), np.zeros(3), np.zeros(3), np.zeros(3))
