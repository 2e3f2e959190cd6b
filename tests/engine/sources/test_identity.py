"""Ids that are one person."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from engine.sources.identity import replace_ids, stitch
from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

pytestmark = pytest.mark.spark


def _people(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Union-find: every id to the smallest right-hand id of its component."""
    parent: dict[str, str] = {}

    def find(x: str) -> str:
        parent.setdefault(x, x)
        while parent[x] != x:
            x = parent[x]
        return x

    for a, b in pairs:
        parent[find(a)] = find(b)
    customers = {b for _, b in pairs}
    best: dict[str, str] = {}
    for x in sorted(customers):
        best.setdefault(find(x), x)
    return {x: best[find(x)] for x in parent}


def test_components_are_followed_transitively(spark: SparkSession) -> None:
    """Random pairs and one long chain are stitched as union-find stitches them, named by a customer."""
    rng = np.random.default_rng(4)
    pairs = [(f"v{a}", f"c{b}") for a, b in zip(rng.integers(0, 40, 38), rng.integers(0, 30, 38), strict=True)]
    pairs += [(f"link{i // 2 + i % 2}", f"z{i // 2}") for i in range(20)]  # z0 - link1 - z1 - link2 - ...
    frame = spark.createDataFrame([*pairs, ("", "c1"), ("v1", None)], "left string, right string")
    found = {row["id"]: row["person"] for row in stitch(frame, max_component=60).collect()}
    assert found == _people(pairs)


def test_unknown_ids_stay_as_they_are(spark: SparkSession) -> None:
    """An id that no login ties to anyone is left alone."""
    people = spark.createDataFrame([("v1", "c1"), ("c1", "c1")], "id string, person string")
    events = spark.createDataFrame([("v1", 1), ("c1", 2), ("v9", 3)], "subject string, n int")
    assert {tuple(row) for row in replace_ids(events, people).select("subject", "n").collect()} == {
        ("c1", 1),
        ("c1", 2),
        ("v9", 3),
    }


def test_a_placeholder_id_does_not_melt_everyone_into_one(spark: SparkSession) -> None:
    """An id shared by more people than one person can be stops the run and names who would swallow them."""
    frame = spark.createDataFrame([("null", f"c{i:02d}") for i in range(12)], "left string, right string")
    with pytest.raises(InvalidInputError, match="13 ids would become the one person 'c00'"):
        stitch(frame, max_component=10)
