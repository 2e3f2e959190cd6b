"""Builds over an earlier build: what is touched, what stays, and that nothing else differs from building everything."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.models.dataset import SequenceDataset
from engine.sequences.build import build
from engine.sequences.incremental import fingerprints
from engine.sequences.publishing import begin
from engine.sources.description import Source, load_source

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark
DAY = timedelta(days=1)
START = datetime(2024, 1, 1, 12, tzinfo=UTC)
DESCRIPTION = """
name = "shop"
observed_until = {until}T00:00:00Z

[tables.clicks]
path = "clicks.json"
format = "json"
columns = {{ visitor = "string", page = "string", at = "timestamp" }}
required = ["visitor", "at"]
unique = ["*"]

[tables.logins]
path = "logins.csv"
format = "csv"
columns = {{ visitor = "string", customer = "string" }}

[tables.customers]
path = "customers.csv"
format = "csv"
columns = {{ customer = "string", plan = "string", since = "timestamp" }}

[tables.letters]
path = "letters.parquet"
format = "parquet"
columns = {{ customer = "string", letter = "string", sent = "timestamp" }}

[tables.own]
path = "own.csv"
format = "csv"
columns = {{ letter = "string", page = "string" }}

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
columns = {{ plan = "plan" }}
known_from = "since"

[[affinity]]
name = "own"
lines = "clicks"
subject = "visitor"
at = "at"
item = "page"
items = "own"
items_offer = "letter"
items_item = "page"

[points]
table = "letters"
subject = "customer"
offer = "letter"
as_of = "sent"

[label]
name = "came within a week"
kinds = ["click"]
window_days = 7

[[split]]
end = 2024-02-01
shares = {{ train = 0.5, validation = 0.25, calibration = 0.25 }}

[[split]]
start = 2024-02-01
shares = {{ test = 1.0 }}

