"""Scores of all decision points in Spark, and the traits that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.models.calibration import LogisticCalibrator
from engine.models.linear import RidgeLogistic
from engine.subjects.trait_files import load_trait_files
from engine.training.scoring import RunScorer
from policies.errors import InvalidInputError
from policies.records import Features
from tests.engine.models.tables import decision_points

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

DATA = decision_points(240, seed=3, n_subjects=40)


@pytest.mark.spark
def test_spark_scores_every_row_as_the_scorer_does_and_keeps_each_subjects_latest(
    spark: SparkSession, tmp_path: Path
) -> None:
    """Rows in Spark get the probabilities of the same rows at once; traits are the mean, or each offer's, of a subject's latest moment."""
    from engine.training.batch_scores import scored, traits

    model = RidgeLogistic()
    model.fit(DATA.part("train"), DATA.part("validation"))
    calibration = LogisticCalibrator(0.9, 0.9, -0.2).to_manifest()
    served = [model.to_artifacts()["served"]]
    scorer = RunScorer("logistic", {"logistic": served}, calibration=calibration, digests={})
    expected = LogisticCalibrator(0.9, 0.9, -0.2)(model.predict(DATA))
    (tmp_path / "points").mkdir()
    for i, rows in enumerate(np.array_split(np.arange(len(DATA)), 3)):
        pq.write_table(DATA.take(rows).to_arrow(), tmp_path / "points" / f"{i}.parquet")
    scores = scored(spark, tmp_path / "points", scorer).persist()
    found = sorted((r["subject"], r["offer"], r["as_of"].timestamp(), r["probability"]) for r in scores.collect())
    at = DATA.as_of.astype("datetime64[us]").astype(np.int64) / 1e6
    wanted = sorted(zip(DATA.subject.tolist(), DATA.offer.tolist(), at.tolist(), expected.tolist(), strict=True))
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    np.testing.assert_allclose([row[3] for row in found], [row[3] for row in wanted], atol=2e-6)
    means = {row["subject"]: row["propensity"] for row in traits(scores).collect()}
    by_offer = {row["subject"]: row.asDict() for row in traits(scores, name="p", by_offer=True).collect()}
    for subject in np.unique(DATA.subject):
        newest = DATA.as_of[subject == DATA.subject].max()
        own = (subject == DATA.subject) & (newest == DATA.as_of)
        assert means[subject] == pytest.approx(expected[own].mean(), abs=2e-6)
        offers = {f"p_{offer}" for offer in DATA.offer[own]}
        assert {n for n, v in by_offer[subject].items() if v is not None} == {"subject", *offers}


def test_traits_of_a_file_are_handed_over_in_rows_of_a_subject(tmp_path: Path) -> None:
    """Every column but the subject is a trait, null and nan are none, and a subject that comes twice is refused."""
    got: dict[str, Features] = {}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"subject": ["u1", "u2"], "risk": [0.25, float("nan")], "plan": [None, "gold"]}), path)
    assert load_trait_files(path, got.update) == 2
    assert got == {"u1": {"risk": 0.25}, "u2": {"plan": "gold"}}
    pq.write_table(pa.table({"subject": ["u3", "u1"], "risk": [0.5, 0.5]}), tmp_path / "b.parquet")
    with pytest.raises(InvalidInputError, match="came before"):
        load_trait_files(tmp_path, got.update)
    pq.write_table(pa.table({"person": ["u3"], "risk": [0.5]}), path)
    with pytest.raises(InvalidInputError, match="expected `subject`"):
        load_trait_files(path, got.update)
