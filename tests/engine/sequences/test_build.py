"""From raw events to decision points: point in time, labels, splits, both paths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.models.dataset import SequenceDataset
from engine.models.encoder import SequenceEncoder
from engine.sequences.aggregates import affinity, aggregates
from engine.sequences.build import build, main
from engine.sequences.histories import histories, vocabulary
from engine.sources.description import Affinity, Sequence, load_source
from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.records import Event, SubjectId

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = pytest.mark.spark
START = datetime(2024, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
RAW = tuple[str, datetime, str, str, float, str]
SEQUENCE = Sequence(last_events=5, min_count=1, windows_days=(2, 9))


def _raw(seed: int, *, n_subjects: int = 9) -> tuple[list[RAW], list[tuple[int, str, datetime]]]:
    """Random events and points on a coarse clock, so that many fall on the same instant as a point or a window's edge."""
    rng = np.random.default_rng(seed)
    events: list[RAW] = []
    points: list[tuple[int, str, datetime]] = []
    for s in range(n_subjects):
        for i in range(int(rng.integers(0, 25))):
            at = START + int(rng.integers(0, 60)) * DAY / 2
            kind, item = f"k{rng.integers(0, 3)}", f"i{rng.integers(0, 4)}"
            events.append((f"s{s}", at, kind, item, float(rng.integers(1, 9)), f"{s}-{i}"))
        moments = rng.choice(64, size=int(rng.integers(1, 5)), replace=False)
        points += [(len(points) + j, f"s{s}", START + int(m) * DAY / 2) for j, m in enumerate(moments)]
    return events, points


def _frames(
    spark: SparkSession, events: list[RAW], points: list[tuple[int, str, datetime]]
) -> tuple[DataFrame, DataFrame]:
    schema = "subject string, at timestamp, kind string, item string, value double, id string"
    return spark.createDataFrame(events, schema), spark.createDataFrame(
        points, "point bigint, subject string, as_of timestamp"
    )


WORDS = {"event_type": ["k1", "k0"], "item": ["i0", "i2", "i3"]}


def _oracle(events: list[RAW], points: list[tuple[int, str, datetime]]) -> dict[int, dict[str, Any]]:
    """The history of each point by plain loops over plain lists."""
    ids = {name: {w: i + 1 for i, w in enumerate(words)} for name, words in WORDS.items()}
    out = {}
    for point, subject, as_of in points:
        past = sorted((e for e in events if e[0] == subject and e[1] < as_of), key=lambda e: (e[1], e[5]))
        kept = past[-5:]
        if kept:
            seconds = [int(e[1].timestamp()) for e in kept]
            out[point] = {
                "event_type": [ids["event_type"].get(e[2], 0) for e in kept],
                "item": [ids["item"].get(e[3], 0) for e in kept],
                "gap_s": [0] + [b - a for a, b in pairwise(seconds)],
                "value": [e[4] for e in kept],
                "gap_to_as_of_s": int(as_of.timestamp()) - seconds[-1],
            }
    return out


def _histories(events: DataFrame, points: DataFrame, sequence: Sequence = SEQUENCE) -> dict[int, dict[str, Any]]:
    rows = histories(events, points, words=WORDS, sequence=sequence).collect()
    found = {}
    for row in rows:
        values = row.asDict()
        point = values.pop("point")
        if values["event_type"]:
            found[point] = values
        else:
            assert (values["gap_s"], values["gap_to_as_of_s"]) == ([], None)
    return found


@pytest.mark.parametrize("heavy_events", [10_000, 10, 0], ids=["ordinary", "mixed", "bounded"])
def test_histories_equal_plain_loops_on_every_path(spark: SparkSession, heavy_events: int) -> None:
    """The ordinary path, the bounded path for heavy subjects and their mixture all give what plain loops give."""
    events, points = _raw(3)
    sequence = Sequence(last_events=5, heavy_events=heavy_events)
    assert _histories(*_frames(spark, events, points), sequence) == _oracle(events, points)


