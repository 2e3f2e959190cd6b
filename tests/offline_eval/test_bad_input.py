"""Whatever is wrong with a log ends in a named error or a right answer, and never in NaN."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offline_eval import evaluate
from offline_eval.interop.arrow import ParquetLog, from_arrow, read_parquet, to_arrow
from policies.errors import InvalidInputError, NextofferError, SchemaError, SupportError
from policies.fixed import FixedOrder
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
        (_first("propensity", 5.0), "column 'propensity' is outside (0, 1] in 1 rows"),
        (_first("propensity", 0.0), "column 'propensity' is outside (0, 1] in 1 rows"),
        (_first("propensity", float("nan")), "column 'propensity' is outside (0, 1] in 1 rows"),
        (_first("propensity", None), "column 'propensity' is missing in 1 rows"),
        (_first("reward", float("nan")), "column 'reward' is not finite in 1 rows"),
        (_first("reward", float("inf")), "column 'reward' is not finite in 1 rows"),
        (_first("offer", None), "column 'offer' is missing in 1 rows"),
        (_column("propensity", pa.array([50.0] * 600)), "in 600 rows, the first at 0 (50); these look like percent"),
        (TABLE.append_column("eligible", pa.array([["offer 0"]] * 600)), "column 'eligible' lacks the shown offer in"),
        (TABLE.append_column("payload", pa.array([{"a": 1}] * 600)), "--column ignore=payload"),
        (TABLE.append_column("tags", pa.array([["a"]] * 600)), "expected lists of equally many numbers"),
        (TABLE.append_column("at", pa.array([1_700_000_000] * 600)), "column 'at' has type int64; expected timestamps"),
        (TABLE.append_column("at", pa.array(["yesterday"] * 600)), "holds 'yesterday'; expected timestamps"),
        (
            TABLE.append_column("probabilities", pa.array([[0.2, 0.3, 0.5]] * 600)),
            "in the order offer 0, offer 1, offer 2",
        ),
        (TABLE.append_column("probabilities", pa.array([[0.2, 0.3, 0.9]] * 600)), "holds no distribution in 600 rows"),
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


def test_missing_columns_are_all_named_with_what_others_call_them() -> None:
    """A log with a peer's column names is answered once, with the words to type."""
    table = TABLE.select(["offer", "reward", "propensity"]).rename_columns(["action", "click", "pscore"])
    with pytest.raises(SchemaError) as found:
        from_arrow(table)
    assert "no columns 'offer' and 'reward' and 'propensity'" in str(found.value)
    assert "columns=Columns(offer='action', reward='click', propensity='pscore')" in str(found.value)
    assert "--column offer=action --column reward=click --column propensity=pscore" in str(found.value)


def test_distributions_may_name_their_offers() -> None:
    """Lists in another order are refused; in the order of offers=, or as maps by offer, they are read, a missing offer as 0."""
    ids = list(W.log.table.offers.ids)
    assert W.log.probabilities is not None
    turned = TABLE.append_column("probabilities", pa.array(list(W.log.probabilities[:, ::-1])))
    with pytest.raises(SupportError, match="another probability than 'propensity'"):
        from_arrow(turned, offers=ids)
    assert from_arrow(turned, offers=ids[::-1]).table.offers.ids == tuple(ids[::-1])
    maps = [dict(zip(ids, map(float, row), strict=True)) for row in W.log.probabilities]
    kinds = (pa.map_(pa.string(), pa.float64()), pa.struct([(i, pa.float64()) for i in ids]))
    for kind in kinds:
        rows = [list(m.items()) for m in maps] if pa.types.is_map(kind) else maps
        log = from_arrow(TABLE.append_column("probabilities", pa.array(rows, kind)).slice(7))
        assert log.probabilities is not None
        np.testing.assert_allclose(log.probabilities, W.log.probabilities[7:])
    only = pa.array([[(o, 1.0)] for o in TABLE["offer"].to_pylist()], kinds[0])
    certain = _column("propensity", pa.array([1.0] * 600)).append_column("probabilities", only)
    assert np.array_equal(from_arrow(certain).probabilities, np.eye(3)[W.log.chosen])  # type: ignore[arg-type]


