"""Logged decisions as RLlib's episodes, and the algorithms that learn from them: behaviour cloning and MARWIL.

RLlib 2.60 reads columns of steps as episodes of one step, so whole episodes are written, packed with msgpack; with its defaults
the reader makes no progress on two processors, so it gets half a one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.errors import SchemaError
from policies.features import FeatureSpace
from policies.records import InteractionBatch, OfferSet

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm

    from engine.training.rl import RLSettings

_ROWS_PER_FILE = 5_000


def write_episodes(batch: InteractionBatch, space: FeatureSpace, folder: Path) -> Path:
    """One episode for each subject, its decisions in the order of their times, packed into Parquet files.

    An episode ends with its last logged decision: what comes after is not known, and counts as nothing.

    Raises
    ------
    SchemaError
        If the log has no subjects.
    """
    import msgpack
    import msgpack_numpy
    import pyarrow as pa
    import pyarrow.parquet as pq
    from gymnasium.spaces import Discrete
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    table = batch.table
    if table.subjects is None:
        raise SchemaError("the log has no subjects; expected them: a subject's decisions are an episode")
    observations = np.hstack([table.eligible.astype(np.float32), space.encode_contexts(table)])
    _, subject = np.unique(table.subjects, return_inverse=True)
    when = np.arange(len(batch)) if table.at is None else table.at.astype("datetime64[us]").astype(np.int64)
    order = np.lexsort((when, np.asarray(subject).reshape(-1)))
    starts = np.flatnonzero(np.diff(np.asarray(subject).reshape(-1)[order], prepend=-1))
    logits = np.log(np.maximum(batch.propensity, 1e-12)).astype(np.float32)
    packed: list[bytes] = []
    for rows in np.split(order, starts[1:]):
        seen = observations[rows]
        episode = SingleAgentEpisode(
            observation_space=_box(observations.shape[1]), action_space=Discrete(table.n_offers),
            observations=[*seen, seen[-1]], actions=[np.int64(a) for a in batch.chosen[rows]],
            rewards=[float(r) for r in batch.reward[rows]], infos=[{}] * (len(rows) + 1), terminated=True, len_lookback_buffer=0,
            extra_model_outputs={"action_logp": [np.float32(v) for v in logits[rows]]},
        )  # fmt: skip
        packed.append(msgpack.packb(episode.get_state(), default=msgpack_numpy.encode))
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(packed), _ROWS_PER_FILE):
        pq.write_table(pa.table({"item": packed[start : start + _ROWS_PER_FILE]}), folder / f"{start:09d}.parquet")
    return folder


def offline_algorithm(episodes: Path, offers: OfferSet, space: FeatureSpace, settings: RLSettings) -> Algorithm:
    """BC or MARWIL over written episodes, not yet trained."""
    from gymnasium.spaces import Discrete
    from ray.rllib.algorithms.bc import BCConfig
    from ray.rllib.algorithms.marwil import MARWILConfig
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    from engine.training.rl_module import MaskedActorCritic

    config: Any = (
        (BCConfig() if settings.algorithm == "bc" else MARWILConfig())
        .environment(observation_space=_box(len(offers) + space.context_width), action_space=Discrete(len(offers)))
        .learners(num_learners=0, num_gpus_per_learner=0)
        .offline_data(
            input_=[str(episodes.resolve())],
            input_read_episodes=True,
            input_read_batch_size=64,
            map_batches_kwargs={"concurrency": 1, "num_cpus": 0.5},
            iter_batches_kwargs={"prefetch_batches": 1},
            dataset_num_iters_per_learner=max(1, settings.steps_per_iteration // settings.minibatch),
        )
        .rl_module(
            rl_module_spec=RLModuleSpec(module_class=MaskedActorCritic, model_config={"hidden": settings.hidden})
        )
        .training(
            train_batch_size_per_learner=settings.minibatch, lr=settings.learning_rate or 1e-3, gamma=settings.gamma
        )
        .debugging(seed=settings.seed, log_level="ERROR")
    )
    if settings.algorithm == "marwil":
        config = config.training(beta=settings.beta)
    return config.build_algo()


def _box(width: int) -> Any:
    from gymnasium.spaces import Box

    return Box(-10.0, 10.0, (width,), np.float32)
