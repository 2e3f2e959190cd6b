"""How a build takes the place of the one before, without Spark."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.sequences import incremental
from engine.sequences.incremental import shape_of
from engine.sequences.publishing import alone, begin, publish, take_files
from engine.sources.description import load_source
from policies.errors import InvalidInputError


@pytest.mark.parametrize("is_copy", [False, True])
def test_a_folder_of_an_earlier_release_is_taken_over(tmp_path: Path, is_copy: bool) -> None:
    """A plain folder of points and a plain manifest, also where a copy has left one more build, are read until the next build is whole."""
    if is_copy:
        (tmp_path / ".points-0" / "_state").mkdir(parents=True)
    old = tmp_path / "points"
    old.mkdir()
    pq.write_table(pa.table({"x": [1]}), old / "part-0.parquet")
    (tmp_path / "manifest.json").write_text('{"source": "old"}')
    staged = begin(tmp_path)
    assert pq.read_table(old)["x"].to_pylist() == [1]
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"source": "old"}
    (staged / "_parts").mkdir()
    pq.write_table(pa.table({"x": [2]}), staged / "_parts" / "part-0.parquet")
    take_files(staged / "_parts", into=staged)
    publish(staged, out=tmp_path, manifest={"source": "new"})
    assert pq.read_table(old)["x"].to_pylist() == [2]
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"source": "new"}
    assert sorted(each.name for each in tmp_path.iterdir()) == [".points-0", staged.name, "manifest.json", "points"]


def test_a_build_that_died_while_taking_over_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the renaming of the plain folder and its link, the only build is there after the next one begins."""
    (tmp_path / "points").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "points" / "part-0.parquet")
    (tmp_path / "manifest.json").write_text('{"source": "old"}')

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "symlink_to", die)
    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "points").exists()
    begin(tmp_path)
    assert pq.read_table(tmp_path / "points")["x"].to_pylist() == [1]
    assert json.loads((tmp_path / "manifest.json").read_text()) == {"source": "old"}


def test_the_build_before_stays_until_the_next_one_begins(tmp_path: Path) -> None:
    """A reader that has followed the link keeps its files over a publication; one former build is kept, not two."""
    builds = []
    for n in range(3):
        builds.append(begin(tmp_path))
        assert not any(build.exists() for build in builds[:-2])
        publish(builds[-1], out=tmp_path, manifest={"n": n})
        assert all(build.is_dir() for build in builds[-2:])
    assert sorted(each.name for each in tmp_path.glob(".points-*")) == [build.name for build in builds[-2:]]


def test_a_second_build_into_a_folder_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    """Of two builds with the same folder, the second is told so in one sentence and touches nothing."""
    out = tmp_path / "out"
    with alone(out):
        message = f"another build is running in {out}; wait until it has ended, or build into another folder"
        with pytest.raises(InvalidInputError, match=re.escape(message)), alone(out):
            pass
    with alone(out):
        assert begin(out).is_dir()


def test_rows_of_another_version_of_the_code_are_not_built_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shape of rows is another one as soon as the code makes other rows of the same input."""
    source = load_source(Path(__file__).parents[3] / "examples/sources/complete_journey.toml")
    shapes = [shape_of(source, {}, columns={})]
    monkeypatch.setattr(incremental, "ROWS_VERSION", incremental.ROWS_VERSION + 1)
    shapes += [shape_of(source, {}, columns={}), shape_of(source, {}, columns={})]
    assert shapes[0] != shapes[1] == shapes[2]
