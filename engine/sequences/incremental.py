"""Build over an earlier build: only subjects with something new are built again, only files with a changed row are written again.

What a subject's rows are made of is summed up in two numbers: one over its events, one over its decision points with their labels and attributes. They
are kept beside the rows. A subject whose numbers have changed is *touched*, whatever the reason: a new event, one that came late, a login that
made two ids one person, a label window that has closed, a new plan. Reading, cleaning and labelling still go over everything, because a late row may
belong anywhere; the histories and aggregates, which are nearly all of the work, do not.

Rows lie in numbered files in the order of time. A file keeps its bytes (it is linked into the new build) unless one of its rows changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from collections.abc import Sequence as Words
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from engine.sequences.histories import PARQUET
from engine.sequences.publishing import MANIFEST, POINTS, STATE, next_name
from engine.sources.description import Source

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

KEY = ("as_of", "subject", "offer")
_FILE = "_file"
# Raised whenever the code would make other rows of the same input: rows of two versions are never mixed.
ROWS_VERSION = 1


@dataclass(frozen=True, slots=True)
class Earlier:
    """The build that is in place: its folder and manifest."""

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def words(self) -> dict[str, list[str]]:
        """Its vocabularies."""
        words: dict[str, list[str]] = self.manifest["vocabularies"]
        return words


def earlier_build(out: Path) -> Earlier | None:
    """The build in a folder, if the next one can be built over it."""
    folder, manifest = out / POINTS, out / MANIFEST
    if not manifest.is_file() or not (folder / STATE).is_dir():
        return None
    return Earlier(folder.resolve(), json.loads(manifest.read_text()))


def shape_of(source: Source, words: Mapping[str, Words[str]], *, columns: Mapping[str, str]) -> str:
    """A hash of what rows are made by, beside the data: with another one every row may differ."""
    parts = {
        "rows": ROWS_VERSION,
        "sequence": asdict(source.sequence),
        "affinity": [asdict(each) for each in source.affinity],
        "columns": columns,
        "words": words,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=dict).encode()).hexdigest()


def fingerprints(
    events: DataFrame, points: DataFrame, *, lines: Words[DataFrame] = (), items: Words[DataFrame] = ()
) -> DataFrame:
    """What the rows of each subject with decision points are made of: ``subject, events, points`` (both int64).

    Parameters
    ----------
    points
        With labels and attributes, all that a row holds beside what its events say.
    lines
        Further tables with a ``subject``, such as the lines that affinities count.
    items
        Further tables with an ``offer``.
    """
    from pyspark.sql import functions as F

    for number, table in enumerate(items):
        per_offer = table.groupBy("offer").agg(_sum_up(table).alias(f"_items_{number}"))
        points = points.join(per_offer, "offer", "left")
    out = points.groupBy("subject").agg(_sum_up(points).alias("points"))
    kept = []
    for number, table in enumerate((events, *lines)):
        kept.append(f"_events_{number}")
        out = out.join(table.groupBy("subject").agg(_sum_up(table).alias(kept[-1])), "subject", "left")
    return out.select("subject", F.xxhash64(*[F.coalesce(name, F.lit(0)) for name in kept]).alias("events"), "points")


def touched_subjects(now: DataFrame, before: DataFrame) -> DataFrame:
    """Subjects whose rows may have changed, gone ones included: ``subject, by_events, by_points``."""
    from pyspark.sql import functions as F

    old = before.select("subject", F.col("events").alias("_events"), F.col("points").alias("_points"))
    both = now.join(old, "subject", "full_outer").select(
        "subject",
        (~F.col("events").eqNullSafe(F.col("_events"))).alias("by_events"),
        (~F.col("points").eqNullSafe(F.col("_points"))).alias("by_points"),
    )
    return both.where("by_events OR by_points")


def count_touched(touched: DataFrame, *, n_now: int) -> dict[str, int]:
    """How many subjects there are, how many are built again, and because of what."""
    from pyspark.sql import functions as F

    names = ("by_events", "by_points")
    row = touched.agg(F.count(F.lit(1)).alias("n"), *[F.count_if(name).alias(name) for name in names]).collect()[0]
    return {"subjects": n_now, "subjects_built": int(row["n"]), **{name: int(row[name]) for name in names}}


def told(done: Mapping[str, Any]) -> str:
    """What an incremental build did, in a sentence."""
    return (
        "{subjects_built} of {subjects} subjects built again ({by_events} for their events, {by_points} for points, labels or attributes); "
        "{rows_written} rows written, {rows_removed} taken out; {files_kept} files kept, {files_written} written"
    ).format_map(done)


def write_over(
    spark: SparkSession, rows: DataFrame, touched: DataFrame, *, earlier: Path, staged: Path, rows_per_file: int
) -> dict[str, int]:
    """Write a build that holds the earlier one's rows of untouched subjects, and the rows given of touched ones.

    Returns
    -------
    dict
        ``rows_written``, ``rows_removed``, ``files_kept`` and ``files_written``.
    """
    from pyspark.sql import functions as F

    files = sorted(earlier.glob("*.parquet"))
    subjects = touched.select("subject")
    fresh = rows.withColumn(_FILE, _file_of(files))
    number = F.regexp_extract("_metadata.file_name", r"(\d+)\.parquet$", 1).cast("int")
    old = spark.read.parquet(*map(str, files)).withColumn(_FILE, number)
    content = _row_hash(rows.columns).alias("content")
    before = old.join(subjects, "subject", "left_semi").select(_FILE, content, F.lit(-1).alias("n"))
    now = fresh.select(_FILE, content, F.lit(1).alias("n"))
    differing = before.union(now).groupBy(_FILE, "content").agg(F.sum("n").alias("n")).where("n <> 0")
    counted = differing.groupBy(_FILE).agg(
        F.sum(F.greatest("n", F.lit(0))).alias("written"), F.sum(F.greatest(-F.col("n"), F.lit(0))).alias("removed")
    )
    changed = {row[_FILE]: row for row in counted.collect()}
    parts = staged / "_parts"
    if changed:
        held = spark.read.parquet(*[str(files[place]) for place in sorted(changed)]).withColumn(_FILE, number)
        held = held.join(subjects, "subject", "left_anti")
        merged = held.unionByName(fresh.where(F.col(_FILE).isin(*changed)))
        writer = merged.repartition(_FILE).sortWithinPartitions(_FILE, *KEY).write.partitionBy(_FILE)
        writer.options(maxRecordsPerFile=rows_per_file, **PARQUET).parquet(str(parts))
    n_kept = 0
    for place, file in enumerate(files):
        if place not in changed:
            _link_or_copy(file, staged / next_name(staged))
            n_kept += 1
            continue
        for part in sorted((parts / f"{_FILE}={place}").glob("*.parquet")):
            part.rename(staged / next_name(staged))
    shutil.rmtree(parts, ignore_errors=True)
    return {
        "rows_written": sum(int(row["written"]) for row in changed.values()),
        "rows_removed": sum(int(row["removed"]) for row in changed.values()),
        "files_kept": n_kept,
        "files_written": sum(1 for _ in staged.glob("*.parquet")) - n_kept,
    }


def _file_of(files: Words[Path]) -> Column:
    """Place of the file in whose stretch a row belongs: the last one that begins at or before it, else the first."""
    from pyspark.sql import functions as F

    firsts = []
    for file in files[1:]:
        first = pq.ParquetFile(file).read_row_group(0, columns=list(KEY)).slice(0, 1).to_pylist()[0]
        firsts.append(F.struct(*[F.lit(first[name]).cast(kind).alias(name) for name, kind in _KEY_TYPES.items()]))
    if not firsts:
        return F.lit(0)
    key = F.struct(*KEY)
    return reduce(lambda a, b: a + b, [(first <= key).cast("int") for first in firsts])


_KEY_TYPES = {"as_of": "timestamp", "subject": "string", "offer": "string"}


def _sum_up(table: DataFrame) -> Column:
    """One number for a bag of rows: it changes when a row comes, goes, or comes a second time."""
    from pyspark.sql import functions as F

    content = _row_hash(table.columns)
    # Two halves of an exclusive or would let pairs of equal rows cancel out: their number and a sum go with it.
    halves = F.sum(content.bitwiseAND(F.lit(0xFFFFFFFF)))
    return F.xxhash64(F.count(F.lit(1)), F.bit_xor(content), halves)


def _row_hash(columns: Words[str]) -> Column:
    from pyspark.sql import functions as F

    # A null leaves Spark's hash as it was; the second part says where the nulls are.
    return F.xxhash64(*columns, *[F.isnull(name) for name in columns])


def _link_or_copy(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:
        shutil.copy2(file, to)
