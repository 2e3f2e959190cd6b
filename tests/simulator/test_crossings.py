"""Where a lead turns is found where it is, with an interval that means something."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.crossings import crossings
from simulator.exact import greedy_crossing
from simulator.experiments import live_once, plan, read_lives, summarise
from simulator.scenarios.named import retention_tabular
from simulator.scenarios.suite import study_named


def test_a_turn_by_hand() -> None:
    """A lead that falls by one a unit from 0.5 turns at 0.5; one that never turns is not told; the order of settings does not matter."""
    study = study_named("bargain-trap")
    rng = np.random.default_rng(1)
    noise, n = rng.normal(0.0, 1.0, 4_000), 4_000
    noise -= noise.mean()
    settings = (2.0, 0.0, 1.0)
    outcomes = {(s, "a"): 0.5 - s + noise for s in settings}
    outcomes |= {(s, "b"): np.zeros(n) for s in settings}
    outcomes |= {(s, "c"): np.full(n, -9.0) for s in settings}
    (told,) = crossings(study, settings, ["a", "b", "c"], outcomes)
    assert (told["first"], told["second"], told["leads_below"]) == ("a", "b", "a")
    assert told["at"] == pytest.approx(0.5, abs=1e-3)
    # The noise is the same at all settings: the turn moves by as much as the mean does.
    half = 1.96 * noise.std() / np.sqrt(n)
    assert told["low"] == pytest.approx(0.5 - half, abs=0.1 * half)
    assert told["high"] == pytest.approx(0.5 + half, abs=0.1 * half)
    assert told["share"] == 1.0
    assert "exact" not in told


@pytest.mark.slow
def test_the_sampled_crossing_covers_the_exact_one(tmp_path: Path) -> None:
    """A sweep of the tabular family finds, within its interval, the crossing that the recursion gives, and tells both."""
    cells = plan(
        "retention-tabular", ["greedy", "careful"], n_subjects=3_000, visit_days=1, seeds=(1, 2), explore_share=0.0,
        settings=(0.6, 0.75, 0.9, 1.05),
    )  # fmt: skip
    for cell in cells:
        live_once(cell, tmp_path)
    (told,) = summarise(cells, read_lives(cells, tmp_path))["crossings"]
    exact = greedy_crossing(lambda c: retention_tabular(discount_dependence=c))
    assert told["exact"] == pytest.approx(exact, abs=1e-4)
    assert told["low"] < exact < told["high"]
    assert told["high"] - told["low"] < 0.3
    assert told["leads_below"] == "greedy"
