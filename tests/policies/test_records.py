from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest

from policies.errors import DuplicateOfferError, InvalidInputError, SchemaError, SupportError, UnknownNameError
from policies.records import Context, DecisionTable, Offer, OfferId, OfferSet, SubjectId, check_features
from tests.policies.worlds import batch, offer_set, table


def test_sets_with_equal_content_are_one_object() -> None:
    """Interned: the same offers in the same order are the same set, another order is another."""
    assert offer_set(4) is offer_set(4)
    assert offer_set(4).permuted([1, 0, 2, 3]) is not offer_set(4)
    assert offer_set(4).permuted([1, 0, 2, 3]).revision != offer_set(4).revision


def test_a_new_picture_is_not_a_new_decision_problem() -> None:
    """The payload is kept but does not change the revision."""
    plain, pictured = OfferSet([Offer(OfferId("a"))]), OfferSet([Offer(OfferId("a"), payload={"image": "a.png"})])
    assert plain.revision == pictured.revision
    assert pictured[0].payload == {"image": "a.png"}


def test_duplicate_ids_are_refused() -> None:
    """Two offers with one id are refused and the id is named."""
    with pytest.raises(DuplicateOfferError) as caught:
        OfferSet([Offer(OfferId("a")), Offer(OfferId("b")), Offer(OfferId("a"))])
    assert caught.value.offer_id == "a"


def test_an_empty_set_is_refused() -> None:
    """A decision needs an offer."""
    with pytest.raises(InvalidInputError, match="at least one offer"):
        OfferSet([])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e13, 10**400, [1], {"a": 1}])
def test_features_that_would_poison_a_model_are_refused(value: Any) -> None:
    """Not finite, huge or nested: the feature is named."""
    with pytest.raises(InvalidInputError, match="'x'"):
        check_features({"x": value}, where="the test")


def test_a_table_from_contexts_keeps_missing_values_apart() -> None:
    """A number that is absent is nan, a text that is absent is empty, a boolean is a number; times are told in UTC."""
    contexts = [
        Context(SubjectId("a"), {"n": 1, "t": "x", "b": True}, at=datetime(2026, 1, 2, tzinfo=UTC)),
        Context(SubjectId("b"), {"b": False}, at=datetime(2026, 1, 3, 2, tzinfo=timezone(timedelta(hours=2)))),
    ]
    t = DecisionTable.from_contexts(offer_set(3), contexts)
    assert t.columns["n"][0] == 1.0
    assert np.isnan(t.columns["n"][1])
    assert t.columns["t"].tolist() == ["x", ""]
    assert t.columns["b"].tolist() == [1.0, 0.0]
    assert t.at is not None
    assert t.at.tolist() == [datetime(2026, 1, 2), datetime(2026, 1, 3)]


def test_mixed_types_in_one_feature_are_refused() -> None:
    """Text in one row and a number in another names the feature."""
    contexts = [Context(SubjectId("a"), {"f": 1.0}), Context(SubjectId("b"), {"f": "one"})]
    with pytest.raises(SchemaError, match="'f'"):
        DecisionTable.from_contexts(offer_set(3), contexts)


def test_permuting_offers_moves_the_mask_with_them() -> None:
    """An offer keeps its eligibility wherever it stands."""
    t = table()
    moved = t.permute_offers([4, 2, 0, 1, 3])
    assert np.array_equal(moved.eligible[:, moved.offers.index_of("o2")], t.eligible[:, t.offers.index_of("o2")])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"propensity": np.zeros(41)}, SupportError, "propensity is outside (0, 1] in 41 rows"),
        ({"propensity": np.full(41, 5.0), "probabilities": None}, SupportError, "the first at 0 (5)"),
        ({"reward": np.full(41, np.nan)}, InvalidInputError, "reward is not finite"),
        ({"chosen": np.full(41, 5)}, InvalidInputError, "chosen is outside 0..4"),
        ({"chosen": np.zeros(41)}, SchemaError, "expected integers"),
        ({"reward": np.zeros(40)}, SchemaError, "expected (41,)"),
        ({"probabilities": np.full((41, 5), 0.5)}, SupportError, "do not sum to 1"),
    ],
)
def test_a_bad_log_is_refused_at_the_door(change: dict[str, Any], error: type[Exception], text: str) -> None:
    """Every defect of a log is named with its rows when the batch is built."""
    with pytest.raises(error, match=re.escape(text)):
        replace(batch(), **change)


def test_an_offer_that_could_not_have_been_shown_is_refused() -> None:
    """A log whose shown offer was not eligible, or whose distributions are below 0 somewhere, is refused with the row."""
    b = batch()
    eligible = b.table.eligible.copy()
    eligible[3] = True
    eligible[3, b.chosen[3]] = False
    with pytest.raises(SupportError, match=re.escape("chosen was not eligible in 1 rows, the first at 3")):
        replace(b, table=replace(b.table, eligible=eligible), probabilities=None)
    below = np.tile([0.5, 0.5, 0.5, 0.5, -1.0], (41, 1))
    with pytest.raises(SupportError, match=re.escape("below 0 in 41 rows, the first at 0")):
        replace(b, propensity=np.full(41, 0.5), probabilities=below)


def test_taking_rows_takes_them_everywhere() -> None:
    """Every column of a batch follows the rows asked for."""
    b, rows = batch(), np.asarray([7, 3, 30])
    part = b.take(rows)
    assert part.table.subjects is not None
    assert part.table.subjects.tolist() == ["s7", "s3", "s30"]
    assert part.chosen.tolist() == b.chosen[rows].tolist()
    assert part.probabilities is not None
    assert b.probabilities is not None
    assert np.array_equal(part.probabilities, b.probabilities[rows])


def test_unknown_names_answer_with_the_nearest() -> None:
    """A misspelt name is answered with the one that was meant."""
    assert "did you mean 'squarecb'?" in str(UnknownNameError("kind of policy", "squarcb", ["squarecb", "uniform"]))
