"""How answers are counted: false wins, effects at the planned size, coverage, agreement; each by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.proof.agreement import differences, ratio_of_shares
from engine.proof.committed import commit, committed
from engine.proof.config import ProofConfig
from engine.proof.judged import agreement_summary, answers_table, by_kind, coverage, grid_summary
from engine.proof.replays import word
from policies.errors import StateError


def _truth(lift: float, *, margin: float = 1.0) -> dict[str, Any]:
    return {
        "kept_30d": {"lift": lift, "difference": lift / 10},
        "subscribed": {"lift": lift, "difference": lift / 5},
        "margin_eur": {"lift": margin, "difference": margin, "standard_error": 0.1},
    }


def _world(kind: str, lift: float, answers: dict[str, str | None], *, margin: float = 1.0) -> dict[str, Any]:
    return {"kind": kind, "challenger": "kept", "answers": answers, "truth": {"kept": _truth(lift, margin=margin)}}


def test_false_wins_and_found_effects_are_counted_by_the_truth() -> None:
    """A claim is false where nothing is gained; an effect that costs margin or is small is none that has to be found."""
    yes, no = dict.fromkeys(("ours", "peeking", "plain IPS"), "kept"), dict.fromkeys(("ours", "peeking", "plain IPS"))
    worlds = [
        _world("effect", 0.3, {**yes, "ours": "kept"}),
        _world("effect", 0.3, {**no, "peeking": "kept"}),
        _world("effect", 0.3, no, margin=-1.0),
        _world("effect", 0.1, no),
        _world("null", 0.0, {**no, "peeking": "kept"}),
        _world("harmful", -0.2, {**no, "plain IPS": "kept"}),
    ]
    table = answers_table(worlds)
    assert (table["ours"]["false_wins"], table["ours"]["without_gain"]) == (0, 2)
    assert (table["ours"]["found"], table["ours"]["at_planned_size"]) == (1, 2)
    assert (table["peeking"]["false_wins"], table["peeking"]["found"]) == (1, 2)
    assert table["plain IPS"]["false_share"]["estimate"] == 0.5
    kinds = {row["kind"]: row for row in by_kind(worlds)}
    assert kinds["null"]["peeking false"] == 1
    assert kinds["effect"]["ours claims"] == 1


def test_coverage_and_losing_points() -> None:
    """A claim covers where the true difference lies within its limits; points with a negative lift are named."""
    claim = {"answer": "lift", "kept": {"low": 0.0, "high": 0.04}, "conversion": {"low": 0.0, "high": 0.01}}
    told = coverage([(claim, _truth(0.3)), (claim, _truth(-0.1))])
    assert told["kept"]["estimate"] == 0.5
    assert told["conversion"]["estimate"] == 0.0
    points = [
        {"number": i, "at": {"x": 1.0}, "challenger": "kept", "truth": _truth(v), "claims": [claim]}
        for i, v in enumerate((0.3, -0.1))
    ]
    summary = grid_summary(points)
    assert [cell["number"] for cell in summary["losing_cells"]] == [1]
    assert summary["losing_cells"][0]["claims"] == 1
    assert summary["kept_30d"]["quantiles"]["median"] == pytest.approx(0.1)


def test_agreement_is_corrected_for_three_pairs() -> None:
    """One difference at p = 0.03 is left after Holm's correction, one at p = 0.0001 is not; narrow ones are powered."""
    found = {"simulator": (0.40, 0.05), "log": (0.20, 0.001), "live": (0.2, 0.001)}
    rows = {(r["a"], r["b"]): r for r in differences(found)}
    assert not rows["simulator", "live"]["covers_zero"]
    assert rows["log", "live"]["covers_zero"]
    assert rows["log", "live"]["within_points"]
    assert not rows["simulator", "log"]["is_powered"]
    weak = differences({"simulator": (0.311, 0.05), "log": (0.20, 0.001), "live": (0.2, 0.001)})
    assert all(r["covers_zero"] for r in weak)
    (pair,) = (row for row in agreement_summary([{"pairs": weak}]) if row["pair"] == "log and live")
    assert (pair["cells"], pair["powered"], pair["within_points"]) == (1, 1, 1)


def test_error_of_a_lift_is_what_repetitions_show() -> None:
    """The delta method's error of a ratio of shares agrees with the spread of drawn ones."""
    rng = np.random.default_rng(1)
    n = np.asarray([20_000.0, 20_000.0])
    lifts = [ratio_of_shares(rng.binomial(20_000, (0.05, 0.06)).astype(np.float64), n)[0] for _ in range(2_000)]
    _, error = ratio_of_shares(np.asarray([1_000.0, 1_200.0]), n)
    assert error == pytest.approx(np.std(lifts), rel=0.06)


def test_words_follow_the_interval() -> None:
    """Only an interval on one side of zero says anything."""
    assert (word(0.1, 0.2), word(-0.2, -0.1), word(-0.1, 0.1)) == ("gain", "loss", "no gain found")


def test_a_folder_holds_one_proof(tmp_path: Path) -> None:
    """The same seed and sizes give the same hash; another seed is refused in the same folder."""
    first = commit(ProofConfig.quick(tmp_path, seed=1))
    assert commit(ProofConfig.quick(tmp_path, seed=1)) == first
    assert committed(ProofConfig.quick(tmp_path / "elsewhere", seed=1))["hash"] == first["hash"]
    with pytest.raises(StateError, match="another folder"):
        commit(ProofConfig.quick(tmp_path, seed=2))
