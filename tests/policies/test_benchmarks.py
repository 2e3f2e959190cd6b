"""The pieces that the regret benchmark judges with."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._bandits import Labelled, Ours, progressive_regret
from benchmarks.regret import mean_ranks
from policies.linear import LinUCB


def test_mean_ranks_by_hand() -> None:
    """Places 1, 2, 3 on one set and 2, 1, 3 on another average to 1.5, 1.5 and 3."""
    one = {"a": np.asarray([0.1, 0.2]), "b": np.asarray([0.3, 0.3]), "c": np.asarray([0.9, 0.9])}
    two = {"a": np.asarray([0.5, 0.5]), "b": np.asarray([0.4, 0.4]), "c": np.asarray([0.6, 0.6])}
    assert mean_ranks({"one": one, "two": two}) == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_regret_counts_each_decision_before_its_row_is_learned() -> None:
    """On two separable classes regret falls from chance to almost nothing, and a warm start begins there."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, size=400)
    x = (np.eye(2)[label] * 2 - 1 + 0.1 * rng.normal(size=(400, 2))).astype(np.float32)
    data = Labelled("two", x, label, 2)
    cold, warm = Ours(LinUCB, data), Ours(LinUCB, data)
    warm.warm_start(x[:40], label[:40])
    regret = progressive_regret(cold, data, seed=0)
    assert regret[-200:].mean() < 0.05
    assert progressive_regret(warm, data, seed=0)[:50].mean() == pytest.approx(0.0, abs=0.02)
