"""Rows of several tables and logs, one after the other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from policies.errors import SchemaError
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet
from policies.stacking import concatenate, stack_tables


def part(n: int, *, offers: tuple[str, ...] = ("a", "b")) -> InteractionBatch:
    """Rows that know everything there is to know."""
    table = DecisionTable(
        OfferSet([Offer(OfferId(o)) for o in offers]),
        np.ones((n, len(offers)), dtype=np.bool_),
        columns={"x": np.arange(n, dtype=np.float64)},
        vectors={"v": np.ones((n, 3), dtype=np.float32)},
        subjects=np.full(n, f"s{n}"),
        at=np.full(n, np.datetime64("2026-03-01", "us")),
    )
    even = np.full((n, len(offers)), 1 / len(offers))
    return InteractionBatch(table, np.zeros(n, dtype=np.int64), even[:, 0], np.full(n, float(n)), probabilities=even)


def test_rows_are_put_together_in_order_with_everything_all_parts_have() -> None:
    """Parts of 2 and 3 rows are 5 rows in order; a column that one part lacks is left out; one weighted part marks the whole."""
    whole = concatenate([part(2), part(3)])
    assert whole.reward.tolist() == [2.0, 2.0, 3.0, 3.0, 3.0]
    assert whole.table.columns["x"].tolist() == [0.0, 1.0, 0.0, 1.0, 2.0]
    assert whole.table.vectors["v"].shape == (5, 3)
    assert whole.table.subjects is not None
    assert whole.table.subjects.tolist() == ["s2", "s2", "s3", "s3", "s3"]
    assert whole.probabilities is not None
    assert not whole.is_reward_weighted
    bare = replace(part(3), probabilities=None, table=replace(part(3).table, at=None), is_reward_weighted=True)
    some = concatenate([part(2), bare])
    assert some.probabilities is None
    assert some.table.at is None
    assert some.is_reward_weighted


def test_parts_that_differ_are_refused() -> None:
    """Other offers, columns or vectors would put values into rows that they are not of."""
    first = part(2).table
    for other in (
        part(2, offers=("a", "c")).table,
        replace(first, columns={}),
        replace(first, vectors={"v": first.vectors["v"], "w": first.vectors["v"]}),
    ):
        with pytest.raises(SchemaError, match="different offers, columns or vectors"):
            stack_tables([first, other])
