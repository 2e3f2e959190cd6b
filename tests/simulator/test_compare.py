"""Policies side by side: paired, labelled, and refused where they are not known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.simulate import simulate
from policies.errors import InvalidInputError, UnknownNameError
from simulator.compare import compare, policy_named
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.named import world_named


def test_differences_are_paired_and_the_first_has_none() -> None:
    """The first policy differs from itself by exactly nothing, and pairing narrows the interval of the other."""
    told = compare(reference(), ["suv_care", "suv_deal"], n_subjects=2_500, seeds=(1, 2))
    first, second = told["policies"]
    assert first["against_first"]["kept_30d"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert told["in_simulation"] is True

    def width(cell: dict[str, float]) -> float:
        return cell["high"] - cell["low"]

    unpaired = (width(first["subscribed"]) ** 2 + width(second["subscribed"]) ** 2) ** 0.5
    assert width(second["against_first"]["subscribed"]) < unpaired
    assert told["upper_bound_kept_30d"]["high"] > second["kept_30d"]["low"]


def test_the_null_world_shows_no_difference() -> None:
    """Where offers make no difference the table says nought, not nearly nought."""
    told = compare(world_named("null"), ["city_flex", "suv_deal"], n_subjects=1_500, seeds=(4,))
    assert told["policies"][1]["against_first"]["margin_eur"]["mean"] == 0.0


def test_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table on stdout and the file hold the same policies in the same order."""
    path = tmp_path / "figures.json"
    assert simulate(world="habit", policy=("uniform", "city_deal"), subjects=400, seeds=2, json=path) == 0
    told = json.loads(path.read_text())
    assert [row["policy"] for row in told["policies"]] == ["uniform", "city_deal"]
    assert told["seeds"] == [1, 2]
    out = capsys.readouterr().out
    assert "in simulation" in out
    assert "city_deal" in out


def test_unknown_policies_are_named() -> None:
    """A misspelt offer is refused with the nearest one; the oracle says where it does not know the laws."""
    with pytest.raises(UnknownNameError, match="suv_deal"):
        policy_named("suv_deel", reference(), seed=1)
    with pytest.raises(InvalidInputError, match="leave it out"):
        policy_named("oracle", world_named("habit"), seed=1)
    with pytest.raises(InvalidInputError, match="at least one"):
        compare(reference(), [], n_subjects=10, seeds=(1,))
