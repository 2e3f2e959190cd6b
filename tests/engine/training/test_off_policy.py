"""Off-policy learning: the objective by hand, the optimum found, and imitation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.training.off_policy import OffPolicySettings, imitate, learn_policy, worth_of_offers
from policies.contract import check_policy
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import Uniform
from policies.linear import LinTS
from policies.softmax_linear import SoftmaxLinear
from tests.policies.worlds import batch, success_rate, table


def test_the_value_of_the_log_by_weights_is_its_mean_reward() -> None:
    """Under importance weighting the logging policy is worth the mean reward in expectation, and any row is worth it by hand."""
    b = batch(41)
    worth = worth_of_offers(b, estimator="ips")
    mean = b.reward.mean()
    for row in range(3):
        expected = np.full(5, mean)
        expected[b.chosen[row]] += (b.reward[row] - mean) / b.propensity[row]
        assert worth[row] == pytest.approx(expected)
    cut = worth_of_offers(b, estimator="ips", max_weight=1.0)
    assert cut[0, b.chosen[0]] == pytest.approx(b.reward[0])


@pytest.mark.parametrize("estimator", ["dr", "ips"])
def test_it_finds_who_likes_what(estimator: str) -> None:
    """Learned from 4,000 uniformly logged rows the policy earns clearly more than uniform and most of what can be earned."""
    learned = learn_policy(batch(4_000, seed=4), settings=OffPolicySettings(estimator=estimator))  # type: ignore[arg-type]
    t = table(1_000, seed=9)
    rate = success_rate(t)
    earned = (learned.policy.probabilities(t) * rate).sum(axis=1).mean()
    uniform = (Uniform().probabilities(t) * rate).sum(axis=1).mean()
    best = np.where(t.eligible, rate, -np.inf).max(axis=1).mean()
    assert earned - uniform > 0.6 * (best - uniform)
    assert learned.held_out > learned.logged


@pytest.mark.torch
@pytest.mark.slow
def test_a_network_finds_it_too_and_is_served_as_onnx() -> None:
    """The neural form earns as clearly, keeps the contract, and needs no torch to act."""
    learned = learn_policy(batch(4_000, seed=4), settings=OffPolicySettings(form="neural"))
    t = table(1_000, seed=9)
    rate = success_rate(t)
    earned = (learned.policy.probabilities(t) * rate).sum(axis=1).mean()
    uniform = (Uniform().probabilities(t) * rate).sum(axis=1).mean()
    best = np.where(t.eligible, rate, -np.inf).max(axis=1).mean()
    assert earned - uniform > 0.6 * (best - uniform)
    check_policy(learned.policy, table(7, seed=3))


def test_an_imitation_is_near_and_learning_goes_on_from_it() -> None:
    """The imitation of a softmax policy is that policy, and a start is kept where the penalty is everything."""
    t = table(800, seed=2)
    space = FeatureSpace.fit(t)
    rng = np.random.default_rng(0)
    original = SoftmaxLinear(space, 0.3 * rng.normal(size=(space.context_width + 1, space.offer_width + 1)))
    copy = imitate(original, t, space=space, penalty=1e-8)
    new = table(300, seed=5)
    assert np.abs(copy.probabilities(new) - original.probabilities(new)).max() < 0.02
    bandit = LinTS(space)
    bandit.learn(batch(1_000))
    near = imitate(bandit, t, space=space)
    assert (
        np.abs(near.probabilities(t) - bandit.probabilities(t)).mean()
        < np.abs(Uniform().probabilities(t) - bandit.probabilities(t)).mean()
    )
    learned = learn_policy(batch(1_000), start=near)
    assert learned.policy.name == "softmax_linear"


def test_a_log_that_cannot_teach_is_refused() -> None:
    """Too few rows, or rewards that never vary, say so before anything is fitted."""
    with pytest.raises(InvalidInputError, match="at least 200"):
        learn_policy(batch(50))
    b = batch(500)
    with pytest.raises(InvalidInputError, match="more than one value"):
        learn_policy(replace(b, reward=np.zeros(500)))
    with pytest.raises(InvalidInputError, match="dr or ips"):
        OffPolicySettings(estimator="dm")  # type: ignore[arg-type]
