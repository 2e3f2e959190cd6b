"""LinUCB, LinTS and the ridge reward models against plain numpy on the raw rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.linear import LinTS, LinUCB
from policies.linear_state import DisjointLinear
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from policies.reward_models import CrossedRidgeRewardModel, RidgeRewardModel
from tests.policies.worlds import batch, table

SPACE = FeatureSpace.fit(table())


def _oracle(weights: FloatArray, *, ridge: float) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of each pair from the normal equations of all rows, in float64."""
    b, t = batch(), table(13, seed=5)
    x = np.hstack([SPACE.encode_contexts(b.table), np.ones((41, 1))]).astype(np.float64)
    new = np.hstack([SPACE.encode_contexts(t), np.ones((13, 1))]).astype(np.float64)
    mean, variance = np.empty((13, 5)), np.empty((13, 5))
    for offer in range(5):
        mine = b.chosen == offer
        gram = (x[mine] * weights[mine, None]).T @ x[mine] + ridge * np.eye(x.shape[1])
        mean[:, offer] = new @ np.linalg.solve(gram, (x[mine] * weights[mine, None]).T @ b.reward[mine])
        variance[:, offer] = np.einsum("nd,dn->n", new, np.linalg.solve(gram, new.T))
    return mean, variance


@pytest.mark.parametrize("half_life", [0.0, 12.0])
def test_state_equals_weighted_ridge_on_all_rows(half_life: float) -> None:
    """Learned row by row, mean and variance are those of one weighted ridge regression per offer."""
    state = DisjointLinear(SPACE, ridge=2.0, half_life=half_life)
    b = batch()
    for i in range(len(b)):
        state.learn(b.take(slice(i, i + 1)))
    weights = 0.5 ** (np.arange(40, -1, -1) / half_life) if half_life else np.ones(41)
    mean, variance = _oracle(weights, ridge=2.0)
    got = state.mean_and_variance(table(13, seed=5))
    assert got[0] == pytest.approx(mean, abs=1e-5)
    assert got[1] == pytest.approx(variance, rel=1e-4, abs=1e-5)


def test_rank_one_updates_stay_exact_over_thousands() -> None:
    """After 1,500 single updates the inverse is still that of the exact sums to 1e-8."""
    state, b = DisjointLinear(SPACE), batch(1_500)
    for i in range(len(b)):
        state.learn(b.take(slice(i, i + 1)))
    for row in range(1, 6):
        state._settle(row)
        exact = np.linalg.inv(state._gram[row] + np.eye(state.width))
        assert state._inverse[row] == pytest.approx(exact, abs=1e-8)


def test_linucb_takes_the_highest_bound() -> None:
    """The offer of the highest mean plus alpha deviations, computed apart, gets everything."""
    policy, t = LinUCB(SPACE, alpha=0.7, ridge=2.0), table(13, seed=5)
    policy.learn(batch())
    mean, variance = _oracle(np.ones(41), ridge=2.0)
    bound = np.where(t.eligible, mean + 0.7 * np.sqrt(variance), -np.inf)
    assert policy.probabilities(t).argmax(axis=1).tolist() == bound.argmax(axis=1).tolist()


def test_lints_probabilities_match_draws_of_coefficients() -> None:
    """Drawing whole coefficient vectors 40,000 times names each offer the best as often as the quadrature says."""
    policy = LinTS(SPACE, scale=0.5)
    policy.learn(batch(300))
    t = replace(table(1, seed=8), eligible=np.ones((1, 5), dtype=np.bool_))
    x = policy.state.inputs(t)[0].astype(np.float64)
    rng = np.random.default_rng(3)
    scores = []
    for offer in t.offers.ids:
        row = policy.state._row_of[offer]
        theta = rng.multivariate_normal(policy.state._theta[row], 0.25 * policy.state._inverse[row], size=40_000)
        scores.append(theta @ x)
    share = np.bincount(np.asarray(scores).argmax(axis=0), minlength=5) / 40_000
    p = policy.probabilities(t)[0]
    assert (np.abs(share - p) < 4 * np.sqrt(np.maximum(p * (1 - p), 1e-5) / 40_000)).all()


