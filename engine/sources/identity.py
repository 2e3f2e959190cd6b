"""Ids that belong to one person: pairs (a visitor id that logged in as a customer) followed transitively.

Connected components by repeatedly handing every id the smallest id among its neighbours (with pointer jumping), in Spark: rounds grow with
the logarithm of the longest chain. Ids of two customers that met on one device become one subject; a component that is too large to be a
person stops the run, because one shared id would otherwise melt thousands of people into one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def stitch(pairs: DataFrame, *, max_iterations: int = 30, max_component: int = 50) -> DataFrame:
    """Map each id to the one id of its person.

    Parameters
    ----------
    pairs
        Columns ``left, right``; nulls and pairs of equal ids are ignored. ``right`` (a customer) is preferred as the name of the person.
    max_component
        Most ids one person may have.

    Returns
    -------
    DataFrame
        ``id, person``: every id that is in a pair; the person is the smallest ``right`` of its component.

    Raises
    ------
    InvalidInputError
        If a component is larger than ``max_component`` or the rounds do not suffice.
    """
    from pyspark.sql import functions as F

    edges = pairs.where("left IS NOT NULL AND right IS NOT NULL AND left <> '' AND right <> ''").select("left", "right")
    edges = edges.distinct().localCheckpoint()
    # Customers sort before visitors: the smallest label of a component is then a customer.
    both = edges.select(F.col("left").alias("a"), F.col("right").alias("b")).union(
        edges.select(F.col("right").alias("a"), F.col("left").alias("b"))
    )
    both = both.distinct().localCheckpoint()
    right = edges.select(F.col("right").alias("id")).distinct().withColumn("rank", F.lit(0))
    ids = both.select(F.col("a").alias("id")).distinct().join(right, "id", "left")
    labels = ids.select(
        "id", F.struct(F.coalesce("rank", F.lit(1)).alias("rank"), F.col("id").alias("name")).alias("label")
    )
    labels = labels.localCheckpoint()
    for _ in range(max_iterations):
        near = both.join(labels.withColumnRenamed("id", "b"), "b").select(F.col("a").alias("id"), "label")
        smaller = labels.union(near).groupBy("id").agg(F.min("label").alias("label"))
        # Jump: take the label that one's label has by now.
        target = smaller.select(F.col("id").alias("name"), F.col("label").alias("further"))
        jumped = (
            smaller.withColumn("name", F.col("label.name"))
            .join(target, "name", "left")
            .select("id", F.least("label", F.coalesce("further", "label")).alias("label"))
            .localCheckpoint()
        )
        changed = jumped.join(labels.withColumnRenamed("label", "old"), "id").where(F.col("label") != F.col("old"))
        is_done = changed.isEmpty()
        labels = jumped
        if is_done:
            break
    else:
        raise InvalidInputError(f"identity stitching did not settle in {max_iterations} rounds; raise max_iterations")
    out = labels.select("id", F.col("label.name").alias("person"))
    largest = out.groupBy("person").count().orderBy(F.desc("count"), "person").limit(1).collect()
    if largest and largest[0]["count"] > max_component:
        raise InvalidInputError(
            f"{largest[0]['count']} ids would become the one person {largest[0]['person']!r} (at most {max_component}); a shared or "
            "placeholder id is among the pairs: drop it by a rule, or raise max_component"
        )
    return out


def replace_ids(frame: DataFrame, people: DataFrame, *, column: str = "subject") -> DataFrame:
    """Put the person in the place of each id; ids that are in no pair stay."""
    from pyspark.sql import functions as F

    named = people.select(F.col("id").alias(column), F.col("person").alias("_person"))
    return frame.join(named, column, "left").withColumn(column, F.coalesce("_person", column)).drop("_person")
