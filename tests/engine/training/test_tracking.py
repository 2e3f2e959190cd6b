"""Runs kept in MLflow on SQLite can be read back as one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.training.comparison import TrainingConfig
from engine.training.plots import reliability
from engine.training.propensity import train_propensity
from policies.errors import InvalidInputError
from tests.engine.training.test_propensity import DATA, write


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_runs_come_back_with_hash_configuration_figures_and_files(tmp_path: Path) -> None:
    """Two runs on different data: a line each and model, with their own data hash, the figures of the comparison and the plot."""
    pytest.importorskip(
        "mlflow", reason="missing tool: mlflow; pip install 'nextoffer[tracking]'", exc_type=ImportError
    )
    from engine.training.tracking import data_hash, track, tracked_runs, tracked_table

    store = tmp_path / "runs.db"
    with pytest.raises(InvalidInputError, match="train with --runs"):
        tracked_runs(store)
    config = TrainingConfig(models=("lightgbm",), quick=True, n_resamples=20)
    results = []
    for name, data in (("a", DATA), ("b", DATA.take(np.arange(len(DATA) - 200)))):
        folder = write(data, tmp_path / f"data-{name}")
        results.append(train_propensity(folder, tmp_path / name, config=config))
        track(results[-1], tmp_path / name, data_folder=folder, store=store)
    runs = tracked_runs(store)
    assert [r["run"] for r in runs] == ["a/logistic", "a/lightgbm", "b/logistic", "b/lightgbm"]
    hashes = [data_hash(tmp_path / f"data-{name}") for name in "ab"]
    assert hashes[0] != hashes[1]
    assert [r["parameters"]["data_sha256"] for r in runs] == [hashes[0]] * 2 + [hashes[1]] * 2
    figure = results[1]["models"]["lightgbm"]["test"]["roc_auc"]["value"]
    assert runs[3]["metrics"]["test_roc_auc"] == pytest.approx(figure)
    assert len(list((tmp_path / "runs.artifacts").rglob("reliability.svg"))) == 2
    assert f"{figure:.4f}" in tracked_table(runs)


def test_reliability_of_true_probabilities_lies_on_the_diagonal() -> None:
    """Bins hold every row once, and labels drawn from the probabilities fall inside nearly every bin's interval."""
    rng = np.random.default_rng(0)
    p = rng.beta(1, 6, size=6000)
    bins = reliability((rng.random(6000) < p).astype(float), p)
    assert sum(b["rows"] for b in bins) == 6000
    assert sum(b["low"] <= b["predicted"] <= b["high"] for b in bins) >= len(bins) - 2
    assert [b["predicted"] for b in bins] == sorted(b["predicted"] for b in bins)
