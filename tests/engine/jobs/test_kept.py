"""Results of long work: whole or not at all, of one thing, never made twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.jobs.kept import Kept, whole
from policies.errors import InvalidInputError


def test_a_finished_result_is_not_made_again(tmp_path: Path) -> None:
    """A run that was cut off goes on with the first result that is missing."""
    ran: list[int] = []

    def job(i: int) -> dict[str, Any]:
        if i == 2 and len(ran) == 2:
            ran.append(-1)
            raise KeyboardInterrupt
        ran.append(i)
        return {"i": i, "pair": (i, i)}

    jobs = [(f"world {i}/x", lambda i=i: job(i)) for i in range(3)]
    done: list[tuple[int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        Kept(tmp_path, of={"seed": 1}).all_of(jobs)
    found = Kept(tmp_path, of={"seed": 1}).all_of(jobs, on_done=lambda *d: done.append(d))
    assert found == [{"i": i, "pair": [i, i]} for i in range(3)]
    assert ran == [0, 1, -1, 2]
    assert done == [(1, 3), (2, 3), (3, 3)]


def test_a_folder_is_of_one_thing(tmp_path: Path) -> None:
    """What was begun with other data or options is refused by their names; the same in plain values is the same."""
    Kept(tmp_path, of={"seed": 1, "ignore": ("a",), "data": "x"}).put("one", {"v": 1.5})
    assert Kept(tmp_path, of={"data": "x", "ignore": ["a"], "seed": 1}).get("one") == {"v": 1.5}
    with pytest.raises(InvalidInputError, match="was begun with another data, seed"):
        Kept(tmp_path, of={"seed": 2, "ignore": ["a"]})


def test_a_file_that_failed_half_way_is_not_there(tmp_path: Path) -> None:
    """Until the block is over the old content stands."""
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole(path) as scratch:
        scratch.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    with whole(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
