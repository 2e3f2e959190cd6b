"""MLlib's encoding and fit against numpy's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.models.linear import LogisticConfig, RidgeLogistic
from engine.models.mllib import MLlibConfig, MLlibLogistic, encode_in_spark
from engine.models.tabular import TabularEncoder
from engine.sequences.spark import start_spark
from tests.engine.models.tables import decision_points

pytestmark = [pytest.mark.spark, pytest.mark.filterwarnings("ignore::FutureWarning")]
DATA = decision_points(300, seed=7)


def test_spark_expressions_equal_the_numpy_encoding(tmp_path: Path) -> None:
    """One fitted specification, two renderings, the same matrix to float32: missing, text, logs and clips included."""
    encoder = TabularEncoder.fit(DATA.part("train"))
    pq.write_table(DATA.to_arrow(), tmp_path / "points.parquet")
    frame = encode_in_spark(start_spark().read.parquet(str(tmp_path / "points.parquet")), encoder)
    rows = [row["features"].toArray() for row in frame.select("features").collect()]
    np.testing.assert_allclose(np.asarray(rows), encoder.encode(DATA), atol=2e-6)


def test_coefficients_equal_the_numpy_fit() -> None:
    """At one penalty MLlib finds the optimum that the numpy fit finds."""
    train, validation = DATA.part("train"), DATA.part("validation")
    ours = MLlibLogistic(MLlibConfig(penalties=(10.0,)))
    ours.fit(train, validation)
    reference = RidgeLogistic(LogisticConfig(penalties=(10.0,)))
    reference.fit(train, validation)
    np.testing.assert_allclose(ours.predict(DATA), reference.predict(DATA), atol=2e-3)


def test_trees_as_arrays_predict_what_spark_predicts(tmp_path: Path) -> None:
    """The arrays that come back from Spark give Spark's own probabilities, and fewer trees are kept where validation says so."""
    from pyspark.ml.classification import GBTClassifier

    from engine.models.mllib_boosting import MLlibBoosting, MLlibBoostingConfig, _probability, _trees_of

    train = DATA.part("train")
    columns = TabularEncoder.fit(train)
    pq.write_table(train.to_arrow().drop_columns(["event_type", "item", "gap_s", "value"]), tmp_path / "rows.parquet")
    rows = encode_in_spark(start_spark().read.parquet(str(tmp_path / "rows.parquet")), columns)
    fitted = GBTClassifier(maxIter=4, maxDepth=3, seed=1).fit(rows.select("features", "label"))
    theirs = [r["probability"][1] for r in fitted.transform(rows.select("features")).select("probability").collect()]
    margins = _trees_of(fitted).margins(columns.encode(train).astype(np.float64))
    np.testing.assert_allclose(_probability(margins.sum(axis=1)), theirs, atol=1e-5)
    model = MLlibBoosting(MLlibBoostingConfig(max_trees=4))
    report = model.fit(train, DATA.part("validation"))
    losses = report.history["validation_log_loss"]
    assert report.best_step == int(np.argmin(losses)) + 1
