"""Azure Personalizer's exported log: each quirk is handled, counted and named; the truth comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.sources.personalizer_export import import_lines, read_export
from offline_eval.interop.arrow import read_parquet, write_parquet
from policies.errors import InvalidInputError
from tests.engine.sources.personalizer_log import WORTH, export, line

GOOD: dict[str, Any] = {
    "tier": "new",
    "first": "salad",
    "p": {"pasta": 0.25, "salad": 0.5, "soup": 0.25},
    "reward": 1.0,
}


def _with(**changed: Any) -> str:
    return json.dumps({**line(9, **GOOD), **changed})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "an empty line"),
        ("{", "not JSON"),
        ('{"EventId": "e9", "RewardValue": 1}', "no decision"),
        (_with(_skipLearn=True), "never activated"),
        (_with(_labelIndex=None), "no _labelIndex"),
        (_with(_label_Action=None), "no _labelIndex or no _label_Action"),
        (_with(_labelIndex=1), "disagree"),
        (_with(_labelIndex=7), "disagree"),
        (_with(a=[2, 2, 3]), "'a' does not number"),
        (_with(a=[1, 0, 2]), "'a' does not number"),
        (_with(_label_probability=0.9), "_label_probability and 'p' disagree"),
        (_with(p=[0.5, 0.25]), "not one probability"),
        (_with(p=[0.5, 0.9, 0.4], _label_probability=None), "sum to 1"),
        (_with(p=[0.0, 0.5, 0.5], _label_probability=None), "probability 0"),
        (_with(p=[-0.5, 1.0, 0.5], _label_probability=None), "sum to 1"),
        (_with(_label_cost="much"), "_label_cost"),
        (_with(_label_cost=1e30), "larger than"),
        (_with(_label_cost=float("nan")), "_label_cost"),
        (_with(pdrop=1.0), "pdrop"),
        (_with(Timestamp="yesterday"), "timestamp"),
        (_with(EventId=None), "event id"),
        (_with(EventId="e1"), "came before"),
        (_with(c={"_multi": [{"_tag": "a"}, {"_tag": "a"}, {"_tag": "b"}]}), "two actions"),
        (_with(c={"_multi": [{"x": 1}, {"_tag": "a"}, {"_tag": "b"}]}), "without an id"),
        (_with(c={"FromUrl": [{"x": [1, "y"]}], "_multi": [{"_tag": t} for t in "abc"]}), "features"),
    ],
)
def test_a_line_that_cannot_be_used_is_left_out_and_counted(text: str, reason: str) -> None:
    """Among good lines a bad one is dropped under its reason, with its number; the others stay."""
    found = import_lines([json.dumps(line(1, **GOOD)), text, json.dumps(line(2, **GOOD))])
    assert (found.n_lines, len(found.batch)) == (3, 2)
    ((said, dropped),) = found.dropped.items()
    assert reason in said
    assert (dropped.n, dropped.first_line) == (1, 2)


def test_names_and_numbers_are_those_of_the_rank_door() -> None:
    """Features are named as rank requests name them; the distribution follows the actions, not the order shown."""
    found = import_lines([json.dumps(line(1, **GOOD))])
    batch = found.batch
    assert batch.table.offers.ids == ("salad", "pasta", "soup")
    assert {o.id: dict(o.features) for o in batch.table.offers} == {
        "pasta": {"calories": 100.0},
        "salad": {"calories": 200.0},
        "soup": {"calories": 300.0},
    }
    assert {name: column[0] for name, column in batch.table.columns.items()} == {
        "device": "phone",
        "user.tier": "new",
        "user.visits": 1.0,
    }
    assert batch.probabilities is not None
    assert batch.probabilities.tolist() == [[0.5, 0.25, 0.25]]
    assert (batch.reward.tolist(), batch.propensity.tolist()) == ([1.0], [0.5])
    assert str(batch.table.at[0] if batch.table.at is not None else "") == "2026-05-01T10:00:01.123456"


def test_inverse_propensities_recover_the_truth(tmp_path: Path) -> None:
    """A log of a policy that mostly shows pasta: the values of all three actions come out within four standard errors."""
    path = tmp_path / "export" / "2026" / "05.json"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(export(3000)))
    batch = read_export(tmp_path / "export").batch
    shown = np.asarray(batch.table.offers.ids)[batch.chosen]
    for offer in ("pasta", "salad", "soup"):
        terms = (shown == offer) / batch.propensity * batch.reward
        truth = (WORTH["new"][offer] + WORTH["regular"][offer]) / 2
        assert abs(terms.mean() - truth) < 4 * terms.std() / np.sqrt(len(terms)), offer


@pytest.mark.slow
def test_a_thinned_out_export_is_made_whole_on_average() -> None:
    """Events without reward kept one time in four (pdrop 0.75) stand for four: the mean reward is that of the whole log."""
    rng = np.random.default_rng(3)
    lines = [json.loads(text) for text in export(1600, seed=1)]
    truth = float(np.mean([-e["_label_cost"] for e in lines]))
    kept = [
        json.dumps({**e, "pdrop": 0.0 if e["_label_cost"] else 0.75})
        for e in lines
        if e["_label_cost"] or rng.random() < 0.25
    ]
    found = import_lines(kept)
    error = 2 * found.batch.reward.std() / np.sqrt(len(kept))
    assert abs(found.batch.reward.mean() - truth) < 4 * error
    assert found.n_repeated == len(found.batch) - len(kept) > 400
    assert found.batch.table.subjects is not None
    assert len(set(found.batch.table.subjects.tolist())) == len(kept)
    odd = import_lines([json.dumps({**e, "pdrop": 0.6}) for e in lines], seed=5)
    assert abs(len(odd.batch) / len(lines) - 2.5) < 4 * np.sqrt(0.25 / len(lines))


def test_a_multi_slot_line_is_a_decision_for_each_slot() -> None:
    """Slots have their own actions, probabilities and rewards; numbered from 0 in the export."""
    event = line(1, **GOOD)
    event["c"]["_slots"] = [{"_id": "hero", "size": "large"}, {"_id": "side"}]
    event["_outcomes"] = [
        {"_label_cost": -1.0, "_id": "hero", "_a": [2, 0, 1], "_p": [0.5, 0.3, 0.2]},
        {"_label_cost": 0.0, "_id": "side", "_a": [0, 1], "_p": [0.9, 0.1]},
    ]
    batch = import_lines([json.dumps(event)]).batch
    assert batch.decision_ids is not None
    assert batch.decision_ids.tolist() == ["e1#hero", "e1#side"]
    assert [batch.table.offers.ids[c] for c in batch.chosen] == ["soup", "pasta"]
    assert batch.table.columns["slot"].tolist() == ["hero", "side"]
    assert batch.table.columns["slot.size"].tolist() == ["large", ""]
    assert batch.table.eligible.sum(axis=1).tolist() == [3, 2]
    assert (batch.reward.tolist(), batch.propensity.tolist()) == ([1.0, 0.0], [0.5, 0.9])


def test_the_log_in_parquet_keeps_the_features_of_offers(tmp_path: Path) -> None:
    """What is written is read back equal, offers with their features in their order included."""
    batch = import_lines(export(40)).batch
    write_parquet(batch, tmp_path / "log.parquet")
    again = read_parquet(tmp_path / "log.parquet")
    assert again.table.offers is batch.table.offers
    assert again.probabilities is not None
    assert batch.probabilities is not None
    np.testing.assert_array_equal(again.probabilities, batch.probabilities)
    np.testing.assert_array_equal(again.chosen, batch.chosen)


def test_an_export_without_a_usable_line_is_an_error(tmp_path: Path) -> None:
    """Nothing to read, or nothing that can be used, says why."""
    with pytest.raises(InvalidInputError, match="never activated"):
        import_lines([_with(_skipLearn=True)])
    with pytest.raises(InvalidInputError, match="expected Personalizer's exported log"):
        read_export(tmp_path)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "_label_cost",
    "_label_probability",
    "_label_Action",
    "_labelIndex",
    "a",
    "c",
    "p",
    "pdrop",
    "Timestamp",
    "EventId",
    "_outcomes",
)


@given(changed=st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=3))
@settings(max_examples=60, deadline=None)
def test_any_damage_to_a_line_drops_it_or_leaves_it_valid(changed: dict[str, Any]) -> None:
    """Whatever is in a field, the import neither fails nor lets an impossible number through."""
    damaged = json.dumps({**line(2, **GOOD), **changed})
    found = import_lines([json.dumps(line(1, **GOOD)), damaged])
    assert len(found.batch) >= 1
    assert found.batch.probabilities is not None
    np.testing.assert_allclose(found.batch.probabilities.sum(axis=1), 1.0)
