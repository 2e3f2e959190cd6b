"""Figures by group against the figures of the group's own rows."""

from __future__ import annotations

import numpy as np
import pytest

from engine.models.metrics import expit, roc_auc
from engine.models.segments import segments_of, segments_text
from tests.engine.models.tables import decision_points


def test_each_group_is_judged_by_its_own_rows() -> None:
    """Rows, rate, level and ranking of a group are those of its rows alone, and no row is lost or counted twice."""
    data = decision_points(700, seed=2).part("test", "train", "validation")
    rng = np.random.default_rng(0)
    good = expit(2.0 * data.label + rng.normal(size=len(data)) - 1.0)
    flat = rng.random(len(data))
    found = segments_of(data, good, flat, seed=0)
    assert {"offer", "offer_kind", "customer_age"} <= set(found)
    assert "as_of" not in found  # 200 different days are no segment
    for name, groups in found.items():
        values = data.offer if name == "offer" else data.columns[name]
        assert sum(g["rows"] for g in groups) == len(data)
        for group in groups:
            own = values == group["value"]
            assert group["positives"] == data.label[own].sum()
            assert group["rate"] == pytest.approx(data.label[own].mean())
            assert group["mean_probability"] == pytest.approx(good[own].mean())
            auc = roc_auc(data.label[own], good[own])
            assert group["roc_auc"]["value"] == pytest.approx(auc)
            assert group["against_reference"]["value"] == pytest.approx(auc - roc_auc(data.label[own], flat[own]))
            assert group["roc_auc"]["low"] < auc < group["roc_auc"]["high"]
    assert "offer o1" in segments_text(found)


def test_a_group_of_one_outcome_has_a_level_and_no_ranking() -> None:
    """Where an outcome is too rare, rows and level are told and no AUC is made up."""
    data = decision_points(400, seed=3).part("train", "test")
    data = data.take((data.offer != "o2") | (data.label == 0))
    p = np.full(len(data), 0.3)
    groups = {g["value"]: g for g in segments_of(data, p, p, seed=0)["offer"]}
    assert groups["o2"]["positives"] == 0
    assert "roc_auc" not in groups["o2"]
    assert "too few" in segments_text({"offer": [groups["o2"]]})