[sequence]
last_events = 4
min_count = 1
windows_days = [7]
"""

Click = tuple[str, str, datetime]
PEOPLE = [f"c{i}" for i in range(8)]
CLICKS: list[Click] = [(c, f"p{i % 3}", START + (3 * i + j) * DAY) for i, c in enumerate(PEOPLE) for j in (0, 9, 20)]
CLICKS += [("v9", "p1", START + 2 * DAY)]
LETTERS = [(c, "jan", START + 15 * DAY + timedelta(hours=i)) for i, c in enumerate(PEOPLE)]
LETTERS += [(c, "feb", START + 34 * DAY + timedelta(hours=i)) for i, c in enumerate(PEOPLE)]
LETTERS += [("c2", "mar", START + 58 * DAY)]  # its week is not over when the data end


def _write(
    folder: Path,
    *,
    until: str = "2024-03-01",
    clicks: list[Click] = CLICKS,
    letters: list[Click] = LETTERS,
    logins: str = "v0,c0",
    plans: str = "c1,trial,2023-12-01 00:00:00",
    own: str = "jan,p0\nfeb,p1",
) -> Source:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps({"visitor": v, "page": p, "at": at.isoformat()}) for v, p, at in clicks]
    (folder / "clicks.json").write_text("\n".join(lines))
    (folder / "logins.csv").write_text(f"visitor,customer\n{logins}\n")
    (folder / "customers.csv").write_text(f"customer,plan,since\n{plans}\n")
    (folder / "own.csv").write_text(f"letter,page\n{own}\n")
    c, letter, sent = zip(*letters, strict=True)
    table = pa.table({"customer": c, "letter": letter, "sent": pa.array(sent, pa.timestamp("us", "UTC"))})
    pq.write_table(table, folder / "letters.parquet")
    (folder / "shop.toml").write_text(DESCRIPTION.format(until=until))
    return load_source(folder / "shop.toml")


@pytest.fixture(scope="module")
def small_files() -> Any:
    """Files of three rows, so that a build of a few rows has several."""
    patch = pytest.MonkeyPatch()
    patch.setattr("engine.sequences.build.ROWS_PER_FILE", 3)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def first(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, small_files: None) -> Path:
    """The build of the first day."""
    folder = tmp_path_factory.mktemp("shop")
    build(spark, _write(folder / "raw"), out=folder / "out", incremental=True)
    return folder / "out"


def _copy(out: Path, to: Path) -> Path:
    """An output of its own with the same first build, its links kept."""
    shutil.copytree(out, to, symlinks=True)
    return to


NEW_DAY = START + 67 * DAY
# What comes one after the other, and what the build over the one before then says.
STEPS: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    # The week after c2's last letter is over now, and known to have brought nothing.
    "only time": (
        {"until": "2024-03-08"},
        {"subjects_built": 1, "by_events": 0, "by_points": 1, "rows_written": 1, "rows_removed": 1, "files_written": 1},
    ),
    # Beside what c3 does and is sent: an event of c5 that comes late, and a visitor who turns out to be c6.
    "a day": (
        {
            "until": "2024-03-09",
            "clicks": [*CLICKS, ("c3", "p2", NEW_DAY), ("c5", "p0", START + 3 * DAY)],
            "letters": [*LETTERS, ("c3", "mar", NEW_DAY + timedelta(hours=3))],
            "logins": "v0,c0\nv9,c6",
        },
        {"subjects": 8, "subjects_built": 3, "by_events": 3, "by_points": 1, "rows_written": 5, "rows_removed": 4},
    ),
    # c3 and c4 are one, named by the smaller name; c1 has another plan; the letter of March has a page (c2 and c3 got it).
    "who is who": (
        {
            "logins": "v0,c0\nv9,c6\nv8,c3\nv8,c4",
            "plans": "c1,trial,2023-12-01 00:00:00\nc1,paid,2024-02-02 00:00:00",
            "own": "jan,p0\nfeb,p1\nmar,p2",
        },
        {"subjects": 7, "subjects_built": 4, "by_events": 2, "by_points": 4},
    ),
}


def test_builds_over_each_other_equal_building_everything(spark: SparkSession, first: Path, tmp_path: Path) -> None:
    """Whatever is new, only what it touches is built and written, and rows, order, types and manifest are those of building everything."""
    out = _copy(first, tmp_path / "out")
    so_far: dict[str, Any] = {}
    for step, (new, expected) in STEPS.items():
        so_far |= new
        source = _write(tmp_path / "raw", **so_far)
        before = {file.read_bytes() for file in (out / "points").glob("*.parquet")}
        manifest = build(spark, source, out=out, incremental=True)
        done = manifest.pop("build")
        assert done["mode"] == "incremental"
        assert {name: done[name] for name in expected} == expected, step
        after = {file.read_bytes() for file in (out / "points").glob("*.parquet")}
        assert (len(after & before), len(after - before)) == (done["files_kept"], done["files_written"]), step
        assert done["files_kept"] > 0, step
    whole = build(spark, source, out=tmp_path / "whole", words_of=first)
    assert pq.read_table(out / "points").equals(pq.read_table(tmp_path / "whole" / "points"))
    assert whole.pop("build")["mode"] == "full"
    assert manifest == whole


def test_a_build_that_dies_leaves_the_earlier_one(
    spark: SparkSession, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dying when all is written but the last step, readers see rows and manifest of before; the next build clears up."""
    source = _write(tmp_path / "raw", **STEPS["a day"][0])
    out = _copy(first, tmp_path / "out")
    before = SequenceDataset.read(out)
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if Path(target).name == "points":
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        build(spark, source, out=out, incremental=True)
    monkeypatch.undo()
    after = SequenceDataset.read(out)
    assert after.as_of.tolist() == before.as_of.tolist()
    assert after.manifest["observed_until"] == before.manifest["observed_until"]
    begun = begin(out)
    folders = {each for each in out.iterdir() if each.name.startswith(".points-")}
    assert folders == {begun, (out / "points").resolve()}


def test_everything_is_built_where_rows_are_made_otherwise(spark: SparkSession, first: Path, tmp_path: Path) -> None:
    """Without an earlier build, or with another sequence, all rows are built, and the manifest says why."""
    why = json.loads((first / "manifest.json").read_text())["build"]["because"]
    assert why == "there is no earlier build to go on from"
    _write(tmp_path / "raw")
    shorter = DESCRIPTION.format(until="2024-03-01").replace("last_events = 4", "last_events = 2")
    (tmp_path / "raw" / "shop.toml").write_text(shorter)
    out = _copy(first, tmp_path / "out")
    done = build(spark, load_source(tmp_path / "raw" / "shop.toml"), out=out, incremental=True)["build"]
    assert (done["mode"], "sequence" in done["because"]) == ("full", True)
    assert max(len(row) for row in pq.read_table(out / "points")["item"].to_pylist()) == 2


def test_a_fingerprint_tells_copies_and_nulls_apart(spark: SparkSession) -> None:
    """Two more copies of an event, and a value that moves from one column to the next are all changes."""
    points = spark.createDataFrame([("a", 1)], "subject string, as_of long")
    bags: list[list[tuple[str, int | None, int | None]]] = [[("a", 1, None)], [("a", None, 1)], [("a", 1, None)] * 3]
    schema = "subject string, x long, y long"
    found = [fingerprints(spark.createDataFrame(bag, schema), points).collect()[0]["events"] for bag in bags]
    assert len(set(found)) == len(bags)
