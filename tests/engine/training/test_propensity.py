"""Training, choosing and comparing propensity models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.models.calibration import from_manifest
from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, log_loss, logit, roc_auc
from engine.training.comparison import BLEND, REFERENCE, TrainingConfig, choose, compare
from engine.training.comparison_tables import table_text
from engine.training.fit_one import subject_folds
from engine.training.propensity import fit_in_process, main, train_propensity
from engine.training.scoring import RunScorer
from policies.errors import InvalidInputError, NextofferError, UnknownNameError
from policies.records import FloatArray
from tests.engine.models.tables import decision_points

DATA = decision_points(1600, seed=8, strength=1.3)


def write(data: SequenceDataset, folder: Path) -> Path:
    """Decision points as files, as the sequence builder leaves them."""
    folder.mkdir(parents=True)
    pq.write_table(data.to_arrow(), folder / "points.parquet")
    (folder / "manifest.json").write_text(json.dumps({"source": "synthetic", **data.manifest}))
    return folder


def noisy(seed: int, noise: float) -> FloatArray:
    """A score that knows the label up to noise."""
    rng = np.random.default_rng(seed)
    return expit(1.5 * np.nan_to_num(DATA.label) - 1.5 + noise * rng.normal(size=len(DATA)))


@pytest.mark.slow
def test_whole_run_leaves_every_file_and_figures_that_can_be_recomputed(tmp_path: Path) -> None:
    """Two models in processes of their own with folds: scores, choice and table agree with the files on disk."""
    config = TrainingConfig(models=("logistic", "lightgbm"), n_folds=3, n_resamples=60, jobs=2)
    lines: list[tuple[str, str]] = []
    result = train_propensity(
        write(DATA, tmp_path / "data"), tmp_path / "out", config=config, progress=lambda *a: lines.append(a)
    )
    assert {name for name, line in lines if line == "done"} == {"logistic", "lightgbm"}
    scores = pq.read_table(tmp_path / "out" / "scores.parquet")
    assert scores.num_rows == len(DATA)
    test = (DATA.split == "test") & DATA.is_matured
    p = scores["probability"].to_numpy()
    chosen = result["models"][result["chosen"]]
    assert roc_auc(DATA.label[test], p[test]) == pytest.approx(chosen["test"]["roc_auc"]["value"])
    assert log_loss(DATA.label[test], p[test]) == pytest.approx(chosen["test"]["log_loss"])
    assert chosen["test"]["roc_auc"]["value"] > 0.65
    raw = pq.read_table(tmp_path / "out" / "models" / "lightgbm" / "predictions.parquet")["probability"].to_numpy()
    again = from_manifest(result["models"]["lightgbm"]["calibration"])(raw)
    assert log_loss(DATA.label[test], again[test]) == pytest.approx(result["models"]["lightgbm"]["test"]["log_loss"])
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["chosen"] == result["chosen"]
    assert "synthetic" in result["data"]
    # What was exported gives the same scores again, to any row that no fold was trained on.
    unseen = ~(np.isin(DATA.split, ("train", "validation")) & DATA.is_matured)
    scorer = RunScorer.of_run(tmp_path / "out")
    scorer.check_words(DATA.manifest)
    np.testing.assert_allclose(scorer.probability(DATA.take(unseen)), p[unseen], atol=2e-6)
    with pytest.raises(InvalidInputError, match="other words of 'item'"):
        scorer.check_words({"vocabularies": {**DATA.manifest["vocabularies"], "item": ["milk"]}})
    text = table_text(result)
    assert f"{result['chosen']}*" in text
    assert result["verdict"] in text
    with pytest.raises(InvalidInputError, match="earlier run"):
        train_propensity(tmp_path / "data", tmp_path / "out", config=config)


def test_folds_hold_whole_subjects() -> None:
    """No subject is in two folds, every fold has some, and the same seed deals the same."""
    folds = subject_folds(DATA.subject, n_folds=4, seed=1)
    for subject in np.unique(DATA.subject)[:50]:
        assert len(set(folds[subject == DATA.subject])) == 1
    assert set(folds) == {0, 1, 2, 3}
    np.testing.assert_array_equal(folds, subject_folds(DATA.subject, n_folds=4, seed=1))


def test_choice_uses_validation_only() -> None:
    """A model that is perfect on test and useless on validation is not chosen."""
    test = DATA.split == "test"
    cheat = np.where(test, noisy(1, 0.01), noisy(2, 9.0))
    honest = noisy(3, 1.0)
    result = compare(
        DATA,
        {REFERENCE: noisy(4, 2.0), "lightgbm": honest, "dnn": cheat},
        config=TrainingConfig(n_folds=1, n_resamples=50),
    )
    assert (
        result["models"]["dnn"]["test"]["roc_auc"]["value"] > result["models"]["lightgbm"]["test"]["roc_auc"]["value"]
    )
    assert result["chosen"] in ("lightgbm", BLEND)


def test_sequence_model_must_clearly_beat_the_boosted_trees() -> None:
    """A sequence model a hair better in log loss is passed over; one far better is taken."""
    rows = np.flatnonzero((DATA.split == "validation") & DATA.is_matured)
    config = TrainingConfig(n_folds=1, n_resamples=100)
    boosted = noisy(5, 1.0)
    hair = expit(logit(boosted) * 1.001 + 0.02 * (np.nan_to_num(DATA.label) - 0.3))
    name, reason = choose(DATA, {REFERENCE: noisy(6, 3.0), "lightgbm": boosted, "gru": hair}, rows=rows, config=config)
    assert name == "gru" or "passed over" in reason
    noise = expit(logit(boosted) + 0.01 * np.random.default_rng(0).normal(size=len(DATA)))
    closer = expit(logit(noise) * 0.9999 + 1e-4)
    name, reason = choose(DATA, {REFERENCE: noisy(6, 3.0), "lightgbm": closer, "gru": noise}, rows=rows, config=config)
    assert name == "lightgbm"
    name, _ = choose(
        DATA, {REFERENCE: noisy(6, 3.0), "lightgbm": boosted, "gru": noisy(7, 0.1)}, rows=rows, config=config
    )
    assert name == "gru"


def test_verdict_says_when_the_chosen_does_not_beat_the_reference() -> None:
    """Two models of the same quality: the verdict says they cannot be told apart; a worse one is called worse."""
    config = TrainingConfig(n_folds=1, n_resamples=100)
    same = compare(DATA, {REFERENCE: noisy(8, 1.0), "lightgbm": noisy(9, 1.0)}, config=config)
    assert same["chosen"] == REFERENCE or "cannot be told" in same["verdict"]
    validation = DATA.split == "validation"
    trap = np.where(validation, noisy(10, 0.1), noisy(11, 5.0))
    worse = compare(DATA, {REFERENCE: noisy(8, 0.5), "lightgbm": trap}, config=config)
    assert worse["chosen"] == "lightgbm"
    assert "is worse" in worse["verdict"]


def test_wrong_usage_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown model, no data, a split without positives, two folds: exit 2 with a sentence, or the error that says it."""
    data = write(DATA, tmp_path / "data")
    assert main(["--data", str(data), "--out", str(tmp_path / "a"), "--models", "lightgmb"]) == 2
    assert "did you mean 'lightgbm'" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "b")]) == 2
    with pytest.raises(InvalidInputError, match="n_folds is 2"):
        TrainingConfig(n_folds=2)
    with pytest.raises(UnknownNameError):
        train_propensity(data, tmp_path / "c", config=TrainingConfig(models=("gur",)))
    flat = write(DATA.take((DATA.split != "test") | (DATA.label != 1.0)), tmp_path / "flat")
    with pytest.raises(InvalidInputError, match="split 'test' has"):
        train_propensity(flat, tmp_path / "d", config=TrainingConfig(models=("logistic",)))


