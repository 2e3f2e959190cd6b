"""Decision points in memory."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.models.dataset import SEQUENCE_COLUMNS, SequenceDataset, point_files
from engine.sequences.publishing import begin, next_name, publish
from policies.errors import InvalidInputError, SchemaError
from tests.engine.models.tables import decision_points

DATA = decision_points(37, seed=3)


def test_arrow_round_trip_keeps_every_value() -> None:
    """What is written as decision points is read back the same, missing values and empty sequences included."""
    back = SequenceDataset.from_arrow(DATA.to_arrow(), manifest=DATA.manifest)
    for name in (*SEQUENCE_COLUMNS, "offsets", "gap_to_as_of_s", "is_matured", "subject", "offer", "split", "as_of"):
        np.testing.assert_array_equal(getattr(back, name), getattr(DATA, name))
    np.testing.assert_array_equal(back.label, DATA.label)
    for name, column in DATA.columns.items():
        np.testing.assert_array_equal(back.columns[name], column)


@given(rows=st.lists(st.integers(0, len(DATA) - 1), max_size=9))
@settings(max_examples=40, deadline=None)
def test_taken_rows_keep_their_events(rows: list[int]) -> None:
    """Any choice of rows, in any order and twice, holds exactly the events of those rows."""
    taken = DATA.take(np.asarray(rows, dtype=np.int64))
    assert len(taken) == len(rows)
    for position, row in enumerate(rows):
        mine = slice(taken.offsets[position], taken.offsets[position + 1])
        theirs = slice(DATA.offsets[row], DATA.offsets[row + 1])
        for name in SEQUENCE_COLUMNS:
            np.testing.assert_array_equal(getattr(taken, name)[mine], getattr(DATA, name)[theirs])
        assert taken.subject[position] == DATA.subject[row]


def test_parts_never_hold_rows_that_are_not_matured() -> None:
    """A row whose window is open is neither trained on nor judged by, and its label stays unknown."""
    assert (~DATA.is_matured).any()
    assert np.isnan(DATA.label[~DATA.is_matured]).all()
    parts = [DATA.part(split) for split in ("train", "validation", "calibration", "test")]
    assert all(part.is_matured.all() and np.isfinite(part.label).all() for part in parts)
    assert sum(map(len, parts)) == DATA.is_matured.sum()


def test_label_of_an_open_window_is_forgotten_when_read() -> None:
    """A label written beside ``is_matured`` false is not believed."""
    table = DATA.to_arrow().set_column(
        DATA.to_arrow().column_names.index("label"), "label", pa.array(np.zeros(len(DATA)))
    )
    assert np.isnan(SequenceDataset.from_arrow(table).label[~DATA.is_matured]).all()


def test_padding_keeps_the_last_events_oldest_first() -> None:
    """A cut row keeps its newest events, in order, followed by zeros."""
    rows = np.flatnonzero(DATA.lengths > 6)[:2]
    rows = np.append(rows, np.flatnonzero(DATA.lengths == 0)[:1])
    padded = DATA.padded(rows, length=5)
    assert padded["lengths"].tolist() == [5, 5, 0]
    end = DATA.offsets[rows[0] + 1]
    np.testing.assert_array_equal(padded["gap_s"][0], DATA.gap_s[end - 5 : end])
    assert not padded["event_type"][2].any()


def test_reads_the_points_folder_and_its_manifest(tmp_path: Path) -> None:
    """Raw files beside the points are not mistaken for decision points."""
    (tmp_path / "points").mkdir()
    (tmp_path / "raw").mkdir()
    pq.write_table(DATA.to_arrow(), tmp_path / "points" / "a.parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "raw" / "b.parquet")
    (tmp_path / "manifest.json").write_text(json.dumps({"source": "here"}))
    back = SequenceDataset.read(tmp_path)
    assert len(back) == len(DATA)
    assert back.manifest["source"] == "here"


def test_points_behind_a_link_are_found_and_what_builds_keep_for_themselves_is_not(tmp_path: Path) -> None:
    """Builds link ``points`` to a folder of their own: its numbered files are the points, in their order, and nothing below or beside it is."""
    inner = tmp_path / ".points-3"
    (inner / "_state").mkdir(parents=True)
    (tmp_path / "rejected").mkdir()
    for name in ("00001", "00000", "_state/s"):
        (inner / f"{name}.parquet").touch()
    (tmp_path / "rejected" / "r.parquet").touch()
    (tmp_path / "points").symlink_to(inner.name)
    assert [file.name for file in point_files(tmp_path)] == ["00000.parquet", "00001.parquet"]


def test_a_reader_sees_one_build_while_another_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build published between the opening of two files gives neither its rows nor its manifest to who has begun to read."""
    for build, rows in (("old", DATA.take(np.arange(20))), ("new", DATA.take(np.arange(20, 37)))):
        staged = begin(tmp_path)
        for part in range(2):
            pq.write_table(rows.take(np.arange(len(rows)) % 2 == part).to_arrow(), staged / next_name(staged))
        if build == "old":
            publish(staged, out=tmp_path, manifest={"build": build})
    opened = []

    def open_late(path: Path) -> pq.ParquetFile:
        opened.append(path)
        if len(opened) == 2:
            publish(staged, out=tmp_path, manifest={"build": "new"})
        return parquet_file(path)

    parquet_file = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", open_late)
    back = SequenceDataset.read(tmp_path)
    assert (len(back), back.manifest["build"]) == (20, "old")
    assert set(back.subject) == set(DATA.subject[:20])
    again = SequenceDataset.read(tmp_path)
    assert (len(again), again.manifest["build"]) == (17, "new")
    former = SequenceDataset.read(opened[0].parent)
    assert (len(former), former.manifest["build"]) == (20, "old")


def test_missing_columns_are_named(tmp_path: Path) -> None:
    """A table without a column says which, and what to run."""
    with pytest.raises(SchemaError, match=re.escape("lack the column(s) gap_s, label")):
        SequenceDataset.from_arrow(DATA.to_arrow().drop_columns(["gap_s", "label"]))
    with pytest.raises(SchemaError, match="holds no Parquet files"):
        SequenceDataset.read(tmp_path)
    with pytest.raises(InvalidInputError, match="empty"):
        SequenceDataset.from_arrow(DATA.to_arrow().slice(0, 0))


def test_lists_of_unequal_length_are_refused() -> None:
    """Parallel lists that are not parallel name the row."""
    table = DATA.to_arrow()
    shorter = DATA.take(np.arange(len(DATA)))
    lists = shorter.to_arrow()["item"].to_pylist()
    lists[4] = [*lists[4], 1]
    table = table.set_column(table.column_names.index("item"), "item", pa.array(lists, pa.list_(pa.int32())))
    with pytest.raises(SchemaError, match="in row 4"):
        SequenceDataset.from_arrow(table)


def test_unknown_split_is_refused() -> None:
    """A split nobody knows would silently be left out."""
    table = DATA.to_arrow()
    table = table.set_column(table.column_names.index("split"), "split", pa.array(["holdout"] * len(DATA)))
    with pytest.raises(SchemaError, match="'holdout'"):
        SequenceDataset.from_arrow(table)