def test_the_future_cannot_be_seen(spark: SparkSession) -> None:
    """Events planted at and after every decision change neither its history nor its aggregates."""
    events, points = _raw(4)
    last = {subject: max(p[2] for p in points if p[1] == subject) for _, subject, _ in points}
    kept_points = [p for p in points if p[2] == last[p[1]]]
    planted = [
        (s, at + lag, "k1", "i0", 1e6, f"future-{lag}")
        for s, at in last.items()
        for lag in (0 * DAY, timedelta(microseconds=1), DAY)
    ]
    before: dict[int, Any] = {}
    after: dict[int, Any] = {}
    for rows, result in ((events, before), ([*events, *planted], after)):
        frame, at = _frames(spark, rows, kept_points)
        result.update(_histories(frame, at))
        for row in aggregates(frame, at, kinds=["k0", "k1"], sequence=SEQUENCE).collect():
            result.setdefault(-1 - row["point"], row.asDict())
    past = {p[0] for p in kept_points if any(e[0] == p[1] and e[1] < p[2] for e in events)}
    assert {k for k in before if k >= 0} == past
    assert before == after


def test_aggregates_equal_plain_loops(spark: SparkSession) -> None:
    """Counts, amounts, recency and trailing windows are those of plain loops over events strictly before the decision."""
    events, points = _raw(5)
    rows = aggregates(*_frames(spark, events, points), kinds=["k2"], sequence=SEQUENCE).collect()
    assert len(rows) == len(points)
    for row in rows:
        _, subject, as_of = next(p for p in points if p[0] == row["point"])
        past = sorted(e for e in events if e[0] == subject and e[1] < as_of)
        two_days = [e for e in past if e[1] >= as_of - 2 * DAY]
        own = [e for e in past if e[2] == "k2"]
        assert row["agg_n"] == len(past)
        assert row["agg_amount"] == pytest.approx(sum(e[4] for e in past))
        assert row["agg_n_2d"] == len(two_days)
        assert row["agg_amount_2d"] == pytest.approx(sum(e[4] for e in two_days), abs=1e-9)
        assert row["agg_n_k2"] == len(own)
        assert row["agg_n_k2_9d"] == sum(e[1] >= as_of - 9 * DAY for e in own)
        assert row["agg_days_since_last"] == (pytest.approx((as_of - past[-1][1]) / DAY) if past else None)
        assert row["agg_days_since_k2"] == (pytest.approx((as_of - own[-1][1]) / DAY) if own else None)
        gap = pytest.approx((past[-1][1] - past[0][1]) / DAY / (len(past) - 1)) if len(past) > 1 else None
        assert row["agg_gap_days_mean"] == gap


def test_affinity_equals_plain_loops(spark: SparkSession) -> None:
    """What a subject did before with the offer's own items, strictly before the decision, is that of plain loops."""
    events, points = _raw(8)
    frame, at = _frames(spark, events, points)
    frame.createOrReplaceTempView("own_lines")
    items = {("o0", "i0"), ("o0", "i1"), ("o1", "i3")}
    spark.createDataFrame(sorted(items), "offer string, item string").createOrReplaceTempView("own_items")
    spec = Affinity(
        name="own", lines="own_lines", subject="subject", at="at", item="item", items="own_items", items_offer="offer",
        items_item="item", value="value", flags={"big": "value > 5"},
    )  # fmt: skip
    offered = at.selectExpr("*", "concat('o', point % 3) AS offer")
    rows = {r["point"]: r.asDict() for r in affinity(spark, offered, spec, windows=(9,)).collect()}
    for point, subject, as_of in points:
        past = [e for e in events if e[0] == subject and e[1] < as_of]
        own = [e for e in past if (f"o{point % 3}", e[3]) in items]
        row = rows.pop(point, None)
        assert (row is None) == (not past)
        if row is not None:
            assert row["agg_own_n"] == len(own)
            assert row["agg_own_share"] == pytest.approx(len(own) / len(past))
            assert row["agg_own_amount"] == sum(e[4] for e in own)
            assert row["agg_own_n_9d"] == sum(e[1] >= as_of - 9 * DAY for e in own)
            assert row["agg_own_n_big"] == sum(e[4] > 5 for e in own)
            since = min(((as_of - e[1]) / DAY for e in own), default=None)
            assert row["agg_own_days_since"] == (since if since is None else pytest.approx(since))
    assert not rows