def test_failing_process_is_reported_with_what_it_said(tmp_path: Path) -> None:
    """A model's process that dies stops the run with its own last words."""
    config = TrainingConfig(models=("logistic",), n_folds=1)
    with pytest.raises(
        NextofferError, match=r"step 'training logistic' failed with exit code 2: .* holds no Parquet files"
    ):
        fit_in_process(
            "logistic",
            tmp_path / "nowhere",
            tmp_path / "run" / "models" / "logistic",
            config=config,
            progress=lambda *_: None,
        )


@pytest.mark.torch
def test_the_served_encoder_is_fitted_on_the_pool_and_named(tmp_path: Path) -> None:
    """With folds the encoder comes from a fit on all rows of train and validation, and the comparison says where it lies."""
    folder = write(DATA, tmp_path / "data")
    config = TrainingConfig(models=("gru",), n_folds=3, n_resamples=20, jobs=1)
    result = train_propensity(folder, tmp_path / "out", config=config)
    assert result["encoder"] == {"model": "gru", "artifact": "models/gru/artifacts/sequence_encoder"}
    assert (tmp_path / "out" / result["encoder"]["artifact"]).is_dir()
    rows = int((np.isin(DATA.split, ("train", "validation")) & DATA.is_matured).sum())
    assert f"encoder fitted on all {rows} rows" in " ".join(result["fits"]["gru"]["notes"])
