"""The pieces that the regret benchmark judges with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks._bandits import Labelled, Ours, progressive_regret
from benchmarks._kept import Kept
from benchmarks._retention import Found, _figures
from benchmarks.regret import OURS, compare, mean_ranks
from policies.linear import LinUCB


def test_mean_ranks_by_hand() -> None:
    """Places 1, 2, 3 on one set and 2, 1, 3 on another average to 1.5, 1.5 and 3."""
    one = {"a": np.asarray([0.1, 0.2]), "b": np.asarray([0.3, 0.3]), "c": np.asarray([0.9, 0.9])}
    two = {"a": np.asarray([0.5, 0.5]), "b": np.asarray([0.4, 0.4]), "c": np.asarray([0.6, 0.6])}
    assert mean_ranks({"one": one, "two": two}) == {"a": 1.5, "b": 1.5, "c": 3.0}


def test_the_default_is_held_against_others_and_against_all() -> None:
    """Ahead of every peer but two errors behind another of ours, it holds the one rule and breaks the other, and names who leads."""
    noise = np.asarray([-0.01, 0.01, 0.0])
    error = noise.std(ddof=1) / np.sqrt(3)
    regrets = {"set": {OURS: 0.2 + noise, "other": 0.2 - 2 * error + noise, "VW squarecb": 0.3 + noise}}
    found = {f.name: f for f in compare(regrets, can_judge=True)}
    assert found["mean_rank"].holds is not False
    assert found["behind_best_peer_set"].holds is True
    assert found["behind_best_of_all_set"].ours == pytest.approx(2.0)
    assert found["behind_best_of_all_set"].holds is False
    assert (found["behind_best_of_all_set"].note or "").startswith("best: other")


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


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    """A second run reads the numbers of the first and measures only what is new."""
    first = Kept(tmp_path / "kept" / "a.jsonl")
    assert first.value("x", lambda: 1.5) == 1.5
    second = Kept(tmp_path / "kept" / "a.jsonl")
    assert second.value("x", lambda: pytest.fail("measured again")) == 1.5
    assert second.value("y", lambda: 2.0) == 2.0
    assert (tmp_path / "kept" / "a.jsonl").read_text().count("\n") == 2


def test_a_win_is_claimed_only_over_the_best_bandit_and_the_myopic_twin() -> None:
    """A clear lead over both claims a win and holds the rule; the same lead in half of the seeds, or over one of them, does not."""
    planner = 0.07 + np.linspace(-0.001, 0.001, 10)
    clear = Found(np.full(10, 0.05), np.full(10, 0.06), planner, np.full(10, 0.055))
    over_bandit, over_twin, share = _figures("ppo_1", clear, best=0.08, to_gain=0.2, is_above=True)
    assert over_bandit.ours == pytest.approx(0.01)
    assert over_twin.ours == pytest.approx(0.015)
    assert over_bandit.holds is True
    assert (over_bandit.note or "").startswith("planner ahead")
    assert share.ours == pytest.approx(2 / 3)
    assert clear.is_claimed
    assert not replace(clear, twin=planner).is_claimed  # a better network, and no planning
    unclear = replace(clear, planner=np.where(np.arange(10) % 2 == 0, 0.05, planner))
    assert not unclear.is_claimed
    over_bandit, *_ = _figures("ppo_1", unclear, best=0.08, to_gain=0.2, is_above=True)
    assert over_bandit.holds is None
    assert (over_bandit.note or "").startswith("no winner")
