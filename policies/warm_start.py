"""Teach a learner before its first visitor: from labelled rows, or from what a reward model expects."""

from __future__ import annotations

import numpy as np

from policies.errors import SchemaError
from policies.protocols import OnlineLearner, RewardModel
from policies.records import DecisionTable, FloatArray, InteractionBatch


def teach(learner: OnlineLearner, table: DecisionTable, rewards: FloatArray) -> None:
    """Let a learner see what every eligible offer of each row would have earned.

    Parameters
    ----------
    rewards
        Shape ``(n, k)``, in the unit of the reward; ineligible offers are left out.

    Notes
    -----
    Each pair counts as one interaction. A log with propensities needs none of this: ``learn`` takes it as it is.
    """
    if rewards.shape != table.eligible.shape:
        raise SchemaError(f"rewards have shape {rewards.shape}; expected {table.eligible.shape}, one for each pair")
    row, chosen = np.nonzero(table.eligible)
    propensity = 1.0 / table.eligible.sum(axis=1)[row]
    learner.learn(InteractionBatch(table.take(row), chosen.astype(np.int64), propensity, rewards[row, chosen]))


def teach_by_model(learner: OnlineLearner, model: RewardModel, table: DecisionTable) -> None:
    """``teach`` with what a reward model expects: the learner begins where the model is, and corrects it as rewards come.

    How many rows the table has says how firmly: the learner takes expectations for observations, so give about as many rows as
    interactions you would need to overrule the model.
    """
    teach(learner, table, np.asarray(model.expected_reward(table), dtype=np.float64))