def test_unseen_offers_are_alike_and_explored() -> None:
    """Before any data LinTS is uniform over the eligible, and LinUCB shares the tie."""
    t = table(7)
    uniform = t.eligible / t.eligible.sum(axis=1, keepdims=True)
    assert LinTS(SPACE).probabilities(t) == pytest.approx(uniform, abs=1e-6)
    assert LinUCB(SPACE).probabilities(t) == pytest.approx(uniform, abs=1e-6)


def test_crossed_ridge_equals_ridge_on_the_crossed_columns() -> None:
    """The shared model is a plain ridge regression on all products of context and offer columns."""
    b, t = batch(), table(13, seed=5)
    model = CrossedRidgeRewardModel(SPACE, ridge=3.0)
    model.learn(b)

    def one(x: FloatArray) -> FloatArray:
        return np.hstack([x, np.ones((len(x), 1))])

    x, z = one(SPACE.encode_contexts(b.table).astype(float)), one(SPACE.encode_offers(b.table.offers).astype(float))
    rows = np.asarray([np.kron(x[i], z[b.chosen[i]]) for i in range(41)])
    theta = np.linalg.solve(rows.T @ rows + 3.0 * np.eye(rows.shape[1]), rows.T @ b.reward)
    new = one(SPACE.encode_contexts(t).astype(float))
    expected = np.asarray([[np.kron(c, o) @ theta for o in z] for c in new])
    assert model.expected_reward(t) == pytest.approx(expected, abs=1e-8)


def test_ridge_reward_model_is_the_posterior_mean() -> None:
    """The reward model of a bandit is the mean that LinTS scores with."""
    model, policy = RidgeRewardModel(SPACE, ridge=10.0), LinTS(SPACE, ridge=10.0)
    model.learn(batch())
    policy.learn(batch())
    t = table(13, seed=5)
    assert np.array_equal(model.expected_reward(t), policy.state.mean_and_variance(t)[0])


def test_a_space_too_wide_to_cross_is_refused() -> None:
    """Thousands of crossed columns would need a matrix of gigabytes: refused with what to use instead."""
    t = table(10, k=5)
    wide = replace(t, vectors={"sequence": np.random.default_rng(0).normal(size=(10, 600)).astype(np.float32)})
    with pytest.raises(InvalidInputError, match="RidgeRewardModel or VW"):
        CrossedRidgeRewardModel(FeatureSpace.fit(wide))


def test_nonsense_parameters_are_refused() -> None:
    """A ridge of zero has no inverse; a negative scale has no meaning."""
    with pytest.raises(InvalidInputError, match="ridge"):
        LinUCB(SPACE, ridge=0.0)
    with pytest.raises(InvalidInputError, match="scale"):
        LinTS(SPACE, scale=0.0)


def test_a_new_offer_starts_from_offers_like_it() -> None:
    """With a learnt prior an unseen offer that looks like a good one is expected to earn more than one like a bad one."""
    cheap = [Offer(OfferId(f"c{i}"), {"price_eur": 1.0 + i / 10}) for i in range(3)]
    dear = [Offer(OfferId(f"d{i}"), {"price_eur": 9.0 + i / 10}) for i in range(3)]
    known = OfferSet([*cheap[:2], *dear[:2]])
    n = 600
    t = DecisionTable(known, np.ones((n, 4), dtype=np.bool_), {"pages": np.random.default_rng(0).normal(size=n)})
    chosen = np.arange(n) % 4
    log = InteractionBatch(t, chosen, np.full(n, 0.25), (chosen < 2).astype(np.float64))
    state = DisjointLinear(FeatureSpace.fit(t), ridge=1.0, learns_prior=True)
    state.learn(log)
    later = DecisionTable(OfferSet([cheap[2], dear[2]]), np.ones((5, 2), dtype=np.bool_), {"pages": np.zeros(5)})
    mean, variance = state.mean_and_variance(later)
    assert (mean[:, 0] > mean[:, 1] + 0.3).all()
    assert (variance > 3 * state.mean_and_variance(t.take(slice(0, 1)))[1].max()).all()
    unlearnt = DisjointLinear(FeatureSpace.fit(t), ridge=1.0)
    unlearnt.learn(log)
    assert unlearnt.mean(later) == pytest.approx(0.0)
    state.learn(InteractionBatch(later, np.zeros(5, dtype=np.int64), np.full(5, 0.5), np.zeros(5)))
    assert (state.mean(later)[:, 0] < mean[:, 0]).all()
