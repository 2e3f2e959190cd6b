"""Calibration maps against known distortions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from engine.models.calibration import (
    Calibrator,
    IsotonicCalibrator,
    Kind,
    LogisticCalibrator,
    choose_calibrator,
    cross_calibrated,
    fit_calibrator,
    from_manifest,
    shift_prior,
)
from engine.models.metrics import expit, log_loss, logit
from policies.errors import InvalidInputError, UnknownNameError

KINDS: tuple[Kind, ...] = ("identity", "platt", "beta", "isotonic")


def world(n: int, *, seed: int, slope: float = 2.0, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities whose log odds are stretched and moved."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1.5, 1.2, size=n)
    return (rng.random(n) < expit(z)).astype(np.float64), expit(slope * z + shift)


@pytest.mark.parametrize("kind", ["platt", "beta", "isotonic"])
def test_distortion_is_undone(kind: Kind) -> None:
    """Fitted on one half, each map comes within 0.004 nats of the true probabilities on the other."""
    label, p = world(20_000, seed=1)
    truth = log_loss(label[10_000:], expit((logit(p[10_000:]) - 1.0) / 2.0))
    fitted = fit_calibrator(label[:10_000], p[:10_000], kind=kind)
    assert log_loss(label[10_000:], fitted(p[10_000:])) < truth + 0.004
    assert log_loss(label[10_000:], p[10_000:]) > truth + 0.05


def test_platt_finds_the_inverse_map() -> None:
    """Log odds 2 z + 1 are undone by a = 1/2, c = -1/2."""
    label, p = world(40_000, seed=2)
    fitted = fit_calibrator(label, p, kind="platt")
    assert isinstance(fitted, LogisticCalibrator)
    assert (fitted.a, fitted.b, fitted.c) == pytest.approx((0.5, 0.5, -0.5), abs=0.05)


def test_isotonic_agrees_with_scikit_learn() -> None:
    """The compressed steps give scikit-learn's isotonic regression at every training score, up to the clip."""
    label, p = world(500, seed=3)
    p = np.round(p, 2)  # many ties
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, label)
    ours = fit_calibrator(label, p, kind="isotonic")
    np.testing.assert_allclose(ours(p), np.clip(theirs.predict(p), 0.001, 0.999), atol=1e-9)


@given(st.sampled_from(KINDS), st.integers(0, 5))
def test_maps_rise_and_survive_json(kind: Kind, seed: int) -> None:
    """A calibrator never turns order round, stays inside (0, 1), and is the same after saving."""
    label, p = world(120, seed=seed)
    fitted = fit_calibrator(label, p, kind=kind)
    back: Calibrator = from_manifest(json.loads(json.dumps(fitted.to_manifest())))
    grid = np.linspace(0.001, 0.999, 77)
    assert (np.diff(fitted(grid)) >= -1e-12).all()
    assert ((fitted(grid) > 0) & (fitted(grid) < 1)).all()
    np.testing.assert_array_equal(back(grid), fitted(grid))


def test_calibrated_scores_are_left_alone() -> None:
    """Where nothing is wrong, the richer maps do not win by more than noise, in at least 8 of 10 worlds."""
    kept = 0
    for seed in range(10):
        label, p = world(1500, seed=seed, slope=1.0, shift=0.0)
        clusters = np.arange(1500) // 3
        _, kind, _ = choose_calibrator(label, p, clusters, seed=0)
        kept += kind == "identity"
    assert kept >= 8


def test_too_few_positives_get_no_curve() -> None:
    """With fewer than 20 positives no map is fitted: it would learn noise."""
    label = np.zeros(400)
    label[:7] = 1.0
    _, kind, losses = choose_calibrator(label, np.full(400, 0.1), np.arange(400), seed=0)
    assert kind == "identity"
    assert list(losses) == ["identity"]


def test_prior_shift_undoes_negative_sampling_exactly() -> None:
    """Keeping one negative in ten multiplies the odds by ten; the shift takes it back."""
    p = np.array([0.02, 0.3, 0.7])
    odds = 10 * p / (1 - p)
    rate = 0.05
    sampled_rate = rate * 10 / (rate * 10 + 1 - rate)
    np.testing.assert_allclose(shift_prior(odds / (1 + odds), trained_rate=sampled_rate, true_rate=rate), p, rtol=1e-9)


def test_one_class_and_unknown_kinds_are_refused() -> None:
    """Calibration without both outcomes says what to do."""
    with pytest.raises(InvalidInputError, match="both outcomes"):
        fit_calibrator(np.ones(5), np.full(5, 0.5), kind="platt")
    with pytest.raises(UnknownNameError, match="isotonic"):
        from_manifest({"calibrator": "isotnic"})


def test_isotonic_reads_linearly_between_knots() -> None:
    """Half-way between two knots lies the mean of their values."""
    assert IsotonicCalibrator((0.2, 0.4), (0.1, 0.3))(np.array([0.3]))[0] == pytest.approx(0.2)


def test_a_row_is_calibrated_without_its_own_label() -> None:
    """Turning one subject's labels round moves other subjects' probabilities and not its own; a wrong level is mended."""
    rng = np.random.default_rng(3)
    true = rng.uniform(0.05, 0.6, size=1500)
    label = (rng.random(1500) < true).astype(np.float64)
    subject = np.repeat(np.arange(500), 3)
    told = expit(logit(true) + 1.5)
    mended = cross_calibrated(label, told, subject, seed=1)
    assert abs(mended.mean() - label.mean()) < 0.02
    own = subject == 7
    turned = cross_calibrated(np.where(own, 1.0 - label, label), told, subject, seed=1)
    np.testing.assert_array_equal(turned[own], mended[own])
    assert (turned[~own] != mended[~own]).any()
