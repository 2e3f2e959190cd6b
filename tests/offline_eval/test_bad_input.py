"""Whatever is wrong with a log ends in a named error or a right answer, and never in NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from offline_eval import evaluate
from offline_eval.interop.arrow import from_arrow, to_arrow
from policies.errors import NextofferError
from policies.records import InteractionBatch
from tests.offline_eval.worlds import tiny_log, world

W = world(n=600, n_subjects=200)
TABLE = to_arrow(replace(W.log, probabilities=None))


def _column(name: str, values: object) -> pa.Table:
    return TABLE.set_column(TABLE.column_names.index(name), name, values)


def _first(name: str, value: object) -> pa.Table:
    return _column(name, pa.array([value, *TABLE[name].to_pylist()[1:]]))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (_first("propensity", 5.0), "propensity is outside (0, 1] in 1 rows"),
        (_first("propensity", 0.0), "propensity is outside (0, 1] in 1 rows"),
        (_first("propensity", float("nan")), "propensity is outside (0, 1] in 1 rows"),
        (_first("propensity", None), "column 'propensity' is missing in 1 rows"),
        (_first("reward", float("nan")), "reward is not finite in 1 rows"),
        (_first("reward", float("inf")), "reward is not finite in 1 rows"),
        (_first("offer", "unheard of"), "names offers that are not in the offer set in 1 rows, such as ['unheard of']"),
        (TABLE.drop_columns(["propensity"]), "the log has no column 'propensity'"),
        (TABLE.slice(0, 0), "the log has no rows"),
        (_column("propensity", pa.array(["0.5"] * 600)), "column 'propensity' has type string; expected numbers"),
    ],
)
def test_bad_tables_are_named(table: pa.Table, words: str) -> None:
    """The error names the column, the rule and the number of rows."""
    with pytest.raises(NextofferError) as found:
        from_arrow(table, offers=["offer 0", "offer 1", "offer 2"])
    assert words in str(found.value)


def _two_rows() -> InteractionBatch:
    return tiny_log(2, 3)[0]


def _no_reward() -> InteractionBatch:
    return W.log.with_reward(np.zeros(600))


def _one_positive() -> InteractionBatch:
    return W.log.with_reward(np.eye(1, 600, 17)[0])


def _one_subject() -> InteractionBatch:
    return replace(W.log, table=replace(W.log.table, subjects=np.full(600, "same")))


def _constant_context() -> InteractionBatch:
    return replace(W.log, table=replace(W.log.table, columns={"x": np.full(600, 3.0), "y": np.full(600, np.nan)}))


def _huge_rewards() -> InteractionBatch:
    return W.log.with_reward(W.log.reward * 1e12 - 5e11)


@pytest.mark.parametrize(
    "log",
    [_two_rows, _no_reward, _one_positive, _one_subject, _constant_context, _huge_rewards],
    ids=lambda f: f.__name__,
)
def test_poor_logs_give_a_panel_without_nan(log: Callable[[], InteractionBatch]) -> None:
    """Two rows, no reward at all, one class in a fold, one subject, nothing to learn from: figures or null, and no promise."""
    batch = log()
    n, k = batch.table.eligible.shape
    panel = evaluate(batch, {"uniform": np.full((n, k), 1 / k)}, n_resamples=50)
    text = json.dumps(panel.to_json(), allow_nan=False)
    assert "NaN" not in text
    assert "nan" not in panel.to_table()
    if log in (_two_rows, _no_reward, _one_positive, _one_subject):
        assert panel.verdicts["uniform"].word == "this log cannot answer"
