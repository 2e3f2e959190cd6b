"""Cells are lived once, wherever, and reported as they are."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A real cluster of two processors in processes of its own: its address, and the environment that its token is in."""
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32),
                   "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # fmt: skip
    with socket.socket() as taken, tempfile.TemporaryDirectory(prefix="ray") as folder:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        taken.close()
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=2",
                   "--include-dashboard=false", "--object-store-memory=200000000", f"--temp-dir={folder}"]  # fmt: skip
        with (tmp_path_factory.mktemp("ray") / "log").open("wb") as log:
            running = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
            try:
                _until(lambda: _answers(port), seconds=90)
                yield f"127.0.0.1:{port}", environment
            finally:
                running.terminate()
                running.wait(timeout=60)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _until(is_so: Callable[[], bool], *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.rllib
@pytest.mark.slow
def test_a_killed_sweep_goes_on_on_a_cluster(cluster: tuple[str, dict[str, str]], tmp_path: Path) -> None:
    """Killed half way on a cluster, the same command lives what is left there, and the cells are those lived here."""
    address, environment = cluster
    asked = [
        "--scenario",
        "retention",
        "--policy",
        "suv_deal",
        "--subjects",
        "2500",
        "--seeds",
        "3",
        "--out",
        str(tmp_path / "there"),
    ]
    command = [sys.executable, "-m", "api.cli", "simulate", *asked, "--ray", address]
    done = tmp_path / "there" / "cells"
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _until(lambda: len(list(done.glob("*.parquet"))) >= 3, seconds=120)
    first.kill()
    first.wait()
    n_before = len(list(done.glob("*.parquet")))
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-2000:]
    told = re.search(r"(\d+) of 36 rollouts were new", again.stderr)
    assert told is not None
    assert 0 < int(told[1]) <= 36 - n_before + 2  # what the killed one had begun may have ended by itself
    assert not list(done.glob("*.part"))
    cells = plan("retention", ["suv_deal", "uniform"], n_subjects=2_500, visit_days=14, seeds=(1, 2, 3))
    run_cells(cells[:2], tmp_path / "here")
    for cell in cells[:2]:
        assert pq.read_table(cell.path(tmp_path / "there")).equals(pq.read_table(cell.path(tmp_path / "here")))
