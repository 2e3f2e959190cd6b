"""Logistic Thompson sampling against a general optimiser and draws of coefficients."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit

from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.logistic import LogisticThompson, _log_odds_after
from tests.policies.worlds import batch, table

SPACE = FeatureSpace.fit(table())


@given(before=st.floats(-2_000, 2_000), spread=st.floats(1e-6, 200), reward=st.floats(0, 1))
@settings(max_examples=200)
def test_the_line_search_finds_the_root(before: float, spread: float, reward: float) -> None:
    """The log-odds after one outcome solve their equation, as a bracketing solver finds it."""

    def gap(a: float) -> float:
        return float(a - before - spread * (reward - expit(a)))

    found = _log_odds_after(before, spread, reward)
    assert found == pytest.approx(brentq(gap, before - spread - 1, before + spread + 1, xtol=1e-13), abs=1e-7)


def test_one_row_gives_laplaces_approximation() -> None:
    """Mode and covariance after one interaction are those of a general optimiser on the log posterior, and its curvature."""
    policy, one = LogisticThompson(SPACE, prior_precision=2.0, prior_rate=0.2), batch().take(slice(0, 1))
    policy.learn(one)
    offer = one.table.offers.ids[one.chosen[0]]
    x = np.append(SPACE.encode_contexts(one.table)[0].astype(np.float64), 1.0)
    prior = np.zeros(len(x))
    prior[-1] = np.log(0.25)

    def loss(theta: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        a = float(x @ theta)
        return float(np.logaddexp(0.0, a) - one.reward[0] * a + (theta - prior) @ (theta - prior))

    mode = minimize(loss, prior, method="BFGS", options={"gtol": 1e-10}).x
    assert policy._mode[offer] == pytest.approx(mode, abs=1e-5)
    rate = 1 / (1 + np.exp(-float(x @ mode)))
    curvature = 2.0 * np.eye(len(x)) + rate * (1 - rate) * np.outer(x, x)
    assert policy._covariance[offer] == pytest.approx(np.linalg.inv(curvature), abs=1e-6)


def test_probabilities_match_draws_of_coefficients() -> None:
    """Drawing whole coefficient vectors 40,000 times names each offer the best as often as the quadrature says."""
    policy = LogisticThompson(SPACE, scale=1.0)
    policy.learn(batch(300))
    t = replace(table(1, seed=8), eligible=np.ones((1, 5), dtype=np.bool_))
    x = policy._inputs(t)[0]
    rng = np.random.default_rng(3)
    scores = [rng.multivariate_normal(policy._mode[o], policy._covariance[o], size=40_000) @ x for o in t.offers.ids]
    share = np.bincount(np.asarray(scores).argmax(axis=0), minlength=5) / 40_000
    p = policy.probabilities(t)[0]
    assert (np.abs(share - p) < 4 * np.sqrt(np.maximum(p * (1 - p), 1e-5) / 40_000)).all()


def test_rewards_that_are_no_rates_change_nothing() -> None:
    """Two euros are refused before any row is learned."""
    policy, b = LogisticThompson(SPACE), batch()
    with pytest.raises(InvalidInputError, match="lints"):
        policy.learn(replace(b, reward=b.reward * 2))
    assert not policy._mode
    with pytest.raises(InvalidInputError, match="prior_rate"):
        LogisticThompson(SPACE, prior_rate=1.0)
