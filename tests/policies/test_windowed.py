"""Forgetting by a window, whatever learner is inside."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import MostPopular
from policies.linear import LinTS
from policies.windowed import Windowed
from tests.policies.worlds import batch, table

SPACE = FeatureSpace.fit(table())


def test_it_knows_the_latest_interactions_and_no_others() -> None:
    """After any number of interactions it answers like a fresh learner that saw the last two thirds to three thirds of the window."""
    b = batch(700)
    for n in (150, 300, 413, 700):
        policy = Windowed(LinTS(SPACE), window=150, n_parts=3)
        for start in range(0, n, 37):
            policy.learn(b.take(slice(start, min(start + 37, n))))
        age = max(policy._ages)
        assert 100 <= age <= 150
        alone = LinTS(SPACE)
        alone.learn(b.take(slice(n - age, n)))
        assert policy.probabilities(b.table) == pytest.approx(alone.probabilities(b.table), abs=1e-5)


def test_it_follows_a_taste_that_turns() -> None:
    """An offer that paid only in the first half loses its place within a window; a learner that keeps everything stays with it."""
    b = batch(4_000)
    everyone = replace(b.table, eligible=np.ones_like(b.table.eligible))
    chosen = np.arange(4_000) % 5
    pays = np.where(np.arange(4_000) < 2_500, 1, 3)
    log = replace(b, table=everyone, chosen=chosen, propensity=np.full(4_000, 0.2), probabilities=None,
                  reward=(chosen == pays).astype(np.float64))  # fmt: skip
    remembers, forgets = MostPopular(), Windowed(MostPopular(), window=1_000)
    remembers.learn(log)
    forgets.learn(log)
    t = everyone.take(slice(0, 1))
    assert remembers.probabilities(t)[0].argmax() == 1
    assert forgets.probabilities(t)[0].argmax() == 3


def test_a_window_without_room_is_refused() -> None:
    """More parts than interactions, or a single part, would leave nothing to answer with."""
    with pytest.raises(InvalidInputError, match="n_parts"):
        Windowed(MostPopular(), window=10, n_parts=1)
    with pytest.raises(InvalidInputError, match="window"):
        Windowed(MostPopular(), window=0)
