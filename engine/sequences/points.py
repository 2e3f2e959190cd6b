"""Decision points: whose decision, which offer, as of when; what came of it and since when that is known; which split."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from engine.sources.description import Label, Period, Source
from engine.sources.identity import replace_ids

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

# One microsecond: windows are closed at their last instant, so that a window of 30 days does not hold day 31's midnight.
_TICK = "INTERVAL 1 MICROSECOND"


def decision_points(
    spark: SparkSession,
    source: Source,
    events: DataFrame,
    *,
    observed_until: datetime,
    people: DataFrame | None = None,
) -> DataFrame:
    """Decision points with their labels.

    Returns
    -------
    DataFrame
        Columns ``point`` (an id), ``subject, offer, as_of, until, label, label_observed_until, is_matured, split`` and extras, and ``kept,
        kept_observed_until`` where the source asks for them. Label and kept are null where the window was not over when the data ended:
        *unknown*, never negative.
    """
    from pyspark.sql import functions as F

    points = _snapshots(spark, source, events) if source.points.snapshots else _rows(spark, source, people)
    labelled = _labelled(spark, points, source.label, events, people, observed_until=observed_until)
    if source.kept is not None:
        labelled = _labelled(spark, labelled, source.kept, events, people, observed_until=observed_until, name="kept")
    return labelled.withColumn("split", _split(source.split, seed=source.name)).where(F.col("split").isNotNull())


def _labelled(
    spark: SparkSession,
    points: DataFrame,
    label: Label,
    events: DataFrame,
    people: DataFrame | None,
    *,
    observed_until: datetime,
    name: str = "label",
) -> DataFrame:
    """Add the outcome as ``<name>`` and the end of what is known of it; the label also says ``is_matured``."""
    from pyspark.sql import functions as F

    until = F.col("until")
    if name != "label" and label.window_days is not None:
        until = _window_end(F.col("as_of"), label.window_days)
    if label.column:
        told = points.withColumn("_until", F.coalesce(until, F.col("as_of")))
        told = told.withColumn("_outcome", F.col(f"outcome_{name}")).drop(f"outcome_{name}")
    else:
        told = _with_outcomes(spark, points.withColumn("_until", until), label, events, people)
    end = F.lit(observed_until)
    known_at = F.col("_until") + F.expr(f"INTERVAL {round(label.known_after_days * 86_400)} SECOND")
    is_over = (known_at < end) & F.col("_outcome").isNotNull()
    told = told.withColumn(f"{name}_observed_until", F.least(F.col("_until"), end - F.expr(_TICK)))
    if name == "label":
        told = told.withColumn("is_matured", is_over).drop("until")
        return (
            told.withColumn(name, F.when(is_over, F.col("_outcome")))
            .drop("_outcome")
            .withColumnRenamed("_until", "until")
        )
    return told.withColumn(name, F.when(is_over, F.col("_outcome"))).drop("_outcome", "_until")


def _rows(spark: SparkSession, source: Source, people: DataFrame | None) -> DataFrame:
    from pyspark.sql import functions as F

    points, label = source.points, source.label
    if points.until:
        until = F.expr(points.until).cast("timestamp")
    elif label.window_days is not None:
        until = _window_end(F.expr(points.as_of).cast("timestamp"), label.window_days)
    else:
        until = F.lit(None).cast("timestamp")
    columns = [
        F.expr(points.subject).cast("string").alias("subject"),
        F.expr(points.offer).cast("string").alias("offer"),
        F.expr(points.as_of).cast("timestamp").alias("as_of"),
        until.alias("until"),
        *[
            F.expr(each.column).cast("double").alias(f"outcome_{name}")
            for name, each in (("label", label), ("kept", source.kept))
            if each is not None and each.column
        ],
        *[
            _number_or_text(F.expr(expression), spark, points.table, expression).alias(n)
            for n, expression in points.extra.items()
        ],
    ]
    frame = spark.table(points.table).select(*columns).where("subject IS NOT NULL AND as_of IS NOT NULL")
    if people is not None:
        frame = replace_ids(frame, people)
    return frame.withColumn("point", _point_id())


def _number_or_text(column: Column, spark: SparkSession, table: str, expression: str) -> Column:
    found = spark.table(table).selectExpr(f"{expression} AS x").dtypes[0][1]
    return column if found == "string" else column.cast("double")


def _snapshots(spark: SparkSession, source: Source, events: DataFrame) -> DataFrame:
    """Every subject that was active before a snapshot is looked at there."""
    from pyspark.sql import functions as F

    points = source.points
    active = events if not points.active_kinds else events.where(F.col("kind").isin(*points.active_kinds))
    instants = F.broadcast(spark.createDataFrame([(instant,) for instant in points.snapshots], "as_of timestamp"))
    # One row per subject and month at most, so that the join with the snapshots stays small.
    days = active.groupBy("subject", F.trunc("at", "month").alias("month")).agg(
        F.min("at").alias("first"), F.max("at").alias("last")
    )
    near = F.col("first") < F.col("as_of")
    if points.active_days is not None:
        days = active.select("subject", F.col("at").alias("first"))
        near &= F.col("first") >= F.col("as_of") - F.expr(f"INTERVAL {points.active_days} DAY")
    assert source.label.window_days is not None
    return (
        days.join(instants, near)
        .select("subject", "as_of")
        .distinct()
        .withColumn("offer", F.expr(points.offer).cast("string"))
        .withColumn("until", _window_end(F.col("as_of"), source.label.window_days))
        .withColumn("point", _point_id())
    )


def _window_end(as_of: Column, days: float) -> Column:
    from pyspark.sql import functions as F

    return as_of + F.expr(f"INTERVAL {round(days * 86_400)} SECOND") - F.expr(_TICK)


def _point_id() -> Column:
    from pyspark.sql import functions as F

    return F.xxhash64("subject", "offer", "as_of")


def _with_outcomes(
    spark: SparkSession, points: DataFrame, label: Label, events: DataFrame, people: DataFrame | None
) -> DataFrame:
    from pyspark.sql import functions as F

    if label.kinds:
        outcomes = events.where(F.col("kind").isin(*label.kinds)).select(
            F.col("subject").alias("o_subject"), F.col("at").alias("o_at"), F.lit("").alias("o_offer")
        )
    else:
        outcomes = spark.table(label.table).select(
            F.expr(label.subject).cast("string").alias("o_subject"),
            F.expr(label.at).cast("timestamp").alias("o_at"),
            (F.expr(label.offer).cast("string") if label.offer else F.lit("")).alias("o_offer"),
        )
        if people is not None:
            outcomes = replace_ids(outcomes, people, column="o_subject")
    match = (F.col("subject") == F.col("o_subject")) & F.col("o_at").between(F.col("as_of"), F.col("_until"))
    if label.offer:
        match &= F.col("offer") == F.col("o_offer")
    hit = points.join(outcomes, match, "left_semi").select("point", F.lit(1.0).alias("hit")).distinct()
    came = F.coalesce(F.col("hit"), F.lit(0.0))
    return (
        points.join(hit, "point", "left").withColumn("_outcome", 1.0 - came if label.is_absence else came).drop("hit")
    )


def _split(periods: tuple[Period, ...], *, seed: str) -> Column:
    """Split by time first, then by a sticky share of subjects; null where no period holds the point."""
    from pyspark.sql import functions as F

    # A hash of the subject alone: a household is on one side of every earlier campaign.
    position = F.pmod(F.xxhash64(F.concat_ws("\u0000", F.lit(seed), F.col("subject"))), F.lit(1_000_000)) / 1_000_000.0
    out = F.lit(None).cast("string")
    for period in reversed(periods):
        inside = F.lit(True)
        if period.start is not None:
            inside &= F.col("as_of") >= F.lit(period.start)
        if period.end is not None:
            inside &= F.col("as_of") < F.lit(period.end)
        below, name = 0.0, F.lit(None).cast("string")
        names = []
        for split, share in period.shares.items():
            below += share
            names.append((below, split))
        name = F.lit(names[-1][1])
        for bound, split in reversed(names[:-1]):
            name = F.when(position < bound, split).otherwise(name)
        out = F.when(inside, name).otherwise(out)
    return out
