"""A training library of others takes the environment as it is."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from simulator.env import ENV_ID, reference_space
from simulator.scenarios.car_subscription import reference


@pytest.mark.torch
def test_stable_baselines3_trains_on_it() -> None:
    """PPO by Stable-Baselines3, told nothing but the environment's name, learns, and its answers are offers."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_checker import check_env

    space = reference_space(reference(), n_subjects=300)
    env = gymnasium.make(ENV_ID, space=space)
    check_env(env.unwrapped, warn=False)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=1, device="cpu")
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(total_timesteps=512)
    moved = [float((a - b.detach()).abs().max()) for a, b in zip(before, model.policy.parameters(), strict=True)]
    assert max(moved) > 1e-4
    assert model.ep_info_buffer
    assert all(np.isfinite(episode["r"]) for episode in model.ep_info_buffer)
    observation, _ = env.reset(seed=3)
    action, _ = model.predict(observation, deterministic=True)
    assert env.action_space.contains(np.int64(action))
