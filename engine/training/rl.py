"""Train a policy for the 30-day objective with RLlib's PPO in the simulator, and export it to ONNX.

``python -m engine.training.rl --scenario DIR --out DIR --iterations N``

A process of its own: it starts Ray, learns with action masks, writes a checkpoint it can resume from, exports the network
with the mask inside the graph, and compares the export with the network before anyone may serve it. What serves it needs
neither ray nor torch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Ray would otherwise import TensorFlow where it is installed and turn its eager mode off.
os.environ.setdefault("RLLIB_TEST_NO_TF_IMPORT", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np

from engine.training.rl_export import PARITY_TOLERANCE, network_artifact
from policies.artifact import save_artifact
from policies.errors import NextofferError, StateError
from simulator.env import ENV_ID, RewardWeights, reference_space
from simulator.scenarios.files import load_scenario

if TYPE_CHECKING:
    from ray.rllib.algorithms.ppo import PPO


@dataclass(frozen=True, slots=True)
class PPOSettings:
    """One training run, saved beside what it produced.

    Parameters
    ----------
    n_envs
        Visitors living side by side in the one local runner.
    steps_per_iteration
        Visits sampled before each update.
    gamma
        Discount per visit; close to one, because keeping a subscriber pays 30 days later.
    """

    iterations: int = 12
    n_envs: int = 256
    steps_per_iteration: int = 8_192
    minibatch: int = 1_024
    epochs: int = 6
    learning_rate: float = 5e-4
    gamma: float = 0.99
    entropy: float = 0.005
    hidden: tuple[int, ...] = (64, 64)
    seed: int = 0


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line: 0 done, 1 the export does not agree with the network, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenario", type=Path, required=True, help="folder that save_scenario wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=PPOSettings().iterations)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--address", default=None, help="address of a Ray cluster; default: in this process")
    options = parser.parse_args(arguments)
    settings = PPOSettings(iterations=options.iterations, seed=options.seed)
    try:
        train(options.scenario, options.out, settings=settings, is_resumed=options.resume, address=options.address)
    except NextofferError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def train(
    scenario_folder: Path, out: Path, *, settings: PPOSettings, is_resumed: bool = False, address: str | None = None
) -> dict[str, Any]:
    """Train, export, check; writes ``policy/`` (artefact), ``checkpoint/`` and ``training.json`` into ``out``.

    Raises
    ------
    StateError
        Before anything is trained, if ``out`` holds a policy already, or no checkpoint to resume from.
    NextofferError
        If the exported graph and the network disagree by more than ``PARITY_TOLERANCE``.
    """
    _check_folder(out, is_resumed=is_resumed)
    import ray

    scenario = load_scenario(scenario_folder)
    space = reference_space(scenario, seed=settings.seed)
    ray.init(
        address=address, ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, configure_logging=False,
        **({} if address else {"num_cpus": 1}),
    )  # fmt: skip
    algorithm = None
    try:
        algorithm = _build(scenario, space, settings)
        checkpoint = out / "checkpoint"
        if is_resumed:
            algorithm.restore_from_path(str(checkpoint.resolve()))
        history = []
        for done in range(settings.iterations):
            result = algorithm.train()
            mean = float(result["env_runners"].get("episode_return_mean", float("nan")))
            history.append({"iteration": algorithm.iteration, "reward_per_visitor": mean})
            sys.stderr.write(f"iteration {done + 1} of {settings.iterations}: reward per visitor {mean:.4f}\n")
            sys.stderr.flush()
        checkpoint.mkdir(parents=True, exist_ok=True)
        algorithm.save_to_path(str(checkpoint.resolve()))
        artifact, difference = network_artifact(
            algorithm.get_module(), space=space, offers=scenario.offers, rng=np.random.default_rng(settings.seed)
        )
    finally:
        if algorithm is not None:
            algorithm.stop()
        ray.shutdown()
    if difference > PARITY_TOLERANCE:
        raise NextofferError(
            f"the exported graph differs from the network by {difference:.2g}; expected at most {PARITY_TOLERANCE:g}"
        )
    if is_resumed:
        shutil.rmtree(out / "policy", ignore_errors=True)
    save_artifact(artifact, out / "policy")
    report = {
        "settings": asdict(settings),
        "in_simulation": True,
        "reward": asdict(RewardWeights()),
        "history": history,
        "export_difference": difference,
    }
    (out / "training.json").write_text(json.dumps(report, indent=1))
    return report


def _check_folder(out: Path, *, is_resumed: bool) -> None:
    if is_resumed and not (out / "checkpoint").is_dir():
        raise StateError(f"{out} holds no checkpoint; expected one to resume from: train without --resume first")
    if not is_resumed and (out / "policy").exists():
        raise StateError(f"{out} holds a trained policy already; choose another folder, or go on from it with --resume")


def _build(scenario: Any, space: Any, settings: PPOSettings) -> PPO:
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from ray.rllib.env.env_runner import EnvRunner  # noqa: F401 - fails early and clearly where RLlib is incomplete

    from engine.training.rl_module import MaskedActorCritic

    config = (
        PPOConfig()
        .environment(ENV_ID, env_config={"scenario": scenario, "space": space}, disable_env_checking=True)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=settings.n_envs,
            gym_env_vectorize_mode="vector_entry_point",
            rollout_fragment_length=max(1, settings.steps_per_iteration // settings.n_envs),
        )
        .learners(num_learners=0, num_gpus_per_learner=0)
        .training(
            train_batch_size_per_learner=settings.steps_per_iteration,
            minibatch_size=settings.minibatch,
            num_epochs=settings.epochs,
            lr=settings.learning_rate,
            gamma=settings.gamma,
            entropy_coeff=settings.entropy,
            vf_clip_param=10.0,
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(module_class=MaskedActorCritic, model_config={"hidden": settings.hidden})
        )
        # The mean return is over an iteration of visitors, not over the last hundred.
        .reporting(metrics_num_episodes_for_smoothing=2_000)
        .debugging(seed=settings.seed, log_level="ERROR")
    )
    return config.build_algo()


if __name__ == "__main__":
    sys.exit(main())
