"""The gymnasium environments keep gymnasium's contract and the simulator's."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from policies.errors import InvalidInputError
from simulator.env import ENV_ID, CarSubscriptionEnv, CarSubscriptionVectorEnv, RewardWeights, reference_space
from simulator.scenarios.car_subscription import reference


def test_passes_gymnasiums_checker() -> None:
    """The checker of gymnasium itself finds nothing."""
    check_env(CarSubscriptionEnv(), skip_render_check=True)
    assert gymnasium.make(ENV_ID).action_space.n == len(reference().offers)  # type: ignore[attr-defined]


def test_two_copies_with_one_seed_live_one_life() -> None:
    """A seed determines the trajectory."""
    a, b = CarSubscriptionEnv(), CarSubscriptionEnv()
    first, second = a.reset(seed=3)[0], b.reset(seed=3)[0]
    np.testing.assert_array_equal(first, second)
    for action in (1, 4, 6, 2, 0, 3):
        one, two = a.step(np.int64(action)), b.step(np.int64(action))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:4] == two[1:4]
        if one[2] or one[3]:
            break


def test_an_ended_episode_says_so() -> None:
    """A step before reset or after the end is refused; the mask of the observation is the mask in the info."""
    env = CarSubscriptionEnv(space=reference_space(reference(), n_subjects=200))
    with pytest.raises(InvalidInputError, match="call reset first"):
        env.step(np.int64(0))
    obs, info = env.reset(seed=1)
    k = len(reference().offers)
    np.testing.assert_array_equal(obs[:k].astype(np.int8), info["action_mask"])
    for _ in range(100):
        obs, _, terminated, truncated, info = env.step(np.int64(0))
        np.testing.assert_array_equal(obs[:k].astype(np.int8), info["action_mask"])
        if terminated or truncated:
            break
    with pytest.raises(InvalidInputError, match="call reset first"):
        env.step(np.int64(0))


def test_vector_episodes_end_and_renew() -> None:
    """Finished slots get new visitors; rewards of the renewing step are zero; kept visitors earn the stated reward."""
    env = gymnasium.make_vec(ENV_ID, num_envs=64)
    env.reset(seed=5)
    ended_before = np.zeros(64, dtype=np.bool_)
    n_ended, total = 0, 0.0
    for _ in range(60):
        obs, reward, terminated, truncated, info = env.step(np.full(64, 4))
        assert (np.asarray(reward)[ended_before] == 0).all()
        parts = 0.3 * info["subscribed"] + 1.0 * info["kept_30d"]
        live = ~ended_before
        np.testing.assert_allclose(np.asarray(reward)[live], parts[live], atol=1e-6)
        ended_before = np.asarray(terminated | truncated)
        n_ended += int(ended_before.sum())
        total += float(np.asarray(reward).sum())
        assert env.observation_space.contains(obs)
    assert n_ended > 64
    assert total > 0


def test_vector_visitors_live_like_single_ones() -> None:
    """The mean reward per episode of the vector form equals that of a rollout of the same rule within four standard errors."""
    env = CarSubscriptionVectorEnv(2_000)
    env.reset(seed=11)
    total, finished = np.zeros(2_000), np.zeros(2_000, dtype=np.bool_)
    for _ in range(80):
        _, reward, terminated, truncated, _ = env.step(np.full(2_000, 6))
        total += np.where(finished, 0.0, reward)
        finished |= np.asarray(terminated | truncated)
        if finished.all():
            break
    from simulator.rollouts import rollout
    from tests.simulator.test_site import Always

    run = rollout(reference(), Always("suv_deal"), n_subjects=20_000, visit_days=1, seed=77, explore_share=0.0)
    expected = 0.3 * run.subjects.subscribed + run.subjects.kept_30d
    error = np.sqrt(expected.var() / 2_000 + expected.var() / 20_000)
    assert abs(total.mean() - expected.mean()) < 4 * error


def test_the_end_of_an_experiment_cuts_stories_short() -> None:
    """Nobody acts on or after the last day; who would is truncated, not terminated, and gets a successor."""
    env = CarSubscriptionVectorEnv(300, space=reference_space(reference(), n_subjects=200), experiment_days=6)
    env.reset(seed=2)
    n_truncated = 0
    for _ in range(15):
        assert env.kernel is not None
        days = env.kernel.calendar_day()
        assert (days[~env._done] < 6).all()
        _, _, terminated, truncated, _ = env.step(np.full(300, 4))
        assert not (terminated & truncated).any()
        n_truncated += int(truncated.sum())
    assert n_truncated > 100


def test_the_cost_of_discounts_is_told() -> None:
    """Who signs the compact deal costs a quarter of 349 EUR a month, and a reward may weigh it."""
    env = CarSubscriptionVectorEnv(
        2_000, space=reference_space(reference(), n_subjects=200), weights=RewardWeights(0.0, 0.0, 0.0, 1.0, -0.5)
    )
    env.reset(seed=2)
    n_signed = 0
    for _ in range(5):
        _, reward, _, _, info = env.step(np.full(2_000, 4))
        signed = info["subscribed"] > 0
        n_signed += int(signed.sum())
        np.testing.assert_allclose(info["discount_cost_eur"], np.where(signed, 349 * 0.25, 0.0), rtol=1e-6)
        np.testing.assert_allclose(reward, info["margin_eur"] - 0.5 * info["discount_cost_eur"], atol=1e-4)
    assert n_signed > 20
