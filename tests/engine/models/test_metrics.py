"""Metrics against hand-worked values, scikit-learn and known truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from engine.models import metrics
from policies.errors import InvalidInputError

LABEL = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
SCORE = np.array([0.9, 0.8, 0.4, 0.4, 0.1])


def test_auc_by_hand() -> None:
    """Six pairs: 0.9 beats all three negatives, 0.4 loses one, ties one, beats one: 4.5 of 6."""
    assert metrics.roc_auc(LABEL, SCORE) == pytest.approx(4.5 / 6)


def test_average_precision_by_hand() -> None:
    """Recall steps: half at precision 1, half at the tied pair where 2 of 4 are positive."""
    assert metrics.average_precision(LABEL, SCORE) == pytest.approx(0.5 * 1.0 + 0.5 * 2 / 4)


@given(data=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 6), st.integers(1, 4)), min_size=2, max_size=40))
@settings(max_examples=150, deadline=None)
def test_ranking_metrics_agree_with_scikit_learn(data: list[tuple[int, int, int]]) -> None:
    """With ties and weights, both ranking metrics equal scikit-learn's."""
    label, score, weight = (np.asarray(column, dtype=np.float64) for column in zip(*data, strict=True))
    if label.min() == label.max():
        return
    assert metrics.roc_auc(label, score, weight) == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    assert metrics.average_precision(label, score, weight) == pytest.approx(
        average_precision_score(label, score, sample_weight=weight)
    )


def test_precision_and_recall_at_a_share_by_hand() -> None:
    """The best two of five hold one of two positives; a tie across the edge counts by its mean."""
    assert metrics.precision_at(LABEL, SCORE, share=0.4) == pytest.approx(0.5)
    assert metrics.recall_at(LABEL, SCORE, share=0.4) == pytest.approx(0.5)
    assert metrics.precision_at(LABEL, SCORE, share=0.6) == pytest.approx(1.5 / 3)


def test_brier_skill_of_the_constant_rate_is_zero() -> None:
    """Predicting the base rate has no skill; predicting the labels has all of it."""
    assert metrics.brier_skill(LABEL, np.full(5, LABEL.mean())) == pytest.approx(0.0)
    assert metrics.brier_skill(LABEL, LABEL) == pytest.approx(1.0)


def test_calibration_error_by_hand() -> None:
    """Two bins of two: |0.2 - 0| and |0.7 - 0.5|, averaged."""
    label = np.array([0.0, 0.0, 1.0, 0.0])
    probability = np.array([0.1, 0.3, 0.6, 0.8])
    assert metrics.expected_calibration_error(label, probability, n_bins=2) == pytest.approx(0.2)


def test_true_probabilities_lie_within_their_floor() -> None:
    """Perfect probabilities show a calibration error, and it is what the floor says; overconfident ones exceed it."""
    rng = np.random.default_rng(5)
    p = rng.beta(1, 12, size=6000)
    label = (rng.random(6000) < p).astype(np.float64)
    floor = metrics.calibration_floor(p, rng=np.random.default_rng(1))
    assert 0 < metrics.expected_calibration_error(label, p) <= floor.upper * 1.2
    sharper = metrics.expit(2.0 * metrics.logit(p))
    assert metrics.expected_calibration_error(label, sharper) > 2 * floor.upper


def test_calibration_line_recovers_a_known_distortion() -> None:
    """Log odds stretched by 2 and moved by 0.7 give back slope 1/2 and intercept -0.35, within 4 standard errors."""
    rng = np.random.default_rng(7)
    z = rng.normal(-1, 1.5, size=40_000)
    label = (rng.random(len(z)) < metrics.expit(z)).astype(np.float64)
    slope, intercept = metrics.calibration_line(label, metrics.expit(2 * z + 0.7))
    assert slope == pytest.approx(0.5, abs=0.03)
    assert intercept == pytest.approx(-0.35, abs=0.06)


def test_interval_over_clusters_is_wider_than_over_rows() -> None:
    """Ten copies of each row in one cluster carry the information of one: the interval is about sqrt(10) times as wide."""
    rng = np.random.default_rng(2)
    label = (rng.random(300) < 0.3).astype(np.float64)
    score = label + rng.normal(size=300)
    cluster = np.repeat(np.arange(300), 10).astype(np.str_)
    labels, scores = np.repeat(label, 10), np.repeat(score, 10)
    by_cluster = metrics.with_interval("roc_auc", labels, scores, cluster, rng=np.random.default_rng(0))
    by_row = metrics.with_interval(
        "roc_auc", labels, scores, np.arange(3000).astype(np.str_), rng=np.random.default_rng(0)
    )
    ratio = (by_cluster.high - by_cluster.low) / (by_row.high - by_row.low)
    assert 2.4 < ratio < 4.2


def test_paired_difference_covers_the_truth() -> None:
    """A score with extra noise is worse by the right amount, and the paired interval covers it in 18 or more of 20 worlds."""
    rng = np.random.default_rng(11)
    big = 200_000
    z = rng.normal(size=big)
    y = (rng.random(big) < metrics.expit(z)).astype(np.float64)
    truth = metrics.roc_auc(y, z) - metrics.roc_auc(y, z + rng.normal(size=big))
    covered = 0
    for world in range(20):
        r = np.random.default_rng(world)
        z = r.normal(size=400)
        y = (r.random(400) < metrics.expit(z)).astype(np.float64)
        got = metrics.paired_difference(
            "roc_auc", y, z, z + r.normal(size=400), np.arange(400).astype(np.str_), rng=r, n_resamples=200
        )
        covered += got.low <= truth <= got.high
    assert covered >= 17


def test_one_class_is_refused() -> None:
    """Nothing can be judged where only one outcome occurs."""
    with pytest.raises(InvalidInputError, match="both outcomes"):
        metrics.evaluate(np.zeros(4), np.full(4, 0.5), np.array(list("aabb")), rng=np.random.default_rng(0))
    with pytest.raises(InvalidInputError, match="not known yet"):
        metrics.roc_auc(np.array([1.0, np.nan]), np.array([0.2, 0.1]))
