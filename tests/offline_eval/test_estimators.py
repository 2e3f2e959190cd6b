"""Every one-decision estimator against its formula written out, and the identities that tie them together."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import stdtrit

from offline_eval import LOGGED, evaluate
from offline_eval.checks import Right, check_estimator
from offline_eval.estimators import (
    BaselineCorrectedIPS,
    ClippedIPS,
    DirectMethod,
    DoublyRobust,
    DRos,
    Estimator,
    InversePropensity,
    Replay,
    SelfNormalisedDoublyRobust,
    SelfNormalisedIPS,
    StochasticReplay,
    SubGaussianDoublyRobust,
    SubGaussianIPS,
    SwitchDoublyRobust,
)
from offline_eval.intervals import t_value, z_value
from offline_eval.moments import degrees_of_freedom
from policies.contract import ContractError
from policies.records import FloatArray, IntArray, InteractionBatch
from tests.offline_eval.worlds import tiny_log

Formula = Callable[[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, IntArray], float]


def _baseline(w: FloatArray, r: FloatArray) -> float:
    b = ((w**2 - w) * r).sum() / (w**2 - w).sum()
    return float(b + (w * (r - b)).mean())


# w, r, model under the candidate, model of the shown offer, candidate's chance of it, candidate, shown
FORMULAS: list[tuple[Estimator, Formula]] = [
    (DirectMethod(), lambda w, r, dm, q, pi, t, a: dm.mean()),
    (InversePropensity(), lambda w, r, dm, q, pi, t, a: (w * r).mean()),
    (ClippedIPS(cap=1.5), lambda w, r, dm, q, pi, t, a: (np.minimum(w, 1.5) * r).mean()),
    (SelfNormalisedIPS(), lambda w, r, dm, q, pi, t, a: (w * r).sum() / w.sum()),
    (SubGaussianIPS(0.3), lambda w, r, dm, q, pi, t, a: (w / (0.7 + 0.3 * w) * r).mean()),
    (BaselineCorrectedIPS(), lambda w, r, dm, q, pi, t, a: _baseline(w, r)),
    (BaselineCorrectedIPS(0.4), lambda w, r, dm, q, pi, t, a: 0.4 + (w * (r - 0.4)).mean()),
    (DoublyRobust(), lambda w, r, dm, q, pi, t, a: (dm + w * (r - q)).mean()),
    (SelfNormalisedDoublyRobust(), lambda w, r, dm, q, pi, t, a: dm.mean() + (w * (r - q)).sum() / w.sum()),
    (SwitchDoublyRobust(1.2), lambda w, r, dm, q, pi, t, a: (dm + w * (w <= 1.2) * (r - q)).mean()),
    (DRos(2.0), lambda w, r, dm, q, pi, t, a: (dm + 2 * w / (w**2 + 2) * (r - q)).mean()),
    (SubGaussianDoublyRobust(0.3), lambda w, r, dm, q, pi, t, a: (dm + w / (0.7 + 0.3 * w) * (r - q)).mean()),
    (Replay(), lambda w, r, dm, q, pi, t, a: r[t.argmax(axis=1) == a].mean()),
    (StochasticReplay(), lambda w, r, dm, q, pi, t, a: (pi * r).sum() / pi.sum()),
]
ALL = [estimator for estimator, _ in FORMULAS]


def _value(log: InteractionBatch, target: FloatArray, estimator: Estimator, model: FloatArray | None) -> float:
    panel = evaluate(log, {"c": target}, estimators=[estimator], reward_model=model, fit_reward=None, n_resamples=0)
    value = panel.estimate("c", estimator.name).value
    assert value is not None
    return value


@pytest.mark.parametrize(("estimator", "formula"), FORMULAS, ids=[e.name for e in ALL])
def test_agrees_with_its_formula(estimator: Estimator, formula: Formula) -> None:
    """An estimate is what the published formula gives on the same rows, to twelve digits."""
    for seed in range(5):
        log, target, q = tiny_log(11, 3, seed=seed)
        rows = np.arange(len(log))
        pi = target[rows, log.chosen]
        expected = formula(
            pi / log.propensity, log.reward, (target * q).sum(axis=1), q[rows, log.chosen], pi, target, log.chosen
        )
        assert _value(log, target, estimator, q) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_three_rows_by_hand() -> None:
    """Three rows worked out on paper: weights 2, 0 and 1 with rewards 1, 0 and 3."""
    log, _, _ = tiny_log(3, 2)
    probabilities = np.array([[0.5, 0.5], [0.5, 0.5], [0.25, 0.75]])
    log = InteractionBatch(
        log.table, np.array([0, 1, 1]), np.array([0.5, 0.5, 0.75]), np.array([1.0, 0.0, 3.0]), probabilities
    )
    target = np.array([[1.0, 0.0], [1.0, 0.0], [0.25, 0.75]])
    assert _value(log, target, InversePropensity(), None) == pytest.approx(5 / 3)
    assert _value(log, target, SelfNormalisedIPS(), None) == pytest.approx(5 / 3)
    assert _value(log, target, ClippedIPS(cap=1.0), None) == pytest.approx(4 / 3)
    q = np.array([[0.5, 0.0], [1.0, 1.0], [1.0, 2.0]])
    # model under the candidate 0.5, 1, 1.75; residuals 0.5, -1, 1
    assert _value(log, target, DirectMethod(), q) == pytest.approx(3.25 / 3)
    assert _value(log, target, DoublyRobust(), q) == pytest.approx((3.25 + 2 * 0.5 + 1 * 1.0) / 3)


@pytest.mark.parametrize("estimator", ALL, ids=[e.name for e in ALL])
def test_satisfies_the_estimator_contract(estimator: Estimator) -> None:
    """Gradients, row order, chunks, scale and truth: what every estimator owes, shipped for a researcher's own."""
    right: Right | None = {"DM": "with a true model", "replay": "never", "stochastic replay": "never"}.get(
        estimator.name
    )  # type: ignore[assignment]  # words of the literal
    check_estimator(estimator, right=right)
    if right == "never":
        with pytest.raises(ContractError, match="on all of a population"):
            check_estimator(estimator, right="always")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.floats(-5, 5))
