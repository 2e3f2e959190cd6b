"""Steps: done once, gone on with, done again when an input moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.jobs.steps import Steps


def test_a_step_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """A step that fails leaves what was there before; one that is done is done again only for other inputs."""
    steps = Steps(tmp_path)

    def make(text: str) -> None:
        steps.run("one", {"x": text}, lambda out: _say(out, text))

    make("a")
    make("a")
    assert (steps.done, steps.skipped) == (["one"], ["one"])

    def fails(out: Path) -> None:
        (out / "file").write_text("half")
        raise ValueError("cut off")

    with pytest.raises(ValueError, match="cut off"):
        steps.run("one", {"x": "b"}, fails)
    assert (tmp_path / "one" / "file").read_text() == "a"
    make("b")
    assert (tmp_path / "one" / "file").read_text() == "b"


def _say(out: Path, text: str) -> None:
    (out / "file").write_text(text)
