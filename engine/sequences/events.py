"""Events of all tables of a source in one form: subject, at, kind, item, value, id."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

from engine.sources.description import Source
from engine.sources.identity import replace_ids, stitch

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

COLUMNS = ("subject", "at", "kind", "item", "value", "id")


def read_events(spark: SparkSession, source: Source, *, people: DataFrame | None = None) -> DataFrame:
    """Gather the events of every mapping; times outside what the source observed are left out.

    Parameters
    ----------
    people
        From ``people_of``: ids that are one person become that person.

    Returns
    -------
    DataFrame
        Columns ``subject, at, kind, item, value, id``; ``value`` is a float64, missing amounts are 0.
    """
    events = raw_events(spark, source)
    return events if people is None else replace_ids(events, people)


def raw_events(spark: SparkSession, source: Source) -> DataFrame:
    """Events of every mapping under the ids they came with."""
    from pyspark.sql import functions as F

    parts = []
    for mapping in source.events:
        parts.append(
            spark.table(mapping.table).select(
                F.expr(mapping.subject).cast("string").alias("subject"),
                F.expr(mapping.at).cast("timestamp").alias("at"),
                F.coalesce(F.expr(mapping.kind).cast("string"), F.lit("")).alias("kind"),
                F.coalesce(F.expr(mapping.item).cast("string"), F.lit("")).alias("item"),
                F.coalesce(F.expr(mapping.value).cast("double"), F.lit(0.0)).alias("value"),
                F.coalesce(F.expr(mapping.id).cast("string"), F.lit("")).alias("id"),
            )
        )
    if not parts:
        return spark.createDataFrame(
            [], "subject string, at timestamp, kind string, item string, value double, id string"
        )
    events = reduce(lambda a, b: a.unionByName(b), parts).where(
        "subject IS NOT NULL AND subject <> '' AND at IS NOT NULL"
    )
    if source.observed_from is not None:
        events = events.where(F.col("at") >= F.lit(source.observed_from))
    if source.observed_until is not None:
        events = events.where(F.col("at") < F.lit(source.observed_until))
    return events


def people_of(spark: SparkSession, source: Source) -> DataFrame | None:
    """Map ids to people, where the source describes how they are tied; None where it does not."""
    from pyspark.sql import functions as F

    if source.identity is None:
        return None
    spec = source.identity
    pairs = spark.table(spec.table).select(
        F.expr(spec.left).cast("string").alias("left"), F.expr(spec.right).cast("string").alias("right")
    )
    return stitch(pairs, max_iterations=spec.max_iterations, max_component=spec.max_component)


def identity_counts(spark: SparkSession, source: Source, people: DataFrame) -> dict[str, int]:
    """How many ids were tied to how many people, and how many ids of events nobody could tie."""
    from pyspark.sql import functions as F

    row = people.agg(F.count(F.lit(1)).alias("ids"), F.count_distinct("person").alias("people")).collect()[0]
    own = raw_events(spark, source).select("subject").distinct()
    untied = own.join(people.select(F.col("id").alias("subject")), "subject", "left_anti").count()
    return {"ids": int(row["ids"]), "people": int(row["people"]), "untied_ids_of_events": untied}
