"""A log in Spark is judged where it lies, with the same result as the same log read here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offline_eval import evaluate
from offline_eval.candidates import Candidate
from offline_eval.interop.arrow import read_parquet, write_parquet
from offline_eval.interop.spark import SparkLog
from policies.errors import InvalidInputError, SchemaError
from policies.fixed import Uniform
from tests.offline_eval.worlds import Better, Guess, world

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Handing Arrow batches to Python goes through a check of pandas, which is not used.
pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of three files, with subjects, times, ids and distributions."""
    path = tmp_path_factory.mktemp("log")
    w = world(n=9000, n_subjects=2000)
    at = np.datetime64("2026-01-01", "us") + np.arange(9000) * np.timedelta64(7, "m")
    ids = np.asarray([f"d{i}" for i in range(9000)])
    log = replace(w.log, table=replace(w.log.table, at=at), decision_ids=ids)
    for i in range(3):
        write_parquet(log.take(slice(3000 * i, 3000 * (i + 1))), path / f"part-{i}.parquet")
    return path


@pytest.mark.parametrize("is_fitted", [False, True])
def test_spark_and_local_reading_agree(spark: SparkSession, folder: Path, is_fitted: bool) -> None:
    """Every figure is the same to 1e-9 whether Spark's partitions added it up or memory held it, clustered errors and resamples too.

    But for the bins in which the reward model is compared with rewards: they depend on which rows come first. A model fitted on
    the rows in Spark's order has the same folds, and coefficients that differ by what single-precision features round to.
    """
    candidates: dict[str, Candidate] = {"better": Better(), "uniform": Uniform()}
    model = None if is_fitted else Guess()
    settings: dict[str, Any] = {"explore_share": 0.1, "reward_model": model, "n_resamples": 20, "seed": 4}
    local = evaluate(read_parquet(folder), candidates, **settings)
    frame = spark.read.parquet(str(folder))
    there = evaluate(SparkLog(frame), candidates, **settings)
    assert frame.rdd.getNumPartitions() > 1
    a, b = dict(_leaves(local.to_json())), dict(_leaves(there.to_json()))
    assert a.keys() == b.keys()
    (binned,) = [k.removesuffix("/name") for k, v in a.items() if v == "reward model's calibration"]
    numbers = [k for k, v in a.items() if isinstance(v, float) and not k.startswith((binned, "/reward_model/"))]
    assert len(numbers) > 100
    for key in numbers:
        assert b[key] == pytest.approx(a[key], rel=1e-6 if is_fitted else 1e-9, abs=1e-12), key
    assert {k: v for k, v in a.items() if k.endswith(("verdict", "status"))} == {
        k: v for k, v in b.items() if k.endswith(("verdict", "status"))
    }


def test_arrays_are_refused_in_spark(spark: SparkSession, folder: Path) -> None:
    """Rows of a data frame have no order, so an array of probabilities is refused by name."""
    log = SparkLog(spark.read.parquet(str(folder)))
    with pytest.raises(InvalidInputError, match=re.escape("'c' is an array; expected a policy or a model")):
        evaluate(log, {"c": np.full((9000, 3), 1 / 3)}, fit_reward=None)


def test_offers_that_were_never_shown_and_columns_that_are_missing_are_seen(spark: SparkSession, folder: Path) -> None:
    """An offer that only could have been shown is one of the offers, and a missing column is named before anything is read."""
    shown = read_parquet(folder).table.offers.ids
    frame = spark.read.parquet(str(folder))
    quoted = ", ".join(f"'{o}'" for o in (*shown, "unseen"))
    assert SparkLog(frame.selectExpr("*", f"array({quoted}) AS eligible")).offers.ids == tuple(
        sorted((*shown, "unseen"))
    )
    with pytest.raises(SchemaError, match=re.escape("'propensity'")):
        evaluate(SparkLog(frame.drop("propensity")), {"uniform": Uniform()}, fit_reward=None)


def _leaves(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for k, v in value.items() for leaf in _leaves(v, f"{path}/{k}")]
    if isinstance(value, list):
        return [leaf for i, v in enumerate(value) for leaf in _leaves(v, f"{path}/{i}")]
    return [(path, value)]
