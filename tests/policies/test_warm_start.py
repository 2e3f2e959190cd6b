"""Warm starts: what is taught is what would have been learned, and a reward model's preferences are taken over."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import SchemaError
from policies.features import FeatureSpace
from policies.greedy import greedy
from policies.linear import LinTS
from policies.records import InteractionBatch
from policies.reward_models import RidgeRewardModel
from policies.warm_start import teach, teach_by_model
from tests.policies.worlds import batch, success_rate, table

SPACE = FeatureSpace.fit(table())


def test_teaching_equals_learning_each_pair() -> None:
    """All eligible pairs of the rows, learned as interactions one after the other, give the same policy."""
    t = table(17)
    rewards = success_rate(t)
    taught, learned = LinTS(SPACE), LinTS(SPACE)
    teach(taught, t, rewards)
    for row in range(len(t)):
        for offer in np.flatnonzero(t.eligible[row]):
            one = InteractionBatch(
                t.take(slice(row, row + 1)), np.asarray([offer]), np.asarray([0.5]), rewards[row, offer : offer + 1]
            )
            learned.learn(one)
    assert taught.probabilities(table(9, seed=3)) == pytest.approx(learned.probabilities(table(9, seed=3)), abs=1e-5)


def test_a_model_hands_over_what_it_prefers() -> None:
    """A bandit taught by a fitted model mostly shows what the model would show, before it has seen a reward."""
    model = RidgeRewardModel(SPACE)
    model.learn(batch(2_000, seed=4))
    policy = LinTS(SPACE)
    teach_by_model(policy, model, table(400, seed=6))
    t = table(300, seed=9)
    wanted = greedy(model).probabilities(t).argmax(axis=1)
    assert (policy.probabilities(t).argmax(axis=1) == wanted).mean() > 0.9


def test_rewards_of_another_shape_are_refused() -> None:
    """One reward for each pair, or nothing."""
    with pytest.raises(SchemaError, match="one for each pair"):
        teach(LinTS(SPACE), table(5), np.zeros((5, 4)))