def test_rare_words_are_unknown(spark: SparkSession) -> None:
    """The vocabulary holds words seen often enough, the most frequent first, ties by name, and no blank."""
    words = ["b"] * 3 + ["a"] * 3 + ["c"] * 4 + ["d"] + [""] * 9
    frame = spark.createDataFrame([(w,) for w in words], "item string")
    assert vocabulary(frame, "item", min_count=2, max_words=10) == ["c", "a", "b"]
    assert vocabulary(frame, "item", min_count=1, max_words=2) == ["c", "a"]


DESCRIPTION = """
name = "letters"
title = "A newsletter: opened within a week"
time_zone = "Europe/Paris"
observed_until = 2024-03-01T00:00:00Z

[tables.clicks]
path = "clicks.json"
format = "json"
columns = { visitor = "string", page = "string", at = "timestamp" }
required = ["visitor", "at"]

[tables.logins]
path = "logins.csv"
format = "csv"
columns = { visitor = "string", customer = "string" }

[tables.customers]
path = "customers.csv"
format = "csv"
columns = { customer = "string", plan = "string", since = "timestamp" }

[tables.letters]
path = "letters.parquet"
format = "parquet"
columns = { customer = "string", letter = "string", sent = "timestamp" }
unique = ["customer", "letter"]

[tables.opened]
path = "opened.parquet"
format = "parquet"
columns = { customer = "string", letter = "string", at = "timestamp" }

[identity]
table = "logins"
left = "visitor"
right = "customer"

[[events]]
table = "clicks"
subject = "visitor"
at = "at"
kind = "'click'"
item = "page"

[customer]
table = "customers"
key = "customer"
columns = { plan = "plan" }
known_from = "since"

[points]
table = "letters"
subject = "customer"
offer = "letter"
as_of = "sent"

[label]
name = "opened within a week"
table = "opened"
subject = "customer"
at = "at"
offer = "letter"
window_days = 7

[[split]]
end = 2024-02-01
shares = { train = 0.5, validation = 0.25, calibration = 0.25 }

[[split]]
start = 2024-02-01
shares = { test = 1.0 }

[sequence]
last_events = 4
min_count = 1
windows_days = [7]
"""