def test_identities(seed: int, shift: float) -> None:
    """A zero model makes DR plain weighting, and a constant added to rewards moves self-normalised estimates by it."""
    log, target, q = tiny_log(9, 4, seed=seed)
    zero = np.zeros_like(q)
    assert _value(log, target, DoublyRobust(), zero) == pytest.approx(_value(log, target, InversePropensity(), None))
    assert _value(log, target, SelfNormalisedDoublyRobust(), zero) == pytest.approx(
        _value(log, target, SelfNormalisedIPS(), None)
    )
    moved = log.with_reward(log.reward + shift)
    assert _value(moved, target, SelfNormalisedIPS(), None) == pytest.approx(
        _value(log, target, SelfNormalisedIPS(), None) + shift, abs=1e-9
    )
    assert _value(log, target, SwitchDoublyRobust(np.inf), q) == pytest.approx(_value(log, target, DoublyRobust(), q))
    assert _value(log, target, DRos(np.inf), q) == pytest.approx(_value(log, target, DoublyRobust(), q))
    assert _value(log, target, DRos(0.0), q) == pytest.approx(_value(log, target, DirectMethod(), q))
    assert _value(log, target, SubGaussianIPS(0.0), None) == pytest.approx(
        _value(log, target, InversePropensity(), None)
    )
    assert _value(log, target, BaselineCorrectedIPS(0.0), None) == pytest.approx(
        _value(log, target, InversePropensity(), None)
    )


