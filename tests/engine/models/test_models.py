"""What every propensity model must do, run over all of them; each framework in a process of its own (markers)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.models.metrics import roc_auc
from engine.models.propensity import PropensityModel
from engine.models.served import ServedPropensity
from engine.training.candidates import CANDIDATES, build_model
from policies.artifact import load_artifact, save_artifact
from policies.errors import NotFittedError, UnknownNameError
from tests.engine.models.tables import decision_points

_MARKS = {
    "numpy": (),
    "lightgbm": (),
    "torch": (pytest.mark.torch,),
    "tensorflow": (pytest.mark.tensorflow,),
    "spark": (pytest.mark.spark,),
}
ALL = [pytest.param(name, marks=_MARKS[c.framework], id=name) for name, c in CANDIDATES.items()]
DATA = decision_points(1500, seed=5, strength=1.5)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.filterwarnings("ignore::FutureWarning:pyspark")
def test_learns_saves_and_respects_what_it_may_see(name: str, tmp_path: Path) -> None:
    """Ranks held-out rows far better than chance, gives probabilities of any row, repeats itself with its seed, saves."""
    train, validation, test = (DATA.part(split) for split in ("train", "validation", "test"))
    model = build_model(name, seed=1, quick=True)
    with pytest.raises(NotFittedError):
        model.predict(test)
    report = model.fit(train, validation)
    assert (report.n_rows, report.n_positives) == (len(train), int(train.label.sum()))
    assert len(report.history["validation_log_loss"]) >= 1
    p = model.predict(test)
    assert p.shape == (len(test),)
    assert ((p > 0) & (p < 1)).all()
    assert roc_auc(test.label, p) > 0.62
    # Reordering rows reorders predictions; a row alone gets what it gets in a batch; open rows can be scored.
    order = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_allclose(model.predict(test.take(order)), p[order], atol=1e-5)
    np.testing.assert_allclose(model.predict(test.take(np.array([3]))), p[3:4], atol=1e-5)
    assert np.isfinite(model.predict(DATA.take(~DATA.is_matured))).all()
    artifacts = model.to_artifacts()
    _assert_served_equals(model, ServedPropensity.from_artifact(artifacts["served"]))
    for key, artifact in artifacts.items():
        assert load_artifact(save_artifact(artifact, tmp_path / key)).digest == artifact.digest
    if not name.startswith("mllib"):  # deterministic too, but each fit costs seconds of Spark
        again = build_model(name, seed=1, quick=True)
        again.fit(train, validation)
        np.testing.assert_allclose(again.predict(test), p, atol=1e-6)


def _assert_served_equals(model: PropensityModel, served: ServedPropensity) -> None:
    """ONNX Runtime gives the framework's probabilities for one row, for short and for long rows, and for ids of a later vocabulary."""
    by_length = np.argsort(DATA.lengths, kind="stable")
    for rows in (by_length[:1], by_length[:9], by_length[400:411], by_length[-13:]):
        part = DATA.take(rows)
        np.testing.assert_allclose(served.predict(part), model.predict(part), atol=2e-6)
    later = replace(DATA.take(by_length[-5:]), item=np.full(DATA.lengths[by_length[-5:]].sum(), 10_000, np.int32))
    np.testing.assert_allclose(served.predict(later), model.predict(later), atol=2e-6)


def test_unknown_model_offers_the_nearest() -> None:
    """A misspelt name is answered with the one that was meant."""
    with pytest.raises(UnknownNameError, match="lightgbm"):
        build_model("lightgmb", seed=0)


def test_forbidden_columns_move_no_score() -> None:
    """With ``customer_*`` ignored, changing a customer's attributes changes nothing."""
    model = build_model("lightgbm", seed=0, quick=True, ignore=("customer_*",))
    model.fit(DATA.part("train"), DATA.part("validation"))
    test = DATA.part("test")
    moved = test.with_columns({**test.columns, "customer_age": np.full(len(test), "25-34")})
    np.testing.assert_array_equal(model.predict(moved), model.predict(test))