def _utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def letters(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small source with every kind of table, built once: (description, folder of the result)."""
    folder = tmp_path_factory.mktemp("letters")
    clicks = [
        {"visitor": "v1", "page": "home", "at": "2024-01-05 10:00:00"},  # 09:00 UTC
        {"visitor": "v2", "page": "price", "at": "2024-01-06T10:00:00Z"},  # the same person on another device
        {"visitor": "v1", "page": "price", "at": "2024-01-10T08:00:00Z"},  # the instant of the letter: not before it
        {"visitor": "v3", "page": "late", "at": "2024-02-20T08:00:00Z"},  # its page is first seen in the test period
    ]
    (folder / "clicks.json").write_text("\n".join(map(json.dumps, clicks)))
    (folder / "logins.csv").write_text("visitor,customer\nv1,c1\nv2,c1\nv3,c3\n")
    (folder / "customers.csv").write_text(
        "customer,plan,since\nc1,trial,2023-12-01 00:00:00\nc1,paid,2024-02-10 00:00:00\nc2,,2023-12-01 00:00:00\n"
    )
    sent = [
        ("c1", "jan", "2024-01-10T08:00:00"),
        ("c2", "jan", "2024-01-10T08:00:00"),
        ("c1", "feb", "2024-02-15T08:00:00"),
        ("c3", "feb", "2024-02-21T08:00:00"),
        ("c3", "end", "2024-02-26T08:00:00"),  # its week ends after the data
    ]
    opened = [
        ("c1", "jan", "2024-01-17T07:59:59"),  # the last second of the week
        ("c2", "jan", "2024-01-17T08:00:00"),  # one too late
        ("c1", "feb", "2024-02-15T08:00:00"),
        ("c3", "jan", "2024-02-22T08:00:00"),  # of another letter
        ("c3", "end", "2024-02-26T09:00:00"),  # already opened, but the window is not over
    ]
    for name, rows, column in (("letters", sent, "sent"), ("opened", opened, "at")):
        c, letter, at = zip(*rows, strict=True)
        pq.write_table(
            pa.table(
                {"customer": c, "letter": letter, column: pa.array([_utc(t) for t in at], pa.timestamp("us", "UTC"))}
            ),
            folder / f"{name}.parquet",
        )
    description = folder / "letters.toml"
    description.write_text(DESCRIPTION)
    out = folder / "out"
    build(spark, load_source(description), out=out)
    return description, out


def _points(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["subject"], row["offer"]): row for row in pq.read_table(out / "points").to_pylist()}


def test_labels_know_what_is_over_and_what_is_not(letters: tuple[Path, Path]) -> None:
    """Windows hold their last second and not the next one; a window past the data's end is unknown, even if something came already."""
    points = _points(letters[1])
    found = {key: (row["label"], row["is_matured"]) for key, row in points.items()}
    assert found == {
        ("c1", "jan"): (1.0, True),
        ("c2", "jan"): (0.0, True),
        ("c1", "feb"): (1.0, True),
        ("c3", "feb"): (0.0, True),
        ("c3", "end"): (None, False),
    }
    assert points["c3", "end"]["label_observed_until"] < datetime(2024, 3, 1, tzinfo=UTC)


def test_devices_of_one_person_share_a_history(letters: tuple[Path, Path]) -> None:
    """Clicks of both devices are in the customer's history, in order, and the click at the letter's instant is not."""
    row = _points(letters[1])["c1", "jan"]
    manifest = json.loads((letters[1] / "manifest.json").read_text())
    pages = [manifest["vocabularies"]["item"][i - 1] for i in row["item"]]
    assert pages == ["home", "price"]
    assert row["gap_s"] == [0, 25 * 3600]
    assert row["gap_to_as_of_s"] == 4 * 86_400 - 2 * 3600


def test_words_of_the_test_period_are_unknown(letters: tuple[Path, Path]) -> None:
    """A page first seen after the test period began has id 0, as it would in service."""
    assert _points(letters[1])["c3", "end"]["item"] == [0]


def test_a_customer_is_described_as_of_the_decision(letters: tuple[Path, Path]) -> None:
    """The plan is the one known before the letter was sent, and nothing where nothing was known."""
    points = _points(letters[1])
    plans = {key: row["customer_plan"] for key, row in points.items()}
    assert plans[("c1", "jan")] == "trial"
    assert plans[("c1", "feb")] == "paid"
    assert plans[("c2", "jan")] is None
    assert plans[("c3", "feb")] is None


def test_the_result_is_what_models_read(letters: tuple[Path, Path]) -> None:
    """The folder loads as a dataset, points without events included, and only matured rows are ever in a part."""
    dataset = SequenceDataset.read(letters[1])
    assert len(dataset) == 5
    assert sorted(dataset.lengths.tolist()) == [0, 1, 1, 2, 3]
    assert len(dataset.part("test")) == 2
    assert set(dataset.split[dataset.as_of < np.datetime64("2024-02-01")]) <= {"train", "validation", "calibration"}


def test_a_second_run_writes_the_same(spark: SparkSession, letters: tuple[Path, Path], tmp_path: Path) -> None:
    """Building again from the same files gives equal rows in equal order."""
    build(spark, load_source(letters[0]), out=tmp_path / "again")
    assert pq.read_table(tmp_path / "again" / "points").equals(pq.read_table(letters[1] / "points"))


@pytest.mark.slow
def test_executors_of_their_own_write_the_same(letters: tuple[Path, Path], tmp_path: Path) -> None:
    """A master and two executors, each a process that knows only what it is sent, give the rows of a local run."""
    out = tmp_path / "spread"
    command = [sys.executable, "-m", "api.cli", "sequences", "build", "--source", str(letters[0]), "--out", str(out)]
    cluster = {
        **os.environ,
        "SPARK_MASTER": "local-cluster[2,1,1024]",
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_WORKER_DIR": str(tmp_path),
    }
    done = subprocess.run(command, env=cluster, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert _points(out) == _points(letters[1])


def test_points_that_appear_twice_are_refused(spark: SparkSession, letters: tuple[Path, Path], tmp_path: Path) -> None:
    """Two rows of one subject, offer and time would be counted twice: the run stops and says how to mend it."""
    text = DESCRIPTION.replace('table = "letters"', 'table = "doubled"').replace(
        "[identity]", '[views]\ndoubled = "SELECT * FROM letters UNION ALL SELECT * FROM letters"\n[identity]'
    )
    (letters[0].parent / "doubled.toml").write_text(text)
    with pytest.raises(InvalidInputError, match="5 decision points of the same subject, offer and time"):
        build(spark, load_source(letters[0].parent / "doubled.toml"), out=tmp_path)


def test_bad_input_is_exit_code_2_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The job says what is wrong on stderr, without a traceback, before it starts Spark."""
    (tmp_path / "bad.toml").write_text(DESCRIPTION.replace("window_days = 7", ""))
    assert main(["--source", str(tmp_path / "bad.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "the label has no window" in capsys.readouterr().err


def test_sessions_end_where_the_pause_is_too_long(spark: SparkSession) -> None:
    """A pause of exactly the gap stays inside a session, one microsecond more starts the next; subjects never share one."""
    from engine.sequences.sessions import sessions

    times: dict[str, list[float]] = {"a": [0, 30, 60], "b": [30 + 1e-6 / 60, 0], "c": [5]}
    rows = [
        (s, START + timedelta(minutes=m), float(i + 1)) for s, minutes in times.items() for i, m in enumerate(minutes)
    ]
    frame = spark.createDataFrame(rows, "subject string, at timestamp, value double")
    found = sorted(
        (r["subject"], r["n_events"], r["amount"], (r["ended_at"] - r["started_at"]).total_seconds())
        for r in sessions(frame).collect()
    )
    assert found == [("a", 3, 6.0, 3600.0), ("b", 1, 1.0, 0.0), ("b", 1, 2.0, 0.0), ("c", 1, 1.0, 0.0)]


def test_spark_and_the_online_builder_give_equal_tensors(spark: SparkSession) -> None:
    """At every decision point the histories built in Spark equal those that service builds from the same raw events."""
    encoder = _online_encoder()
    events, points = _raw(6)
    offline = _histories(*_frames(spark, events, points))
    raw = [Event(id=e[5], subject=SubjectId(e[0]), kind=e[2], item=e[3], value=e[4], at=e[1]) for e in events]
    for point, subject, as_of in points:
        online = encoder.sequences([e for e in raw if e.subject == subject], as_of=as_of)
        row = offline.get(point, {name: [] for name in online})
        for name, values in online.items():
            assert values.tolist() == row[name], (point, name)


def _online_encoder() -> SequenceEncoder:
    """An encoder artefact as service loads it, with the vocabulary of these tests and a graph that passes its input through."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "through",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    manifest = {"width": 1, "last_events": 5, "n_event_types": 3, "n_items": 4, "vocabularies": WORDS}
    return SequenceEncoder(
        Artifact("sequence_encoder", manifest=manifest, blobs={"encoder.onnx": model, "step.onnx": model})
    )


def test_the_example_of_the_how_to_runs(spark: SparkSession, tmp_path: Path) -> None:
    """The description printed in the how-to builds decision points from a file like the one it speaks of."""
    text = (Path(__file__).parents[3] / "docs" / "howto" / "add-a-source.md").read_text()
    description = text.split("```toml\n")[1].split("```")[0]
    (tmp_path / "shop.toml").write_text(description)
    visits = [
        {"visitor": f"v{i % 5}", "page": "/", "spent": 1.5, "at": (START + i * DAY).isoformat()} for i in range(150)
    ]
    (tmp_path / "visits.json").write_text("\n".join(map(json.dumps, visits)))
    manifest = build(spark, load_source(tmp_path / "shop.toml"), out=tmp_path / "out")
    # Everyone comes every fifth day, until the data end on 29 May.
    assert sum(part["matured"] for part in manifest["splits"].values()) == 15
    assert sum(part["positive"] for part in manifest["splits"].values()) == 15
