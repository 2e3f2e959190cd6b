"""The page on the proof runs as its reader would run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.howto import run_page


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path) -> None:
    """The commitment that the command prints is the one that Python finds."""
    root = Path(__file__).parents[3]
    printed = run_page("prove-it.md", tmp_path, {"PYTHONPATH": str(root)})
    assert len(printed[0].strip()) == 64
