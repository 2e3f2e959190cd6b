"""Cells are lived once, wherever, and reported as they are."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.simulation.report import write_page
from engine.simulation.sweep import run_cells, run_on_ray
from policies.errors import InvalidInputError
from simulator.experiments import Cell, plan, read_lives, summarise


def _cells() -> list[Cell]:
    return plan(
        "retention-tabular", ["greedy", "planned"], n_subjects=300, visit_days=5, seeds=(1, 2), settings=(0.0, 0.9)
    )


def test_a_sweep_begun_again_lives_only_what_is_left(tmp_path: Path) -> None:
    """After one file is lost only its cell is lived again, to the same rows; the others are not touched."""
    cells = _cells()
    assert run_cells(cells, tmp_path) == len(cells) == 8
    lost = cells[3].path(tmp_path)
    before, others = (
        pq.read_table(lost),
        {c.path(tmp_path): c.path(tmp_path).stat().st_mtime_ns for c in cells if c != cells[3]},
    )
    lost.unlink()
    seen: list[tuple[int, int]] = []
    assert run_cells(cells, tmp_path, on_done=lambda done, total: seen.append((done, total))) == 1
    assert seen == [(1, 1)]
    assert pq.read_table(lost).equals(before)
    assert {path: path.stat().st_mtime_ns for path in others} == others


@pytest.mark.slow
def test_the_page_shows_what_the_summary_says(tmp_path: Path) -> None:
    """The report has a section a setting and one over them; its twin holds the means of the summary, marked as simulation."""
    cells = _cells()
    run_cells(cells, tmp_path)
    lives = read_lives(cells, tmp_path)
    told = summarise(cells, lives)
    page = write_page(cells, lives, told, tmp_path)
    twin = json.loads(page.with_suffix(".json").read_text())
    assert [s["title"] for s in twin["sections"]][:2] == [
        "Over dependence on discounts",
        "At dependence on discounts 0",
    ]
    assert all(s["in_simulation"] for s in twin["sections"])
    text = page.read_text()
    assert "exact optimum" in text
    assert "Regret" in text
    table = twin["sections"][1]["blocks"][0]
    assert table["rows"][0]["kept_30d"]["estimate"] == told["settings"][0]["policies"][0]["kept_30d"]["mean"]


@pytest.mark.rllib
def test_ray_lives_the_same_lives(tmp_path: Path) -> None:
    """Cells lived by Ray's workers are those lived here, row by row."""
    cells = _cells()[:3]
    assert run_on_ray(cells, tmp_path / "ray") == 3
    run_cells(cells, tmp_path / "here")
    for cell in cells:
        assert pq.read_table(cell.path(tmp_path / "ray")).equals(pq.read_table(cell.path(tmp_path / "here")))
    assert run_on_ray(cells, tmp_path / "ray") == 0


@pytest.mark.rllib
def test_an_address_where_nobody_listens_is_named(tmp_path: Path) -> None:
    """A cluster that is not there is refused at once, with what to give instead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(InvalidInputError, match=rf"127\.0\.0\.1:{port}.*ray start --head"):
        run_on_ray(_cells()[:1], tmp_path, address=f"127.0.0.1:{port}")
