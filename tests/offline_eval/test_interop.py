"""Logs from files: round trips, the same answer in memory and in parts, and errors that name the column."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offline_eval import Estimate, evaluate
from offline_eval.candidates import Candidate
from offline_eval.censoring import RewardWindow
from offline_eval.interop.arrow import ParquetLog, from_arrow, from_pandas, read_parquet, to_arrow, write_parquet
from offline_eval.interop.columns import Columns
from offline_eval.interop.dsjson import from_dsjson, read_dsjson
from offline_eval.interop.obp import from_action_dist, from_obp
from offline_eval.interop.reading import text
from policies.errors import InvalidInputError, SchemaError, SupportError
from policies.fixed import Uniform
from policies.records import InteractionBatch
from tests.offline_eval.worlds import Better, world


def test_arrow_round_trip_keeps_everything() -> None:
    """A log written to Arrow and read back is the same log."""
    log = world(n=50, n_subjects=20).log
    again = from_arrow(to_arrow(log))
    for name in ("chosen", "propensity", "reward", "probabilities"):
        np.testing.assert_array_equal(getattr(again, name), getattr(log, name))
    np.testing.assert_array_equal(again.table.columns["x"], log.table.columns["x"])
    assert again.table.subjects is not None
    np.testing.assert_array_equal(again.table.subjects, log.table.subjects)


@pytest.mark.parametrize("n_subjects", [1000, None])
@pytest.mark.parametrize("n", [3000, 9000])
def test_streamed_log_gives_the_same_figures(tmp_path: Path, n: int, n_subjects: int | None) -> None:
    """Read in parts, a log gives every figure it gives in memory to 1e-9: clustered errors, resamples and fitted models too.

    The parts cut subjects in two, one holds fewer offers than the others, and 9,000 rows have no group each.
    """
    w = world(n=n, n_subjects=n_subjects)
    log = w.log.take(np.argsort(w.log.chosen[: n // 3], kind="stable").tolist() + list(range(n // 3, n)))
    write_parquet(log, tmp_path / "log.parquet")
    stream = ParquetLog(tmp_path / "log.parquet")

    class InParts:
        offers = stream.offers

        def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
            return stream.chunks(min(n_rows, 500))

    candidates: dict[str, Candidate] = {"better": Better(), "uniform": Uniform()}
    whole = evaluate(read_parquet(tmp_path / "log.parquet"), candidates, explore_share=0.1, n_resamples=50)
    parts = evaluate(InParts(), candidates, explore_share=0.1, n_resamples=50)
    assert whole.headline == parts.headline == "SNDR"
    assert whole.n_units == parts.n_units == (np.unique(np.asarray(log.table.subjects)).size if n_subjects else n)
    for of_whole, of_parts in ((whole.estimates, parts.estimates), (whole.differences, parts.differences)):
        for name, by_estimator in of_whole.items():
            for key, e in by_estimator.items():
                assert _figures(of_parts[name][key]) == pytest.approx(_figures(e), rel=1e-9, abs=1e-12), (name, key)
    assert whole.estimate("uniform").value == pytest.approx(w.truth(w.uniform), abs=0.05)


def test_a_folder_is_not_read_ahead_of_its_reader(tmp_path: Path) -> None:
    """While the first part of forty files is looked at, the others are not in memory; all rows come in the files' order."""
    log = world(n=4000, n_subjects=500).log
    for i in range(40):
        big = to_arrow(log.take(np.zeros(5000, dtype=np.int64) + 100 * i))
        pq.write_table(big, tmp_path / f"part-{i:02d}.parquet", row_group_size=2500)
    before = pa.total_allocated_bytes()
    chunks = ParquetLog(tmp_path).chunks(1000)
    first = next(chunks)
    time.sleep(0.2)  # for those who would read ahead
    assert pa.total_allocated_bytes() - before < 4 * big.nbytes
    rest = [first, *chunks]
    assert sum(map(len, rest)) == 40 * 5000
    np.testing.assert_array_equal(np.concatenate([part.chosen for part in rest])[::5000], log.chosen[::100])


def _figures(e: Estimate) -> list[float]:
    assert e.value is not None
    assert e.standard_error is not None
    bounds = [b for b in (e.bounds, e.bootstrap, e.bias_aware) if b is not None]
    return [e.value, e.standard_error, *(end for b in bounds for end in (b.low, b.high))]