def test_offers_that_could_be_shown_and_never_were_belong_to_the_log() -> None:
    """An eligible offer without a row is an offer of the log, and a candidate that wants it cannot be judged."""
    table = TABLE.append_column("eligible", pa.array([["offer 0", "offer 1", "offer 2", "unseen"]] * 600))
    log = from_arrow(table.replace_schema_metadata(None))
    assert log.table.offers.ids[-1] == "unseen"
    panel = evaluate(log, {"c": FixedOrder(("unseen",))}, n_resamples=0)
    assert panel.verdicts["c"].word == "this log cannot answer"
    assert any("Never shown: unseen" in reason for reason in panel.verdicts["c"].reasons)


def test_separated_values_are_read_whatever_separates_them(tmp_path: Path) -> None:
    """Commas, semicolons and tabs; an empty file and a ragged one are one sentence."""
    for separator, name in ((",", "a.csv"), (";", "b.csv"), ("\t", "c.tsv")):
        lines = [
            separator.join(row) for row in (("offer", "reward", "propensity"), ("a", "1", "0.5"), ("ü", "0", "0.5"))
        ]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        assert read_parquet(tmp_path / name).table.offers.ids == ("a", "ü")
    for name, content in (("empty.csv", ""), ("ragged.csv", "offer,reward,propensity\na,1\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InvalidInputError, match="expected a line of names"):
            read_parquet(tmp_path / name)


def test_a_folder_is_a_log_or_says_what_it_lacks(tmp_path: Path) -> None:
    """Names of folders count where they are asked for; an empty folder and a file that is no Parquet are one sentence."""
    for variant in ("a", "b"):
        (tmp_path / "log" / f"variant={variant}").mkdir(parents=True)
        pq.write_table(TABLE, tmp_path / "log" / f"variant={variant}" / "0.parquet")
    log = read_parquet(tmp_path / "log")
    assert log.variants is not None
    assert sorted(np.unique(log.variants)) == ["a", "b"]
    assert len(log) == sum(len(part) for part in ParquetLog(tmp_path / "log").chunks(100)) == 1200
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidInputError, match="holds no Parquet file"):
        read_parquet(tmp_path / "none")
    (tmp_path / "bad.parquet").write_text("hello")
    with pytest.raises(InvalidInputError, match="not readable as Parquet"):
        read_parquet(tmp_path / "bad.parquet")


def test_what_a_first_call_gets_wrong_is_said() -> None:
    """A table for a log, an array for the candidates, a class for a policy, shares and effects that are none."""
    good: dict[str, Any] = {"uniform": W.uniform}
    for log, candidates, settings, words in (
        (TABLE, good, {}, "the log is a Table; expected an InteractionBatch"),
        (W.log, W.uniform, {}, "candidates are a ndarray; expected a mapping"),
        (W.log, {"c": FixedOrder}, {}, "expected a policy (an instance"),
        (W.log, {"c": W.uniform.tolist()}, {}, "candidate 'c' is a list"),
        (W.log, good, {"explore_share": 7.0}, "explore_share is 7; expected a share between 0 and 1"),
        (W.log, good, {"minimal_effect": -1.0}, "minimal_effect is -1"),
        (W.log, good, {"minimal_effect": float("nan")}, "minimal_effect is nan"),
        (W.log, good, {"n_resamples": -1}, "n_resamples is -1"),
        (W.log, good, {"reward_range": (1.0, 0.0)}, "reward_range is (1.0, 0.0)"),
        (W.log, good, {"n_folds": 1}, "n_folds is 1"),
    ):  # fmt: skip
        with pytest.raises(InvalidInputError) as found:
            evaluate(log, candidates, **settings)  # type: ignore[arg-type]  # what is wrong is the point
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