@pytest.mark.parametrize("estimator", ALL[1:12], ids=[e.name for e in ALL[1:12]])
def test_logging_policy_earns_the_mean_reward(estimator: Estimator) -> None:
    """Judging the policy that logged gives the mean reward where no model is used."""
    log, _, q = tiny_log(8, 3)
    panel = evaluate(log, {"x": np.asarray(log.probabilities)}, estimators=[estimator], reward_model=q, n_resamples=0)
    if not estimator.needs_model:
        assert panel.estimate(LOGGED, estimator.name).value == pytest.approx(log.reward.mean())
        assert panel.estimate("x", estimator.name).value == pytest.approx(log.reward.mean())
    assert panel.difference("x", LOGGED, estimator.name).value == pytest.approx(0.0, abs=1e-12)


def test_standard_errors_are_the_textbook_ones() -> None:
    """IPS has the standard error of a mean, SNIPS that of a ratio, both with n - 1 where rows are independent."""
    log, target, q = tiny_log(40, 3)
    panel = evaluate(log, {"c": target}, reward_model=q, n_resamples=0)
    rows, n = np.arange(len(log)), len(log)
    w = target[rows, log.chosen] / log.propensity
    y = w * log.reward
    assert panel.estimate("c", "IPS").standard_error == pytest.approx(y.std(ddof=1) / np.sqrt(n), rel=1e-10)
    v = y.sum() / w.sum()
    psi = w * (log.reward - v) / w.mean()
    expected = np.sqrt((psi**2).sum() / (n - 1) / n)
    assert panel.estimate("c", "SNIPS").standard_error == pytest.approx(expected, rel=1e-10)
    d = (target * q).sum(axis=1) + w * (log.reward - q[rows, log.chosen])
    base = (np.asarray(log.probabilities) * q).sum(axis=1) + log.reward - q[rows, log.chosen]
    difference = panel.differences["c"]["DR"]
    assert difference.standard_error == pytest.approx((d - base).std(ddof=1) / np.sqrt(n), rel=1e-10)


def test_standard_errors_are_clustered_by_subject() -> None:
    """With subjects the spread is that between subjects' totals, not between rows."""
    log, target, _ = tiny_log(40, 3)
    subject = np.arange(40) % 6
    table = type(log.table)(log.table.offers, log.table.eligible, subjects=subject.astype(np.str_))
    log = InteractionBatch(table, log.chosen, log.propensity, log.reward)
    panel = evaluate(log, {"c": target}, fit_reward=None, n_resamples=0)
    w = target[np.arange(40), log.chosen] / log.propensity
    y = w * log.reward - (w * log.reward).mean()
    totals = np.bincount(subject, weights=y)
    expected = np.sqrt((totals**2).sum() * 6 / 5) / 40
    assert panel.estimate("c", "IPS").standard_error == pytest.approx(expected, rel=1e-10)
    assert panel.n_units == 6


def test_small_sample_intervals_use_t() -> None:
    """The t quantile is scipy's, in its exact and its expanded form; without degrees of freedom it is the normal one."""
    for nu in (1.0, 3.5, 19.0, 20.0, 57.0, 1e4):
        assert t_value(0.05, nu) == pytest.approx(float(stdtrit(nu, 0.975)), rel=1e-5)
    assert t_value(0.05, math.inf) == z_value(0.05)


def test_degrees_of_freedom_fall_with_heavy_influences() -> None:
    """Normal influences give as many degrees of freedom as there are, one that is all of the variance gives one."""
    rng = np.random.default_rng(0)
    even = rng.normal(size=(5000, 1))
    assert degrees_of_freedom(even, np.ones(1)) == pytest.approx(4999, rel=0.1)
    heavy = even * np.where(np.arange(5000)[:, None] < 20, 100.0, 0.1)
    assert degrees_of_freedom(heavy, np.ones(1)) < 25
    alone = np.zeros((500, 1))
    alone[3] = 1.0
    assert degrees_of_freedom(alone, np.ones(1)) == pytest.approx(2.0, abs=0.1)
    assert degrees_of_freedom(np.ones((2, 1)), np.ones(1)) == 1.0
