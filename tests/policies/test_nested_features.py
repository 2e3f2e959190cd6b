"""Nested features become named features."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InvalidInputError
from policies.nested_features import flatten
from policies.records import check_features

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


def test_nested_features_are_named_by_path() -> None:
    """Objects by dots, numbers of a list by position, texts of a list as a set, nulls and ``_`` names left out."""
    found = flatten(
        [
            {"user": {"tier": "gold", "_id": 7, "x": None}},
            {"ages": [3, 5]},
            {"tags": ["a", "b"]},
            {"user": {"tier": "blue"}},
        ],
        where="here",
    )
    assert found == {"user.tier": "blue", "ages.0": 3, "ages.1": 5, "tags=a": True, "tags=b": True}
    with pytest.raises(InvalidInputError, match="mixed values"):
        flatten([{"x": [1, "a"]}], where="here")
    with pytest.raises(InvalidInputError, match="a name of 129 characters"):
        flatten([{"x" * 129: 1}], where="here")


@given(objects=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), max_size=3))
def test_what_comes_out_is_a_table_of_features(objects: list[dict[str, object]]) -> None:
    """Any nested JSON gives features that a policy may see, or one clear error."""
    try:
        found = flatten(objects, where="here")
    except InvalidInputError:
        return
    check_features(found, where="here")