def test_open_reward_windows_are_left_out() -> None:
    """Rows whose reward window is still open are not taken for zero."""
    table = to_arrow(world(n=40).log)
    table = table.append_column("is_matured", pa.array([i % 4 != 0 for i in range(40)]))
    assert len(from_arrow(table)) == 30


@pytest.mark.parametrize("is_weighted", [False, True])
def test_rows_that_contradict_themselves_are_refused(tmp_path: Path, is_weighted: bool) -> None:
    """A reward that came at no time, and a time at which none came, are no zeros; what neither has is one."""
    w = world(n=40)
    at = np.full(40, np.datetime64("2026-03-01", "us"))
    table = to_arrow(replace(w.log, table=replace(w.log.table, at=at), reward=np.full(40, 3.0)))
    window = RewardWindow(5, datetime(2026, 3, 11, tzinfo=UTC))
    dated = pa.array([datetime(2026, 3, 2)] * 38 + [None] * 2, pa.timestamp("us"))
    table = table.append_column("rewarded_at", dated)
    undated = "column 'rewarded_at' is missing in 2 rows, the first at 38, in which 'reward' is not 0"
    with pytest.raises(InvalidInputError, match=undated):
        from_arrow(table, window=window, is_weighted=is_weighted)
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(InvalidInputError, match=undated):
        list(ParquetLog(tmp_path / "log.parquet", window=window).chunks(1 << 16))
    unsaid = _with(table, "reward", pa.array([None, *[3.0] * 37, 0.0, None]))
    with pytest.raises(InvalidInputError, match="column 'reward' is missing in 1 rows in which 'rewarded_at' says"):
        from_arrow(unsaid, window=window, is_weighted=is_weighted)
    whole = _with(table, "reward", pa.array([*[3.0] * 38, 0.0, None]))
    assert from_arrow(whole, window=window, is_weighted=is_weighted).reward.mean() == pytest.approx(3.0 * 38 / 40)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda t: t.drop_columns(["propensity"]), SchemaError, "no column 'propensity'"),
        (lambda t: t.rename_columns(["offr", *t.column_names[1:]]), SchemaError, "did you mean 'offr'"),
        (lambda t: _with(t, "propensity", pa.array([5.0] * 40)), SupportError, "outside (0, 1] in 40 rows"),
        (lambda t: _with(t, "reward", pa.array([None, *[1.0] * 39])), InvalidInputError, "missing in 1 rows"),
        (lambda t: _with(t, "reward", pa.array(["a"] * 40)), SchemaError, "expected numbers"),
        (lambda t: t.slice(0, 0), InvalidInputError, "no rows"),
        (lambda t: _with(t, "probabilities", pa.array([[0.5, 0.5]] * 40)), SchemaError, "another length than 3 in 40 rows"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_by_column(change: object, error: type[Exception], words: str) -> None:
    """A missing, misspelt or badly typed column is an error that names it and counts the rows."""
    table = to_arrow(world(n=40).log)
    with pytest.raises(error, match=re.escape(words)):
        from_arrow(change(table), offers=["offer 0", "offer 1", "offer 2"])  # type: ignore[operator]


def test_unknown_offers_are_refused_by_name() -> None:
    """An offer that is not in the offer set is named."""
    with pytest.raises(InvalidInputError, match="not in the offer set"):
        from_arrow(to_arrow(world(n=40).log), offers=["offer 0", "offer 1"])


def test_columns_can_be_called_otherwise() -> None:
    """A log with other column names is read through Columns."""
    table = to_arrow(world(n=40).log).rename_columns(["item", "click", "p", "x", "probabilities"])
    log = from_arrow(table, columns=Columns(offer="item", reward="click", propensity="p"))
    assert set(log.table.columns) == {"x"}


def test_pandas_frames_are_read() -> None:
    """A pandas frame gives the log its Arrow table gives."""
    pandas = pytest.importorskip("pandas")
    table = to_arrow(world(n=30).log)
    frame = pandas.DataFrame({name: table[name].to_pylist() for name in ("offer", "reward", "propensity", "x")})
    assert len(from_pandas(frame)) == 30


def test_obp_feedback_is_read_and_checked() -> None:
    """bandit_feedback gives a log; several positions, bad propensities and missing keys are refused."""
    feedback = {
        "n_actions": 3, "context": np.ones((4, 2)), "action": np.array([0, 1, 2, 0]),
        "reward": np.array([0, 1, 0, 1]), "pscore": np.array([0.2, 0.3, 0.5, 0.2]), "position": np.array([0, 0, 1, 1]),
    }  # fmt: skip
    log = from_obp(feedback, position=1)
    assert log.chosen.tolist() == [2, 0]
    with pytest.raises(InvalidInputError, match="position="):
        from_obp(feedback)
    with pytest.raises(SupportError):
        from_obp({**feedback, "pscore": np.full(4, 5.0)}, position=0)
    with pytest.raises(SchemaError, match="pscore"):
        from_obp({k: v for k, v in feedback.items() if k != "pscore"})
    assert from_action_dist(np.ones((4, 3, 2)) / 3, position=1).shape == (4, 3)


def test_dsjson_is_read() -> None:
    """Two dsjson events with different offers give one log over the union, rewards being minus the cost."""
    events = [
        {
            "_label_cost": -1.0, "_label_probability": 0.8, "_label_Action": 2, "EventId": "a", "a": [2, 1], "p": [0.8, 0.2],
            "c": {"user": {"age": 30}, "_multi": [{"id": "x"}, {"id": "y", "f": {"price": 3}}]},
        },
        {
            "_label_cost": 0, "EventId": "b", "a": [1, 2], "p": [0.5, 0.5],
            "c": {"user": {"age": 41}, "_multi": [{"id": "y", "f": {"price": 3}}, {"id": "z"}]},
        },
    ]  # fmt: skip
    log = from_dsjson(json.dumps(e) for e in events)
    assert log.table.offers.ids == ("x", "y", "z")
    assert log.reward.tolist() == [1.0, 0.0]
    assert log.propensity.tolist() == [0.8, 0.5]
    assert log.chosen.tolist() == [1, 1]
    assert log.table.eligible.tolist() == [[True, True, False], [False, True, True]]
    assert log.table.columns["user.age"].tolist() == [30.0, 41.0]
    with pytest.raises(InvalidInputError, match="line 1 is not JSON"):
        from_dsjson(["{"])


def test_dsjson_names_features_as_the_rank_door_does_and_reads_only_what_was_shown() -> None:
    """Texts of a list are a set, as in requests; an event nobody saw is skipped, and a thinned-out log is refused, not misread."""
    event = {
        "_label_cost": -1.0, "EventId": "a", "a": [2, 1], "p": [0.8, 0.2],
        "c": {"tags": ["a", "b"], "ages": [3, 5], "_multi": [{"_tag": "x", "j": {"t": ["c"]}}, {"_tag": "y"}]},
    }  # fmt: skip
    unseen = {**event, "EventId": "b", "_skipLearn": True}
    log = from_dsjson(json.dumps(e) for e in (event, unseen))
    assert log.decision_ids is not None
    assert log.decision_ids.tolist() == ["a"]
    assert set(log.table.columns) == {"tags=a", "tags=b", "ages.0", "ages.1"}
    assert log.table.offers.ids == ("x", "y")
    assert dict(log.table.offers[0].features) == {"j.t=c": True}
    with pytest.raises(InvalidInputError, match="line 2 stands for others"):
        from_dsjson(json.dumps(e) for e in (event, {**event, "pdrop": 0.5}))


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


def _line(**changes: object) -> str:
    """One event of Azure Personalizer's log."""
    event = {
        "_label_cost": -1.0, "_label_probability": 0.6, "_label_Action": 2, "_labelIndex": 1, "EventId": "e1",
        "Timestamp": "2026-03-01T12:00:00.0000000Z", "a": [2, 1], "p": [0.6, 0.4],
        "c": {"User": {"age": 40}, "_multi": [{"_tag": "a"}, {"_tag": "b"}]},
    }  # fmt: skip
    return json.dumps({**event, **changes})


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (_line(p=[5.0, 0.4]), "line 2 has 'p' [5.0, 0.4]; expected a probability for each offer"),
        (_line(p=[0.0, 1.0]), "the shown one's first and above 0"),
        (_line(p=[None, 0.4]), "line 2 has 'p' [None, 0.4]"),
        (_line(p=[0.2, 0.2]), "logged probabilities do not sum to 1 in 1 rows, the first at 1"),
        (_line(Timestamp="noon"), "line 2 has Timestamp 'noon'; expected a time"),
        (_line(_label_cost=float("nan")), "reward is not finite in 1 rows"),
        ("[1, 2]", "line 2 holds a list"),
        ("{", "line 2 is not JSON"),
    ],
)
def test_bad_lines_of_dsjson_are_named(line: str, words: str) -> None:
    """The error names the line and the field."""
    with pytest.raises((InvalidInputError, SupportError)) as found:
        from_dsjson([_line(), line])
    assert words in str(found.value)


