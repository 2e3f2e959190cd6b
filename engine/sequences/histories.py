"""The last events before each decision point as parallel lists; DataFrame expressions only, no Python in the hot path.

Two paths with one answer. A subject of ordinary length has its events shuffled and sorted once, collected as lists of plain numbers in
that order, and cut at each of its points. A *heavy* one first keeps, for every stretch between two of its points, only the stretch's last events (a rank filter that spills to disk), which
holds all that any point can ask for, in memory bounded by last_events x points.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from collections.abc import Sequence as Words
from typing import TYPE_CHECKING

from engine.sources.description import Sequence

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# For writing: gaps hardly ever repeat, so that a dictionary of them is made in vain.
PARQUET = {"parquet.enable.dictionary#gap_s.list.element": "false"}
_MAX_GAP = 2**31 - 1
_SAMPLED = 1_000
_MOST_HEAVY = 10_000
_LISTS = ("at", "event_type", "item", "value")


def vocabulary(events: DataFrame, column: str, *, min_count: int, max_words: int) -> list[str]:
    """Words by falling frequency (then by name); id = position + 1, and 0 is everything else.

    Hand over only events from before the test period: a word that is first seen there is unknown, as it would be in service.
    """
    from pyspark.sql import functions as F

    counted = events.where(F.col(column) != "").groupBy(column).count().where(F.col("count") >= min_count)
    rows = counted.orderBy(F.desc("count"), F.asc(column)).limit(max_words).collect()
    return [row[column] for row in rows]


def with_ids(events: DataFrame, vocabularies: Mapping[str, Words[str]]) -> DataFrame:
    """Replace ``kind`` and ``item`` by their ids as ``event_type`` and ``item`` (int32)."""
    from pyspark.sql import functions as F

    for column, name in (("kind", "event_type"), ("item", "item")):
        table = _numbered(events.sparkSession, vocabularies[name], column).select(
            column, (F.col("_place") + 1).alias(f"_{name}")
        )
        events = events.join(F.broadcast(table), column, "left").withColumn(
            f"_{name}", F.coalesce(F.col(f"_{name}"), F.lit(0))
        )
    return events.select(
        "subject", "at", F.col("_event_type").alias("event_type"), F.col("_item").alias("item"), "value", "id"
    )


def _numbered(spark: SparkSession, words: Words[str], column: str) -> DataFrame:
    """Words and their places from 0 as ``column`` and ``_place``.

    A constant that Java reads by itself: a list handed over row by row would start Python workers.
    """
    from pyspark.sql import functions as F

    listed = F.from_json(F.lit(json.dumps(list(words))), "array<string>")
    return spark.range(1).select(F.posexplode(listed).alias("_place", column))


def histories(
    events: DataFrame, points: DataFrame, *, words: Mapping[str, Words[str]], sequence: Sequence
) -> DataFrame:
    """Sequences of each decision point.

    Parameters
    ----------
    events
        With ``subject, at, kind, item, value, id``.
    points
        With ``point, subject, as_of``.
    words
        Vocabularies of kinds (``event_type``) and items (``item``).

    Returns
    -------
    DataFrame
        ``point, event_type, item, gap_s, value`` (lists, oldest first, at most ``last_events``) and ``gap_to_as_of_s``. Points of subjects
        without any event are not in it; those with later events only have empty lists and no ``gap_to_as_of_s``.
    """
    from pyspark.sql import functions as F

    wanted = points.groupBy("subject").agg(F.sort_array(F.collect_set("as_of")).alias("instants"))
    # Asked of the events as they came: their words need not be looked up to be counted.
    heavy = _heavy(events, threshold=sequence.heavy_events, most=_MOST_HEAVY + 1)
    events = with_ids(events, words)
    if len(heavy) > _MOST_HEAVY:
        # So many long histories are the ordinary case of this source: send all of them by the bounded path.
        kept = _last_of_each_stretch(events, wanted, last_events=sequence.last_events)
    elif heavy:
        listed = F.broadcast(_numbered(events.sparkSession, heavy, "subject").select("subject"))
        light = events.join(listed, "subject", "left_anti")
        thinned = _last_of_each_stretch(
            events.join(listed, "subject", "left_semi"), wanted, last_events=sequence.last_events
        )
        kept = light.unionByName(thinned)
    else:
        kept = events
    joined = points.select("point", "subject", "as_of").join(_collected(kept), "subject")
    # Events are in the order of time, so the history is the part before the first one at or after the decision; mostly that is all of
    # them, which the newest one tells without looking at the rest.
    newest = F.try_element_at("at", F.lit(-1))
    n_before = F.when(newest < F.col("as_of"), F.size("at")).otherwise(
        F.size(F.filter("at", lambda at: at < F.col("as_of")))
    )
    n = F.lit(sequence.last_events)
    placed = joined.select("*", n_before.alias("n_before"))
    start, length = F.greatest(F.col("n_before") - n, F.lit(0)) + 1, F.least("n_before", n)
    cut = placed.select("point", "as_of", *[F.slice(name, start, length).alias(name) for name in _LISTS])
    # Each instant beside the one before it; the first beside itself.
    size = F.size("at")
    earlier = F.concat(F.slice("at", 1, F.least(size, F.lit(1))), F.slice("at", 1, F.greatest(size - 1, F.lit(0))))
    gaps = F.zip_with("at", earlier, lambda b, a: _seconds_between(a, b))
    last = F.try_element_at("at", F.lit(-1))
    return cut.select(
        "point",
        "event_type",
        "item",
        gaps.alias("gap_s"),
        "value",
        F.when(last.isNotNull(), _seconds_between(last, F.col("as_of"))).alias("gap_to_as_of_s"),
    )


def _seconds_between(earlier: Column, later: Column) -> Column:
    from pyspark.sql import functions as F

    return F.least(F.unix_seconds(later) - F.unix_seconds(earlier), F.lit(_MAX_GAP)).cast("int")


def _collected(events: DataFrame) -> DataFrame:
    """One row a subject: parallel lists of all of its events in the order of time, then of id."""
    from pyspark.sql import functions as F

    # Only an aggregate that reads its groups one after the other keeps the order of its input; one over a hash table sorts anew by the
    # key alone once it is full. Nothing moves between the two halves of this one, so they are done in one step.
    settings = events.sparkSession.conf
    settings.set("spark.sql.execution.useObjectHashAggregateExec", "false")
    settings.set("spark.sql.execution.combineAdjacentAggregation", "true")
    # Lists of numbers beside each other: a list of whole events would be copied as objects, and a null would shift a list against the others.
    value = F.coalesce(F.col("value"), F.lit(0.0)).cast("float").alias("value")
    # The sort looks at the first eight bytes first: of the names of subjects these are often all the same. Made before rows move, as
    # another column beside them later would copy each row once more.
    hashed = F.xxhash64("subject").alias("_hash")
    slim = events.select(hashed, "subject", "at", "id", "event_type", "item", value)
    ordered = slim.repartition("subject").sortWithinPartitions(*slim.columns)
    return ordered.groupBy("_hash", "subject").agg(*[F.collect_list(name).alias(name) for name in _LISTS])


def _heavy(events: DataFrame, *, threshold: int, most: int) -> list[str]:
    """Subjects with about more events than the threshold, at most so many, from a sample that holds a thousand events of each.

    Both paths give the same rows, so that a subject near the threshold may go either way.
    """
    from pyspark.sql import functions as F

    share = min(1.0, _SAMPLED / max(threshold, 1))
    sample = events if share == 1.0 else events.sample(share, seed=0)
    sizes = sample.groupBy("subject").agg(F.count(F.lit(1)).alias("n_events"))
    found = sizes.where(F.col("n_events") > F.lit(share * threshold)).select("subject").limit(most).collect()
    return [row["subject"] for row in found]


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
