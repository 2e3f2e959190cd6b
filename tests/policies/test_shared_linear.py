"""The shared linear bandits against draws of the whole posterior."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.records import DecisionTable, FloatArray
from policies.reward_models import CrossedRidgeRewardModel
from policies.shared_linear import SharedLinTS, SharedLinUCB
from tests.policies.worlds import batch, table

SPACE = FeatureSpace.fit(table())


def _crossed(t: DecisionTable) -> FloatArray:
    x = np.hstack([SPACE.encode_contexts(t), np.ones((len(t), 1))]).astype(float)
    z = np.hstack([SPACE.encode_offers(t.offers), np.ones((len(t.offers), 1))]).astype(float)
    return np.asarray([[np.kron(c, o) for o in z] for c in x])


def test_nodes_stand_for_the_posterior() -> None:
    """Drawing 20,000 coefficient vectors from mean and covariance names each offer the best as often as the nodes say."""
    policy = SharedLinTS(SPACE, scale=0.3, n_nodes=4_096, ridge=3.0)
    policy.learn(batch(300))
    t = replace(table(3, seed=8), eligible=np.ones((3, 5), dtype=np.bool_))
    mean = policy.model.coefficients().ravel()
    drawn = np.random.default_rng(3).multivariate_normal(mean, 0.09 * policy.model.covariance(), size=20_000)
    best = (_crossed(t) @ drawn.T).argmax(axis=1)
    share = np.stack([(best == i).mean(axis=1) for i in range(5)], axis=1)
    p = policy.probabilities(t)
    # Both sides are estimates: 20,000 draws and 4,096 nodes.
    error = np.sqrt(np.maximum(p * (1 - p), 1e-4) * (1 / 20_000 + 1 / 4_096))
    assert (np.abs(share - p) < 4.5 * error).all()
    assert policy.traits.n_nodes == 4_096


def test_linucb_takes_the_highest_bound() -> None:
    """The offer of the highest mean plus alpha deviations, computed apart, gets everything."""
    policy, t = SharedLinUCB(SPACE, alpha=0.7, ridge=2.0), table(13, seed=5)
    policy.learn(batch())
    crossed = _crossed(t)
    mean = crossed @ policy.model.coefficients().ravel()
    deviation = np.sqrt(np.einsum("nkd,de,nke->nk", crossed, policy.model.covariance(), crossed))
    bound = np.where(t.eligible, mean + 0.7 * deviation, -np.inf)
    assert policy.probabilities(t).argmax(axis=1).tolist() == bound.argmax(axis=1).tolist()


def test_nonsense_parameters_are_refused() -> None:
    """Nodes come in pairs; a scale of zero samples nothing."""
    with pytest.raises(InvalidInputError, match="even number"):
        SharedLinTS(SPACE, n_nodes=31)
    with pytest.raises(InvalidInputError, match="alpha"):
        SharedLinUCB(SPACE, alpha=-1.0)


def test_a_second_reward_costs_no_second_pass() -> None:
    """The model for another reward of the same rows is the one that would have been learned from them."""
    log = batch(300)
    space = FeatureSpace.fit(log.table)
    model = CrossedRidgeRewardModel(space, ridge=2.0)
    model.learn(log)
    other = replace(log, reward=1.0 - 2.0 * log.reward)
    direct = CrossedRidgeRewardModel(space, ridge=2.0)
    direct.learn(other)
    np.testing.assert_allclose(model.for_reward(other).coefficients(), direct.coefficients(), atol=1e-9)
    fading = CrossedRidgeRewardModel(space, half_life=10.0)
    fading.learn(log)
    with pytest.raises(InvalidInputError, match="fade"):
        fading.for_reward(other)
