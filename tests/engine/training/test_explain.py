"""What a model goes by, against models whose rule is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit
from engine.training.candidates import build_model
from engine.training.explain import (
    customer_effects,
    explain_row,
    explanation_text,
    load_model,
    permutation_importance,
)
from policies.artifact import Artifact, load_artifact, save_artifact
from policies.errors import ArtifactError
from policies.records import FloatArray
from tests.engine.models.tables import decision_points

DATA = decision_points(900, seed=5, strength=1.5)


class Known:
    """Log odds 2 in one column, 1 per event up to three, nothing else."""

    name = "known"

    def predict(self, data: SequenceDataset) -> FloatArray:
        return expit(2.0 * (data.columns["offer_kind"] == "big") + np.minimum(data.lengths, 3) - 2.0)


def test_only_what_the_model_reads_matters() -> None:
    """Shuffling a column that is not read changes nothing; the two that are read cost the ranking, and no customer moves."""
    falls = permutation_importance(Known(), DATA.part("test"), rng=np.random.default_rng(0))  # type: ignore[arg-type]  # predict is all it takes
    assert {n for n, fall in falls.items() if fall != 0.0} == {"offer_kind", "events"}
    assert falls["offer_kind"] > 0.02
    moved = customer_effects(Known(), DATA.part("test"), rng=np.random.default_rng(0))  # type: ignore[arg-type]  # as above
    assert set(moved) == {"customer_age", "customer_*"}
    assert moved["customer_*"] == {"mean_change": 0.0, "share_moved": 0.0}


def test_reasons_of_a_row_are_the_known_ones() -> None:
    """A row without events and with the good offer: the offer raises by 2 less its share of the background, the events lower."""
    row = int(np.flatnonzero((DATA.lengths == 0) & (DATA.columns["offer_kind"] == "big"))[0])
    background = DATA.part("train")
    reasons = explain_row(Known(), DATA, row, background=background, rng=np.random.default_rng(0))  # type: ignore[arg-type]  # as above
    effects = {r["column"]: r["effect"] for r in reasons}
    assert effects["offer_kind"] == pytest.approx(
        2.0 * (1 - (background.columns["offer_kind"] == "big").mean()), abs=0.4
    )
    assert effects["events"] < -2.0
    assert effects["agg_spend"] == pytest.approx(0.0, abs=1e-12)
    text = explanation_text("s1", 0.5, reasons)
    assert "offer_kind = big" in text
    assert "events = 0 events" in text
    assert "lowers" in text
    assert "agg_spend" not in text


@pytest.mark.parametrize("name", ["logistic", "lightgbm"])
def test_a_saved_model_predicts_as_it_did(name: str, tmp_path: Path) -> None:
    """Saved, loaded and asked again: the same probabilities; a foreign artefact is refused by name."""
    model = build_model(name, seed=1, quick=True)
    model.fit(DATA.part("train"), DATA.part("validation"))
    save_artifact(model.to_artifacts()["propensity"], tmp_path / "model")
    again = load_model(load_artifact(tmp_path / "model"))
    np.testing.assert_allclose(again.predict(DATA), model.predict(DATA), rtol=1e-9)
    with pytest.raises(ArtifactError, match="cannot be loaded again"):
        load_model(Artifact("propensity_dnn", {}))
