"""Counts, amounts and recency as of each decision point: strictly before it, linear in events, one sort per subject.

Events and *probes* (instants at which a total is wanted) are sorted together; a running total read at a probe holds every event before
it and none at or after it. A trailing window is the difference of two probes, so nothing is recomputed per window.
"""

from __future__ import annotations

import re
from collections.abc import Sequence as Words
from typing import TYPE_CHECKING

from engine.sources.description import Affinity, Sequence
from engine.sources.identity import replace_ids

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

_DAY_US = 86_400_000_000


def aggregates(events: DataFrame, points: DataFrame, *, kinds: Words[str], sequence: Sequence) -> DataFrame:
    """One row per decision point: ``point`` and its ``agg_*`` columns (float64; null where there is nothing to say).

    Parameters
    ----------
    kinds
        Event kinds that get columns of their own: the vocabulary, which was made before any test period.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    at = F.unix_micros("at")
    slugs = _slugs(kinds)
    amounts = events.select(
        "subject",
        at.alias("t"),
        F.lit(1).alias("is_event"),
        F.lit(None).cast("bigint").alias("point"),
        F.lit(0).alias("window"),
        F.col("value"),
        F.col("kind"),
    )
    windows = [0, *sequence.windows_days]
    probes = points.select(
        "subject",
        F.unix_micros("as_of").alias("as_of_us"),
        "point",
        F.explode(F.array(*[F.lit(w) for w in windows])).alias("window"),
    ).select(
        "subject",
        (F.col("as_of_us") - F.col("window") * F.lit(_DAY_US)).alias("t"),
        F.lit(0).alias("is_event"),
        "point",
        "window",
        F.lit(0.0).alias("value"),
        F.lit("").alias("kind"),
    )
    # A probe sorts before an event of the same microsecond: strictly before is what the running total then holds.
    window = (
        Window.partitionBy("subject").orderBy("t", "is_event").rowsBetween(Window.unboundedPreceding, Window.currentRow)
    )
    event = F.col("is_event") == 1
    own = {slug: event & (F.col("kind") == kind) for slug, kind in slugs.items()}
    totals = {
        "n": F.sum("is_event").over(window),
        "amount": F.sum("value").over(window),
        "last_us": F.max(F.when(event, F.col("t"))).over(window),
        "first_us": F.min(F.when(event, F.col("t"))).over(window),
        **{f"n_{slug}": F.sum(F.when(is_own, 1).otherwise(0)).over(window) for slug, is_own in own.items()},
        **{f"last_us_{slug}": F.max(F.when(is_own, F.col("t"))).over(window) for slug, is_own in own.items()},
    }
    running = (
        amounts.unionByName(probes).select("*", *[c.alias(f"t_{n}") for n, c in totals.items()]).where("is_event = 0")
    )
    per_point = running.groupBy("point").agg(
        *[
            F.max(F.when(F.col("window") == w, F.col(f"t_{name}"))).alias(f"{name}@{w}")
            for name in totals
            for w in (windows if not name.startswith(("first", "last")) else [0])
        ],
        F.max(F.when(F.col("window") == 0, F.col("t"))).alias("now"),
    )
    return per_point.select("point", *_columns(slugs, sequence.windows_days))


def _columns(slugs: dict[str, str], windows: Words[int]) -> list[Column]:
    from pyspark.sql import functions as F

    def double(name: str) -> Column:
        return F.col(f"`{name}`").cast("double")

    def days_since(name: str) -> Column:
        return ((F.col("now") - F.col(f"`{name}@0`")) / F.lit(float(_DAY_US))).cast("double")

    n, amount = F.col("`n@0`"), F.col("`amount@0`")
    out = [
        double("n@0").alias("agg_n"),
        double("amount@0").alias("agg_amount"),
        F.when(n > 0, amount / n).alias("agg_amount_mean"),
        days_since("last_us").alias("agg_days_since_last"),
        days_since("first_us").alias("agg_days_since_first"),
        F.when(n > 1, (F.col("`last_us@0`") - F.col("`first_us@0`")) / (n - 1) / F.lit(float(_DAY_US))).alias(
            "agg_gap_days_mean"
        ),
    ]
    for w in windows:
        out.append((n - F.col(f"`n@{w}`")).cast("double").alias(f"agg_n_{w}d"))
        out.append((amount - F.col(f"`amount@{w}`")).alias(f"agg_amount_{w}d"))
    for slug in slugs:
        out.append(double(f"n_{slug}@0").alias(f"agg_n_{slug}"))
        out.append(days_since(f"last_us_{slug}").alias(f"agg_days_since_{slug}"))
        if windows:
            w = windows[-1]
            recent = F.col(f"`n_{slug}@0`") - F.col(f"`n_{slug}@{w}`")
            out.append(recent.cast("double").alias(f"agg_n_{slug}_{w}d"))
    return out


def _slugs(kinds: Words[str]) -> dict[str, str]:
    """Column-safe names of kinds; two that fall together keep their numbers apart."""
    out: dict[str, str] = {}
    for kind in kinds:
        slug = re.sub(r"\W+", "_", kind.lower()).strip("_") or "blank"
        while slug in out:
            slug += "_"
        out[slug] = kind
    return out


def affinity(
    spark: SparkSession,
    points: DataFrame,
    spec: Affinity,
    *,
    windows: Words[int] = (),
    people: DataFrame | None = None,
) -> DataFrame:
    """What a subject did before each point with the items of its offer: ``point`` and the ``agg_<name>_…`` columns of ``Affinity``.

    A subject without any line before the point is not in it; one with lines but none of the offer's has zeros and a null recency.
    """
    from pyspark.sql import functions as F

    lines, items = affinity_tables(spark, spec, people=people)
    items = items.withColumn("own", F.lit(1))
    since = F.unix_micros("as_of") - F.unix_micros("at")
    # Counted per item before the items of the offer are joined, so that that join meets few rows.
    counted = {
        "n": F.count(F.lit(1)),
        "amount": F.sum("amount"),
        **{f"n_{w}d": F.count_if(since <= F.lit(w * _DAY_US)) for w in windows},
        **{f"n_{name}": F.sum(f"is_{name}") for name in spec.flags},
    }
    seen = (
        points.select("point", "subject", "offer", "as_of")
        .join(lines, "subject")
        .where(F.col("at") < F.col("as_of"))
        .groupBy("point", "offer", "item")
        .agg(F.min(since).alias("since_us"), *[column.alias(name) for name, column in counted.items()])
    )
    is_own = F.col("own") == 1
    own = {
        name: F.sum(F.when(is_own, F.col(name)).otherwise(0)).cast("double")
        for name in counted
        if name != "amount" or spec.value
    }
    own["share"] = own["n"] / F.sum("n")
    own["days_since"] = F.min(F.when(is_own, F.col("since_us"))) / F.lit(float(_DAY_US))
    columns = [column.alias(f"agg_{spec.name}_{name}") for name, column in own.items()]
    return seen.join(items, ["offer", "item"], "left").groupBy("point").agg(*columns)


def affinity_tables(
    spark: SparkSession, spec: Affinity, *, people: DataFrame | None = None
) -> tuple[DataFrame, DataFrame]:
    """What an affinity counts: lines (``subject, at, item, amount, is_<flag>``) and the items of offers (``offer, item``)."""
    from pyspark.sql import functions as F

    flags = {name: F.coalesce(F.expr(condition).cast("int"), F.lit(0)) for name, condition in spec.flags.items()}
    lines = spark.table(spec.lines).select(
        F.expr(spec.subject).cast("string").alias("subject"),
        F.expr(spec.at).cast("timestamp").alias("at"),
        F.expr(spec.item).cast("string").alias("item"),
        (F.coalesce(F.expr(spec.value).cast("double"), F.lit(0.0)) if spec.value else F.lit(0.0)).alias("amount"),
        *[flag.alias(f"is_{name}") for name, flag in flags.items()],
    )
    if people is not None:
        lines = replace_ids(lines, people)
    items = spark.table(spec.items).select(
        F.expr(spec.items_offer).cast("string").alias("offer"), F.expr(spec.items_item).cast("string").alias("item")
    )
    return lines, items.distinct()
