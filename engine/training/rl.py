"""Train a policy for the 30-day objective with RLlib and export it to ONNX.

``python -m engine.training.rl --scenario DIR --out DIR [--algorithm ppo|dqn] [--iterations N]`` learns in the simulator,
``python -m engine.training.rl --log LOG.parquet --out DIR --algorithm bc|marwil`` from logged episodes.

A process of its own: it starts Ray, learns with action masks, writes a checkpoint it can resume from, exports the network
with the mask inside the graph, and compares the export with the network before anyone may serve it. What serves it needs
neither ray nor torch.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# Ray would otherwise import TensorFlow where it is installed and turn its eager mode off.
os.environ.setdefault("RLLIB_TEST_NO_TF_IMPORT", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np

from engine.training.rl_export import PARITY_TOLERANCE, network_artifact
from policies.artifact import save_artifact
from policies.errors import InvalidInputError, NextofferError, StateError
from policies.features import FeatureSpace
from policies.records import InteractionBatch, OfferSet
from simulator.env import ENV_ID, RewardWeights
from simulator.scenarios.files import load_scenario
from simulator.spaces import reference_space

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

AlgorithmName = Literal["ppo", "dqn", "bc", "marwil"]
ONLINE: tuple[AlgorithmName, ...] = ("ppo", "dqn")
OFFLINE: tuple[AlgorithmName, ...] = ("bc", "marwil")
# Ray would take a third of the machine's memory; networks and episodes of this size need a sliver of it.
_OBJECT_STORE = 200_000_000
_MODULE_IN_CHECKPOINT = "learner_group/learner/rl_module/default_policy"


@dataclass(frozen=True, slots=True)
class RLSettings:
    """One training run, saved beside what it produced.

    Parameters
    ----------
    iterations
        Updates from fresh visits (``ppo``, ``dqn``), or passes of ``steps_per_iteration`` logged decisions.
    n_envs
        Visitors living side by side in the one local runner.
    steps_per_iteration
        Visits sampled before each update.
    learning_rate
        None: what suits the algorithm.
    gamma
        Discount per visit; close to one, because keeping a subscriber pays 30 days later.
    weights
        The scalar reward in the simulator; a log brings its own.
    beta
        How much MARWIL favours what turned out well.
    """

    algorithm: AlgorithmName = "ppo"
    iterations: int = 12
    n_envs: int = 256
    steps_per_iteration: int = 8_192
    minibatch: int = 1_024
    epochs: int = 6
    learning_rate: float | None = None
    gamma: float = 0.99
    entropy: float = 0.005
    beta: float = 1.0
    hidden: tuple[int, ...] = (64, 64)
    weights: RewardWeights = field(default_factory=RewardWeights)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.algorithm not in (*ONLINE, *OFFLINE):
            raise InvalidInputError(
                f"algorithm is {self.algorithm!r}; expected one of {', '.join((*ONLINE, *OFFLINE))}"
            )
        if self.iterations < 1 or self.n_envs < 1 or self.steps_per_iteration < self.n_envs:
            raise InvalidInputError(
                f"iterations {self.iterations}, n_envs {self.n_envs}, steps_per_iteration {self.steps_per_iteration}; "
                "expected at least 1, 1, and one step for each environment"
            )


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line: 0 done, 1 the export does not agree with the network, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    world = parser.add_mutually_exclusive_group(required=True)
    world.add_argument("--scenario", type=Path, help="folder that save_scenario wrote: learn in the simulator")
    world.add_argument("--log", type=Path, help="Parquet log with subjects and times: learn from its episodes")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--algorithm", choices=[*ONLINE, *OFFLINE], default="ppo")
    parser.add_argument("--iterations", type=int, default=RLSettings().iterations)
    parser.add_argument("--reward", choices=["mixed", "kept_30d", "subscribed", "margin_eur"], default="mixed",
                        help="in the simulator; mixed is 0.3 subscribed + 1 kept")  # fmt: skip
    parser.add_argument("--reward-model", type=Path, default=None,
                        help="folder of a reward model (kind onnx) that says what a visit is worth, instead of the world")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--address", default=None, help="address of a Ray cluster; default: in this process")
    options = parser.parse_args(arguments)
    if (options.log is not None) is not (options.algorithm in OFFLINE):
        parser.error(
            f"--algorithm {options.algorithm} takes {'--log' if options.algorithm in OFFLINE else '--scenario'}"
        )
    settings = RLSettings(
        algorithm=options.algorithm, iterations=options.iterations, seed=options.seed, weights=weights_for(options.reward)
    )  # fmt: skip
    try:
        train(
            options.scenario or options.log, options.out, settings=settings, reward_model=options.reward_model,
            is_resumed=options.resume, address=options.address,
        )  # fmt: skip
    except NextofferError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def weights_for(reward: str) -> RewardWeights:
    """The scalar reward by its name on the command line: ``mixed``, or one outcome alone."""
    if reward == "mixed":
        return RewardWeights()
    return RewardWeights(**{"click": 0.0, "subscribed": 0.0, "kept_30d": 0.0, "margin_eur": 0.0, reward: 1.0})


def train(
    source: Path,
    out: Path,
    *,
    settings: RLSettings,
    reward_model: Path | None = None,
    is_resumed: bool = False,
    address: str | None = None,
) -> dict[str, Any]:
    """Train, export, check; writes ``policy/`` (artefact), ``checkpoint/`` and ``training.json`` into ``out``.

    Parameters
    ----------
    source
        Folder of a scenario for ``ppo`` and ``dqn``, a Parquet log for ``bc`` and ``marwil``.
    reward_model
        Says what a visit is worth in place of ``settings.weights`` (``rl_judged``); with ``ppo`` and ``dqn``.

    Raises
    ------
    StateError
        Before anything is trained, if ``out`` holds a policy already, or no checkpoint to resume from.
    NextofferError
        If the exported graph and the network disagree by more than ``PARITY_TOLERANCE``.
    """
    _check_folder(out, is_resumed=is_resumed)
    if settings.algorithm in OFFLINE:
        from offline_eval.interop.arrow import read_parquet

        return train_on_log(read_parquet(source), out, settings=settings, is_resumed=is_resumed, address=address)
    scenario = load_scenario(source)
    if reward_model is None:
        space = reference_space(scenario, seed=settings.seed)
        env_id = ENV_ID
        world: dict[str, Any] = {"scenario": scenario, "space": space, "weights": settings.weights}
    else:
        from engine.training.rl_judged import JUDGED_ENV_ID, judge_in

        space, env_id, world = (
            judge_in(reward_model).space,
            JUDGED_ENV_ID,
            {"scenario": scenario, "model": reward_model},
        )

    def build() -> Algorithm:
        return _online(env_id, world, settings)

    return _run(build, space, scenario.offers, out, settings=settings, is_resumed=is_resumed, address=address)


def train_on_log(
    batch: InteractionBatch, out: Path, *, settings: RLSettings, is_resumed: bool = False, address: str | None = None
) -> dict[str, Any]:
    """``train`` on a log in memory: subjects are episodes, in the order of their times."""
    _check_folder(out, is_resumed=is_resumed)
    from engine.training.rl_episodes import offline_algorithm, write_episodes

    space = FeatureSpace.fit(batch.table)
    episodes = write_episodes(batch, space, out / "episodes")

    def build() -> Algorithm:
        return offline_algorithm(episodes, batch.table.offers, space, settings)

    return _run(build, space, batch.table.offers, out, settings=settings, is_resumed=is_resumed, address=address)


def _run(
    build: Callable[[], Algorithm],
    space: FeatureSpace,
    offers: OfferSet,
    out: Path,
    *,
    settings: RLSettings,
    is_resumed: bool,
    address: str | None,
) -> dict[str, Any]:
    import ray

    is_ours = not ray.is_initialized()
    ray.init(
        address=address, ignore_reinit_error=True, include_dashboard=False, log_to_driver=False, configure_logging=False,
        **({} if address else {"num_cpus": 1 if settings.algorithm in ONLINE else 2, "object_store_memory": _OBJECT_STORE}),
    )  # fmt: skip
    algorithm = None
    try:
        algorithm = build()
        checkpoint = out / "checkpoint"
        if is_resumed:
            algorithm.restore_from_path(str(checkpoint.resolve()))
        history = []
        for done in range(settings.iterations):
            told = _progress(algorithm.train())
            history.append({"iteration": algorithm.iteration, **told})
            words = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in told.items())
            sys.stderr.write(f"iteration {done + 1} of {settings.iterations}: {words}\n")
            sys.stderr.flush()
        checkpoint.mkdir(parents=True, exist_ok=True)
        algorithm.save_to_path(str(checkpoint.resolve()))
        artifact, difference = network_artifact(
            _module(algorithm, checkpoint), space=space, offers=offers, rng=np.random.default_rng(settings.seed),
            form="greedy" if settings.algorithm == "dqn" else "softmax",
        )  # fmt: skip
    finally:
        if algorithm is not None:
            algorithm.stop()
        # Readers of episodes complain where they outlive Ray.
        algorithm = None
        gc.collect()
        if is_ours:
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
        "in_simulation": settings.algorithm in ONLINE,
        "reward": asdict(settings.weights) if settings.algorithm in ONLINE else "as logged",
        "history": history,
        "export_difference": difference,
    }
    (out / "training.json").write_text(json.dumps(report, indent=1))
    return report


def _module(algorithm: Algorithm, checkpoint: Path) -> Any:
    """The trained network; an algorithm over logged episodes has no runner to ask, so its checkpoint is read."""
    if algorithm.env_runner_group is not None:
        return algorithm.get_module()
    from ray.rllib.core.rl_module.rl_module import RLModule

    return RLModule.from_checkpoint(str((checkpoint / _MODULE_IN_CHECKPOINT).resolve()))


def _progress(result: dict[str, Any]) -> dict[str, float]:
    """What an iteration tells: reward per visitor in the simulator, losses on a log."""
    mean = result.get("env_runners", {}).get("episode_return_mean")
    if mean is not None:
        return {"reward_per_visitor": float(mean)}
    module = result.get("learners", {}).get("default_policy", {})
    return {name: float(module[name]) for name in ("policy_loss", "vf_loss") if name in module}


def _check_folder(out: Path, *, is_resumed: bool) -> None:
    if is_resumed and not (out / "checkpoint").is_dir():
        raise StateError(f"{out} holds no checkpoint; expected one to resume from: train without --resume first")
    if not is_resumed and (out / "policy").exists():
        raise StateError(f"{out} holds a trained policy already; choose another folder, or go on from it with --resume")


def _online(env_id: str, world: dict[str, Any], settings: RLSettings) -> Algorithm:
    from ray.rllib.algorithms.dqn import DQNConfig
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from engine.training.rl_module import MaskedActorCritic, MaskedQ

    steps = max(1, settings.steps_per_iteration // settings.n_envs)
    is_ppo = settings.algorithm == "ppo"
    config: Any = (
        (PPOConfig() if is_ppo else DQNConfig())
        .environment(env_id, env_config=world, disable_env_checking=True)
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=settings.n_envs,
            gym_env_vectorize_mode="vector_entry_point",
            rollout_fragment_length=steps if is_ppo else 1,
        )
        .learners(num_learners=0, num_gpus_per_learner=0)
        .rl_module(
            rl_module_spec=RLModuleSpec(
                module_class=MaskedActorCritic if is_ppo else MaskedQ, model_config={"hidden": settings.hidden}
            )
        )
        # The mean return is over an iteration of visitors, not over the last hundred.
        .reporting(metrics_num_episodes_for_smoothing=2_000)
        .debugging(seed=settings.seed, log_level="ERROR")
    )
    if is_ppo:
        config = config.training(
            train_batch_size_per_learner=settings.steps_per_iteration,
            minibatch_size=settings.minibatch,
            num_epochs=settings.epochs,
            lr=settings.learning_rate or 5e-4,
            gamma=settings.gamma,
            entropy_coeff=settings.entropy,
            vf_clip_param=10.0,
        )
    else:
        total = settings.iterations * settings.steps_per_iteration
        config = config.training(
            train_batch_size_per_learner=settings.minibatch,
            # Each visit is learned from this often: an update for each round of all environments.
            training_intensity=None,
            lr=settings.learning_rate or 1e-3,
            gamma=settings.gamma,
            epsilon=[[0, 1.0], [total // 2, 0.1]],
            target_network_update_freq=settings.steps_per_iteration // 2,
            num_steps_sampled_before_learning_starts=4 * settings.n_envs,
            replay_buffer_config={"type": "EpisodeReplayBuffer", "capacity": 200_000},
        ).reporting(min_sample_timesteps_per_iteration=settings.steps_per_iteration, min_time_s_per_iteration=0)
    return config.build_algo()


if __name__ == "__main__":
    sys.exit(main())