def test_events_of_dsjson_have_times(tmp_path: Path) -> None:
    """Moments of any time zone become UTC, so that drift and the log's pace are known; bytes that are no text are one sentence."""
    log = from_dsjson([_line(), _line(Timestamp="2026-03-01T12:00:00+02:00")])
    assert log.table.at is not None
    assert log.table.at.tolist() == np.asarray(["2026-03-01T12:00", "2026-03-01T10:00"], "datetime64[us]").tolist()
    (tmp_path / "log.dsjson").write_bytes(_line().encode() + b"\n\xff\xfe")
    with pytest.raises(InvalidInputError, match="no text in UTF-8"):
        read_dsjson(tmp_path / "log.dsjson")
    with pytest.raises(InvalidInputError, match="does not exist"):
        read_dsjson(tmp_path / "none.dsjson")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pscore": [0.2, 5.0, 0.0, float("nan")]}, "['pscore'] is outside (0, 1] in 3 rounds, the first at 1 (5)"),
        ({"action": [0, 1, 2, 3]}, "['action'] is no integer from 0 to 2 in 1 rounds, the first at 3 (3)"),
        ({"action": [0.5, 1, 2, 0]}, "['action'] is no integer from 0 to 2 in 1 rounds, the first at 0 (0.5)"),
        ({"reward": [0, 1, float("inf"), 0]}, "['reward'] is not finite in 1 rounds, the first at 2 (inf)"),
        ({"reward": [0, 1]}, "expected one value a round in each"),
        ({"reward": ["yes"] * 4}, "bandit_feedback['reward'] is no array of numbers"),
    ],
)
def test_bad_feedback_of_obp_is_named_by_its_keys(change: dict[str, object], words: str) -> None:
    """What obp scores without a word is refused under the name it has there."""
    good = {"n_actions": 3, "action": [0, 1, 2, 0], "reward": [0, 1, 0, 1], "pscore": [0.2, 0.3, 0.5, 0.2]}
    assert len(from_obp(good)) == 4
    with pytest.raises((InvalidInputError, SupportError)) as found:
        from_obp({**good, **change})
    assert words in str(found.value)


