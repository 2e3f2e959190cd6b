"""The last events before each decision point as parallel lists; DataFrame expressions only, no Python in the hot path.

Two paths with one answer. A subject of ordinary length has its events collected once, sorted, and cut at each of its points. A *heavy*
one first keeps, for every stretch between two of its points, only the stretch's last events (a rank filter that spills to disk), which
holds all that any point can ask for, in memory bounded by last_events x points.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Words
from typing import TYPE_CHECKING

from engine.sources.description import Sequence

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_MAX_GAP = 2**31 - 1


def vocabulary(events: DataFrame, column: str, *, min_count: int, max_words: int) -> list[str]:
    """Words by falling frequency (then by name); id = position + 1, and 0 is everything else.

    Hand over only events from before the test period: a word that is first seen there is unknown, as it would be in service.
    """
    from pyspark.sql import functions as F

    counted = events.where(F.col(column) != "").groupBy(column).count().where(F.col("count") >= min_count)
    rows = counted.orderBy(F.desc("count"), F.asc(column)).limit(max_words).collect()
    return [row[column] for row in rows]


def with_ids(spark: SparkSession, events: DataFrame, vocabularies: Mapping[str, Words[str]]) -> DataFrame:
    """Replace ``kind`` and ``item`` by their ids as ``event_type`` and ``item`` (int32)."""
    from pyspark.sql import functions as F

    for column, name in (("kind", "event_type"), ("item", "item")):
        words = [(word, i + 1) for i, word in enumerate(vocabularies[name])]
        table = spark.createDataFrame(words, f"`{column}` string, `_{name}` int")
        events = events.join(F.broadcast(table), column, "left").withColumn(
            f"_{name}", F.coalesce(F.col(f"_{name}"), F.lit(0))
        )
    return events.select(
        "subject", "at", F.col("_event_type").alias("event_type"), F.col("_item").alias("item"), "value", "id"
    )


def histories(events: DataFrame, points: DataFrame, *, sequence: Sequence) -> DataFrame:
    """Sequences of each decision point.

    Parameters
    ----------
    events
        From ``with_ids``.
    points
        With ``point, subject, as_of``.

    Returns
    -------
    DataFrame
        ``point, event_type, item, gap_s, value`` (lists, oldest first, at most ``last_events``) and ``gap_to_as_of_s``. Points of subjects
        without any event are not in it; those with later events only have empty lists and no ``gap_to_as_of_s``.
    """
    from pyspark.sql import functions as F

    wanted = points.groupBy("subject").agg(F.sort_array(F.collect_set("as_of")).alias("instants"))
    sizes = events.groupBy("subject").agg(F.count(F.lit(1)).alias("n_events"))
    heavy = sizes.where(F.col("n_events") > sequence.heavy_events).select("subject")
    heavy_subjects = [row["subject"] for row in heavy.limit(10_001).collect()]
    if len(heavy_subjects) > 10_000:
        # So many long histories are the ordinary case of this source: send all of them by the bounded path.
        kept = _last_of_each_stretch(events, wanted, last_events=sequence.last_events)
    elif heavy_subjects:
        listed = F.broadcast(heavy)
        light = events.join(listed, "subject", "left_anti")
        thinned = _last_of_each_stretch(
            events.join(listed, "subject", "left_semi"), wanted, last_events=sequence.last_events
        )
        kept = light.unionByName(thinned)
    else:
        kept = events
    event = F.struct("at", "id", "event_type", "item", F.col("value").cast("float").alias("value"))
    whole = kept.groupBy("subject").agg(F.sort_array(F.collect_list(event)).alias("events"))
    joined = points.select("point", "subject", "as_of").join(whole, "subject")
    # Events are sorted by time, so the history is the part before the first one at or after the decision; mostly that is all of them,
    # which the newest one tells without looking at the rest.
    newest = F.try_element_at("events", F.lit(-1))["at"]
    before = F.when(newest < F.col("as_of"), F.col("events")).otherwise(
        F.filter("events", lambda e: e["at"] < F.col("as_of"))
    )
    n = sequence.last_events
    cut = joined.select("point", "as_of", before.alias("events"))
    start = F.greatest(F.size("events") - F.lit(n), F.lit(0)) + 1
    cut = cut.select("point", "as_of", F.slice("events", start, F.lit(n)).alias("events"))
    cut = cut.withColumn("seconds", F.transform("events", lambda e: F.unix_seconds(e["at"])))
    # Each second beside the one before it; the first beside itself.
    earlier = F.concat(F.slice("seconds", 1, 1), F.slice("seconds", 1, n - 1)) if n > 1 else F.col("seconds")
    gaps = F.zip_with(
        "seconds", F.slice(earlier, 1, F.size("seconds")), lambda b, a: F.least(b - a, F.lit(_MAX_GAP)).cast("int")
    )
    last = F.try_element_at("seconds", F.lit(-1))
    return cut.select(
        "point",
        F.col("events.event_type").alias("event_type"),
        F.col("events.item").alias("item"),
        gaps.alias("gap_s"),
        F.col("events.value").alias("value"),
        F.when(last.isNotNull(), F.least(F.unix_seconds("as_of") - last, F.lit(_MAX_GAP)))
        .cast("int")
        .alias("gap_to_as_of_s"),
    )


def _last_of_each_stretch(events: DataFrame, wanted: DataFrame, *, last_events: int) -> DataFrame:
    """Of a subject's events between two of its points, only the last ``last_events``; none after the last point."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    placed = events.join(F.broadcast(wanted), "subject").withColumn(
        "stretch", F.size(F.filter("instants", lambda t: t <= F.col("at")))
    )
    placed = placed.where(F.col("stretch") < F.size("instants")).drop("instants")
    newest = Window.partitionBy("subject", "stretch").orderBy(
        *[F.desc(c) for c in ("at", "id", "event_type", "item", "value")]
    )
    # Spark turns rank <= k over a window into a limit per group before the shuffle.
    ranked = placed.withColumn("rank", F.row_number().over(newest)).where(F.col("rank") <= last_events)
    return ranked.drop("rank", "stretch")
