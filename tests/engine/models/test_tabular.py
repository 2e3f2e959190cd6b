"""Columns beside the sequence as a matrix."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from engine.models.tabular import NumberSpec, TabularEncoder, TextSpec
from policies.errors import SchemaError
from tests.engine.models.tables import decision_points

DATA = decision_points(400, seed=1)


def test_numbers_are_standardised_and_missing_ones_marked() -> None:
    """Each known number has mean 0 and spread 1 on what it was fitted on; a missing one is 0 with its mark set."""
    encoder = TabularEncoder.fit(DATA)
    matrix = encoder.encode(DATA)
    at = encoder.names.index("agg_spend")
    missing = np.isnan(DATA.columns["agg_spend"])
    assert matrix[~missing, at].mean() == pytest.approx(0.0, abs=1e-5)
    assert matrix[~missing, at].std() == pytest.approx(1.0, abs=1e-4)
    assert not matrix[missing, at].any()
    np.testing.assert_array_equal(matrix[:, at + 1], missing)
    assert encoder.names[at + 1] == "agg_spend=missing"


def test_text_by_hand() -> None:
    """One indicator a level, the last for anything else; rows sum to one."""
    spec = TextSpec("offer_kind", ("big", "tiny"))
    np.testing.assert_array_equal(spec.encode(np.array(["tiny", "new", "big"])), [[0, 1, 0], [0, 0, 1], [1, 0, 0]])


def test_log_number_by_hand() -> None:
    """log(1 + x) first, then the scale, cut at ten."""
    spec = NumberSpec("agg_x", mean=np.log(2.0), scale=0.5, is_log=True, may_be_missing=False)
    expected = [[0.0], [(np.log(4.0) - np.log(2.0)) / 0.5], [10.0]]
    np.testing.assert_allclose(spec.encode(np.array([1.0, 3.0, 1e9])), expected, rtol=1e-6)


def test_manifest_round_trip_and_constant_columns() -> None:
    """A saved encoder encodes the same; a column that never varies takes no place."""
    data = replace(DATA, columns={**DATA.columns, "agg_flat": np.full(len(DATA), 3.0)})
    encoder = TabularEncoder.fit(data)
    back = TabularEncoder.from_manifest(json.loads(json.dumps(encoder.to_manifest())))
    assert not any(name.startswith("agg_flat") for name in back.names)
    np.testing.assert_array_equal(back.encode(DATA), encoder.encode(data))


def test_ignored_columns_do_not_enter() -> None:
    """The switch that forbids attributes leaves none of them in."""
    names = TabularEncoder.fit(DATA, ignore=("customer_*", "agg_spend")).names
    assert not any(name.startswith(("customer_", "agg_spend")) for name in names)
    assert any(name.startswith("offer_kind") for name in names)


def test_changed_columns_are_named() -> None:
    """A column that vanished or changed its type since the fit says so."""
    encoder = TabularEncoder.fit(DATA)
    with pytest.raises(SchemaError, match="'agg_spend' is missing"):
        encoder.encode(DATA.with_columns({k: v for k, v in DATA.columns.items() if k != "agg_spend"}))
    with pytest.raises(SchemaError, match="fitted on text"):
        encoder.encode(DATA.with_columns({**DATA.columns, "offer_kind": np.zeros(len(DATA))}))