def test_data_frames_and_what_gives_an_arrow_table_are_read() -> None:
    """Frames of pandas (whatever their index) and Polars, and record batches are logs; a path and a mixed column are one sentence."""
    table = to_arrow(world(n=30, n_subjects=9).log).drop_columns(["probabilities"]).replace_schema_metadata(None)
    whole = from_arrow(table)
    found = [from_arrow(table.combine_chunks().to_batches()[0])]
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({name: table[name].to_pylist() for name in table.column_names}, index=range(100, 130))
    found += [from_pandas(frame), from_arrow(frame.set_index(frame["subject"].astype("category")))]
    polars = pytest.importorskip(
        "polars", reason="polars is not installed; it is a peer of the benchmarks (extra bench)"
    )
    found.append(from_arrow(polars.from_arrow(table)))
    for log in found:
        assert log.table.offers is whole.table.offers
        assert log.table.columns.keys() == whole.table.columns.keys() == {"x"}
        np.testing.assert_array_equal(log.chosen, whole.chosen)
        np.testing.assert_array_equal(log.table.subjects, whole.table.subjects)
    with pytest.raises(SchemaError, match="the log is a str; expected an Arrow table"):
        from_arrow("log.parquet")
    with pytest.raises(SchemaError, match="expected one type in every column"):
        from_pandas(frame.assign(x=[1, "a"] * 15))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_text_is_the_same_by_bytes_and_one_by_one(seed: int) -> None:
    """Empty, short, long and foreign texts, in any number of chunks and cut anywhere, come as pylist has them."""
    rng = np.random.default_rng(seed)
    alphabets = ["ab1-", "abcdefgh", "äß漢x"][: 1 + seed]
    words = ["".join(rng.choice(list(rng.choice(alphabets)), size=rng.integers(0, 12))) for _ in range(300)]
    words[7] = "x" * int(rng.choice([3, 63, 64, 65, 200]))
    chunked = pa.chunked_array([pa.array(words[:120]), pa.array([], pa.string()), pa.array(words[120:])])
    for column in (chunked, chunked.slice(50, 173), chunked.slice(0, 0), pa.chunked_array([pa.array([""] * 3)])):
        found = text(pa.table({"t": column}), "t")
        assert found is not None
        assert found.tolist() == column.to_pylist()
