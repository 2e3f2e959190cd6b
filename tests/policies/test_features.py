from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import SchemaError
from policies.features import FeatureSpace
from policies.records import Context, DecisionTable, Offer, OfferId, OfferSet, SubjectId
from tests.policies.worlds import offer_set, table


def test_three_rows_by_hand() -> None:
    """A standardised number with its gap, two levels with the unknown one, worked out by hand."""
    t = DecisionTable(
        offer_set(2),
        np.ones((3, 2), dtype=np.bool_),
        columns={"x": np.asarray([1.0, np.nan, 3.0]), "stage": np.asarray(["b", "a", ""])},
    )
    space = FeatureSpace.fit(t)
    assert [n.name for n in space.context_names] == ["stage=a", "stage=b", "stage=?", "x", "x=missing"]
    assert space.encode_contexts(t).tolist() == [[0, 1, 0, -1, 0], [1, 0, 0, 0, 1], [0, 0, 1, 1, 0]]


def test_a_batch_equals_its_rows() -> None:
    """One decision takes a fast path with the same numbers."""
    t = table()
    space = FeatureSpace.fit(t)
    rows = np.concatenate([space.encode_contexts(t.take(slice(i, i + 1))) for i in range(len(t))])
    assert np.array_equal(rows, space.encode_contexts(t))


def test_values_never_seen_are_unknown_and_far_values_are_clipped() -> None:
    """A new level lights the unknown column and a wild number stops at ten standard deviations."""
    space = FeatureSpace.fit(table())
    contexts = [
        Context(
            SubjectId("s"), {"stage": "never seen", "pages": 1e11, "days_since": 1.0}, {"sequence": (0.0, 0.0, 0.0)}
        )
    ]
    row = dict(
        zip(
            (n.name for n in space.context_names),
            space.encode_contexts(DecisionTable.from_contexts(offer_set(), contexts))[0],
            strict=True,
        )
    )
    assert row["stage=?"] == 1.0
    assert row["pages"] == 10.0


def test_a_manifest_reads_back_to_an_equal_space() -> None:
    """Through JSON and back: equal, with the same hash and the same numbers."""
    t = table()
    space = FeatureSpace.fit(t)
    again = FeatureSpace.from_manifest(json.loads(json.dumps(space.to_manifest())))
    assert again == space
    assert again.hash == space.hash
    assert np.array_equal(again.encode_contexts(t), space.encode_contexts(t))
    assert np.array_equal(again.encode_offers(t.offers), space.encode_offers(t.offers))


def test_the_hash_follows_the_content() -> None:
    """Another fit is another hash."""
    assert FeatureSpace.fit(table(seed=1)).hash != FeatureSpace.fit(table(seed=2)).hash


@pytest.mark.parametrize("column", ["stage", "pages"])
def test_a_column_of_another_type_is_refused_by_name(column: str) -> None:
    """Text where a number was fitted, or the other way round, names the feature."""
    t = table()
    swapped = np.asarray(["x"] * len(t)) if column == "pages" else np.zeros(len(t))
    wrong = DecisionTable(t.offers, t.eligible, {**t.columns, column: swapped}, t.vectors)
    with pytest.raises(SchemaError, match=column):
        FeatureSpace.fit(t).encode_contexts(wrong)


def test_an_identifier_is_not_a_feature() -> None:
    """A text column with hundreds of levels is refused with what to do."""
    t = DecisionTable(
        offer_set(2), np.ones((300, 2), dtype=np.bool_), columns={"user": np.asarray([f"u{i}" for i in range(300)])}
    )
    with pytest.raises(SchemaError, match="identifier"):
        FeatureSpace.fit(t)
    assert FeatureSpace.fit(t, ignore=["user"]).context_width == 0


def test_an_offer_not_fitted_is_known_by_its_features() -> None:
    """A new offer has its price and kind, and no indicator of its own."""
    space = FeatureSpace.fit(table())
    new = OfferSet([*offer_set(), Offer(OfferId("new"), {"price_eur": 4.9, "kind": "a", "trial_days": 0.0})])
    rows = space.encode_offers(new)
    names = [n.name for n in space.offer_names]
    indicators = [i for i, n in enumerate(names) if n.startswith("id=")]
    assert rows[-1, indicators].sum() == 0
    features = [i for i in range(len(names)) if i not in indicators]
    assert np.array_equal(rows[-1, features], rows[0, features])


@given(values=st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=2, max_size=9))
def test_numbers_encode_finitely(values: list[float | None]) -> None:
    """Whatever numbers a column holds, gaps included, what a model sees is finite and within the clip."""
    column = np.asarray([np.nan if v is None else v for v in values])
    t = DecisionTable(offer_set(3), np.ones((len(values), 3), dtype=np.bool_), columns={"x": column})
    encoded = FeatureSpace.fit(t).encode_contexts(t)
    assert np.isfinite(encoded).all()
    assert np.abs(encoded).max() <= 10.0
