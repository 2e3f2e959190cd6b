"""Compare fitted propensity models: choose on validation, calibrate, judge all once on test against the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.models.calibration import Calibrator, choose_calibrator, cross_calibrated
from engine.models.dataset import SequenceDataset
from engine.models.metrics import (
    average_precision,
    evaluate,
    expected_calibration_error,
    expit,
    log_loss,
    logit,
    paired_difference,
    roc_auc,
)
from engine.models.segments import segments_of
from engine.training.candidates import CANDIDATES
from policies.errors import InvalidInputError
from policies.records import FloatArray

DEFAULT_MODELS = ("logistic", "lightgbm", "mllib", "dnn", "gru")
REFERENCE = "logistic"
PLAIN = "reference"
BLEND = "blend"


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One comparison.

    Parameters
    ----------
    models
        Names from ``engine.training.candidates``; ``logistic`` is added, it is the reference.
    quick
        Smaller fits that prove the path.
    jobs
        Processes at once.
    ignore
        Columns no model may use (names, or prefixes ending in ``*``), for example ``customer_*``.
    reference_ignore
        Columns that the reference alone may not use: what a plain model without the newer columns would have had. The logistic
        regression with all columns then stands beside it.
    n_folds
        Folds of whole subjects over train and validation together: the choice then rests on all of their rows, each scored by
        a model that never saw its subject, the scores are the mean of the folds' models, a sequence encoder is fitted once more on all of
        them, and other artefacts are the first fold's. 1: the two splits as they are; a quick run does that.
    n_resamples
        Bootstrap resamples of subjects behind each interval.
    resume
        Go on with a run that was cut off: folds that are done are not fitted again.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    quick: bool = False
    jobs: int = 2
    seed: int = 0
    ignore: tuple[str, ...] = ()
    reference_ignore: tuple[str, ...] = ()
    n_folds: int = 5
    n_resamples: int = 400
    resume: bool = False

    def __post_init__(self) -> None:
        if self.n_folds == 2 or self.n_folds < 1:
            raise InvalidInputError(
                f"n_folds is {self.n_folds}; expected 1 (no folds) or at least 3: one fold is scored, one stops the fit, the rest train"
            )

    @property
    def reference(self) -> str:
        """Name of the model that others are compared with."""
        return PLAIN if self.reference_ignore else REFERENCE

    @property
    def folds(self) -> int:
        """Folds this run uses."""
        return 1 if self.quick else self.n_folds


def compare(data: SequenceDataset, predictions: Mapping[str, FloatArray], *, config: TrainingConfig) -> dict[str, Any]:
    """Choose on validation, calibrate on calibration, judge every model on test against the reference.

    ``predictions`` holds an uncalibrated probability of every row of ``data`` by model; the equal-weight mean of
    their log odds joins as ``blend`` where there are at least two models beside the reference.
    """
    predictions = dict(predictions)
    reference = config.reference
    if len(_blended(predictions)) > 2:
        predictions[BLEND] = blend_of(predictions)
    judged_on = ("train", "validation") if config.folds > 1 else ("validation",)
    rows = {s: np.flatnonzero((data.split == s) & data.is_matured) for s in ("calibration", "test")}
    rows["validation"] = np.flatnonzero(np.isin(data.split, judged_on) & data.is_matured)
    on_validation = {
        name: {
            "log_loss": log_loss(data.label[rows["validation"]], p[rows["validation"]]),
            "roc_auc": roc_auc(data.label[rows["validation"]], p[rows["validation"]]),
            "average_precision": average_precision(data.label[rows["validation"]], p[rows["validation"]]),
            # Before calibration: what rebalancing, or its correction, left of the level.
            "ece": expected_calibration_error(data.label[rows["validation"]], p[rows["validation"]]),
        }
        for name, p in predictions.items()
    }
    chosen, reason = choose(data, predictions, rows=rows["validation"], config=config)
    calibrators: dict[str, Calibrator] = {}
    table: dict[str, Any] = {}
    calibrated: dict[str, FloatArray] = {}
    part = rows["calibration"]
    for name, p in predictions.items():
        calibrators[name], kind, losses = choose_calibrator(
            data.label[part], p[part], data.subject[part], seed=config.seed
        )
        calibrated[name] = calibrators[name](p)
        table[name] = {
            "members": _blended(predictions) if name == BLEND else [name],
            "calibration": {"kind": kind, "log_loss": losses, **calibrators[name].to_manifest()},
        }
    test, label = rows["test"], data.label[rows["test"]]
    for name, p in calibrated.items():
        rng = np.random.default_rng(config.seed)  # the same resamples for every model
        table[name]["validation"] = on_validation[name]
        # The score as it is deployed, on rows of its own period that trained nothing, calibrated without their subjects.
        own = predictions[name][part]
        table[name]["in_period"] = evaluate(
            data.label[part],
            cross_calibrated(data.label[part], own, data.subject[part], seed=config.seed),
            data.subject[part],
            rng=np.random.default_rng(config.seed),
            n_resamples=config.n_resamples // 4,
        ).to_json()
        # More rows, but each scored by one fold's model, which is more extreme than the mean that is deployed.
        table[name]["single_folds"] = evaluate(
            data.label[rows["validation"]],
            p[rows["validation"]],
            data.subject[rows["validation"]],
            rng=np.random.default_rng(config.seed),
            n_resamples=config.n_resamples // 4,
        ).to_json()
        table[name]["test"] = evaluate(
            label, p[test], data.subject[test], rng=rng, n_resamples=config.n_resamples
        ).to_json()
        table[name]["test_against_reference"] = {
            metric: _as_json(
                paired_difference(
                    metric,
                    label,
                    p[test],
                    calibrated[reference][test],
                    data.subject[test],
                    rng=np.random.default_rng(config.seed),
                    n_resamples=config.n_resamples,
                )
            )
            for metric in ("roc_auc", "average_precision", "log_loss")
        }
    return {
        "chosen": chosen,
        "reason": reason,
        "reference": reference,
        "verdict": _verdict(chosen, reference, table[chosen]["test_against_reference"]),
        "rows": {
            split: {"rows": len(r), "positives": int(data.label[r].sum()), "subjects": len(np.unique(data.subject[r]))}
            for split, r in rows.items()
        },
        "validated_by": f"{config.folds} folds of whole subjects over train and validation"
        if config.folds > 1
        else "the validation split, which also stopped the fits",
        "not_matured": int((~data.is_matured).sum()),
        "models": table,
        "segments": segments_of(
            data.take(test), calibrated[chosen][test], calibrated[reference][test], seed=config.seed
        ),
    }


def judge_kept(data: SequenceDataset, predictions: Mapping[str, FloatArray | None], *, seed: int) -> dict[str, Any]:
    """Calibrate and judge the second target of the models that have a head for it; empty where there is none to judge.

    Calibrated on the calibration split, judged on test, over rows whose second outcome is known.
    """
    out: dict[str, Any] = {}
    if data.kept is None:
        return out
    known = np.isfinite(data.kept)
    part, test = (np.flatnonzero((data.split == s) & known) for s in ("calibration", "test"))
    for name, p in predictions.items():
        if p is None or any(len(np.unique(data.kept[rows])) < 2 for rows in (part, test)):
            continue
        calibrator, kind, _ = choose_calibrator(data.kept[part], p[part], data.subject[part], seed=seed)
        judged = evaluate(
            data.kept[test], calibrator(p[test]), data.subject[test], rng=np.random.default_rng(seed), n_resamples=100
        )
        out[name] = {"calibration": {"kind": kind, **calibrator.to_manifest()}, "test": judged.to_json()}
    return out


def _blended(predictions: Mapping[str, FloatArray]) -> list[str]:
    """Members of the blend; the same regression fitted twice (by numpy and by MLlib) counts once."""
    return [n for n in predictions if n not in (PLAIN, BLEND) and not (n == "mllib" and REFERENCE in predictions)]


def blend_of(predictions: Mapping[str, FloatArray]) -> FloatArray:
    """Equal-weight mean of the log odds of all models but the reference, as a probability."""
    return expit(np.mean([logit(predictions[n]) for n in _blended(predictions)], axis=0))


def choose(
    data: SequenceDataset, predictions: Mapping[str, FloatArray], *, rows: Any, config: TrainingConfig
) -> tuple[str, str]:
    """One model by validation alone: the lowest log loss, and a sequence model only if it clearly earns its cost.

    A model that reads sequences has to beat the boosted trees (where trained) in average precision by more than the paired
    interval over subjects; else it is passed over.
    """
    label, subject = data.label[rows], data.subject[rows]
    ranking = sorted(predictions, key=lambda n: log_loss(label, predictions[n][rows]))
    passed: list[str] = []
    for name in ranking:
        candidate = CANDIDATES.get(name)
        if candidate is not None and candidate.reads_sequence and "lightgbm" in predictions:
            gain = paired_difference(
                "average_precision",
                label,
                predictions[name][rows],
                predictions["lightgbm"][rows],
                subject,
                rng=np.random.default_rng(config.seed),
                n_resamples=config.n_resamples,
            )
            if gain.low <= 0:
                passed.append(
                    f"{name} passed over: its average precision differs from lightgbm's by {gain.value:+.4f} "
                    f"[{gain.low:+.4f}, {gain.high:+.4f}] on validation"
                )
                continue
        return name, "; ".join(["lowest log loss on validation", *passed])
    return config.reference, "; ".join(["the reference stays", *passed])


def _verdict(chosen: str, reference: str, against: Mapping[str, Any]) -> str:
    if chosen == reference:
        return "the reference logistic regression itself was chosen: no model did better on validation"
    auc = against["roc_auc"]
    span = f"{auc['value']:+.4f} AUC [{auc['low']:+.4f}, {auc['high']:+.4f}] against the reference logistic on test"
    if auc["low"] > 0:
        return f"{chosen} is better: {span}"
    if auc["high"] < 0:
        return f"{chosen} is worse: {span}; validation chose wrongly"
    return f"{chosen} cannot be told from the reference: {span}"


def _as_json(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
