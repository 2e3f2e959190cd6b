"""A training library of others takes the environment as it is."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from simulator.env import ENV_ID
from simulator.scenarios.car_subscription import reference
from simulator.spaces import reference_space


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


_PPO = """
import sys
import ray
from ray.rllib.algorithms.ppo import PPOConfig
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=200_000_000)
for more in ({"num_envs_per_env_runner": 2}, {"num_envs_per_env_runner": 16, "gym_env_vectorize_mode": "vector_entry_point"}):
    algorithm = (
        PPOConfig()
        .environment("simulator.env:nextoffer/CarSubscription-v0", env_config={"scenario": "trial"})
        .env_runners(num_env_runners=0, **more)
        .training(train_batch_size_per_learner=512, minibatch_size=128, num_epochs=1)
        .debugging(seed=1, log_level="ERROR")
        .build_algo()
    )
    told = algorithm.train()["env_runners"]
    print(told["num_episodes"], told["episode_return_mean"], told["episode_len_mean"])
    algorithm.stop()
ray.shutdown()
"""


@pytest.mark.rllib
@pytest.mark.slow
def test_rllib_trains_on_it() -> None:
    """PPO by RLlib with its own network, told nothing but the name, learns from one visitor after the other and from many at once."""
    environment = {**os.environ, "RLLIB_TEST_NO_TF_IMPORT": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = subprocess.run(
        [sys.executable, "-c", _PPO], capture_output=True, text=True, check=False, env=environment, timeout=400
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [[float(x) for x in line.split()] for line in done.stdout.strip().splitlines()]
    assert len(rows) == 2
    for n_episodes, mean, length in rows:
        assert n_episodes > 20
        assert 0.0 <= mean < 1.3
        assert 1.0 <= length < 15.0
