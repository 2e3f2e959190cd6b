"""Fitted Q evaluation: a reward model of what is earned from here on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from offline_eval.reward_models import FitReward, fit_ridge, subject_folds
from offline_eval.sequential.paths import Paths
from policies.protocols import RewardModel
from policies.records import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class FittedQ:
    """Value-to-go of each offer in each row, from models that did not see the row's subject.

    Attributes
    ----------
    values
        Shape ``(n, k)``.
    models
        One per fold.
    folds
        Fold of each row, shape ``(n,)``.
    """

    values: FloatArray
    models: Sequence[RewardModel]
    folds: IntArray


def fitted_q(
    paths: Paths,
    target: FloatArray,
    *,
    fit: FitReward = fit_ridge,
    discount: float = 1.0,
    n_folds: int = 3,
    seed: int = 0,
) -> FittedQ:
    """Fit value-to-go under a candidate by repeated regression, as often as the longest path has steps.

    Notes
    -----
    Biased where the model cannot express the value, and nothing in the log tells by how much: use it inside the doubly
    robust form, or beside estimators that use the weights.

    References
    ----------
    Le, Voloshin and Yue (2019), "Batch policy learning under constraints" (algorithm 3).
    """
    log = paths.log
    folds = subject_folds(log, n_folds=n_folds, seed=seed)
    following = _next_row(paths)
    values = np.empty_like(target)
    models: list[RewardModel] = []
    for fold in range(n_folds):
        rows = np.flatnonzero(folds != fold)
        part, inside = log.take(rows), target[rows]
        position = np.full(len(log) + 1, -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))
        after = position[following[rows]]  # a subject is in one fold, so the next row is in the part too
        goal = part.reward
        for _ in range(paths.horizon):
            model = fit(replace(part, reward=goal))
            ahead = (inside * model.expected_reward(part.table)).sum(axis=1)
            goal = part.reward + discount * np.where(after >= 0, ahead[after], 0.0)
        models.append(model)
        mine = np.flatnonzero(folds == fold)
        values[mine] = model.expected_reward(log.table.take(mine))
    return FittedQ(values, models, folds)


def _next_row(paths: Paths) -> IntArray:
    """Row of the same subject's next decision, shape ``(n,)``; n where there is none."""
    n = len(paths.log)
    at = np.full((paths.n_paths, paths.horizon + 1), n, dtype=np.int64)
    at[paths.path, paths.step] = np.arange(n)
    return at[paths.path, paths.step + 1]
