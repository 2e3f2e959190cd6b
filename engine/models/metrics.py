"""How good a propensity model is: ranking, level, and differences with intervals over subjects.

All functions take labels in {0, 1} and probabilities, both ``(n,)``, and optional row weights. Intervals come
from a bootstrap that draws whole subjects, because rows of one subject are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray

_TINY = 1e-7


def _check(label: FloatArray, score: FloatArray) -> None:
    if label.shape != score.shape or label.ndim != 1:
        raise InvalidInputError(f"labels have shape {label.shape}, scores {score.shape}; expected one score per label")
    if not np.isfinite(score).all() or not np.isin(label, (0.0, 1.0)).all():
        raise InvalidInputError("labels must be 0 or 1 and scores finite; leave out rows whose label is not known yet")


@dataclass(frozen=True, slots=True, eq=False)
class _Ranked:
    """Rows sorted by falling score, with the last row of each group of ties: sorted once, weighted many times."""

    order: IntArray
    label: FloatArray
    last_of_tie: IntArray

    @classmethod
    def of(cls, label: FloatArray, score: FloatArray) -> _Ranked:
        _check(label, score)
        order = np.argsort(-score, kind="stable")
        falls = np.flatnonzero(np.diff(score[order]))
        return cls(order, label[order], np.append(falls, len(score) - 1))

    def cumulative(self, weight: FloatArray | None) -> tuple[FloatArray, FloatArray]:
        """Weight of positives and of negatives at or above each distinct score."""
        ordered = np.ones(len(self.order)) if weight is None else weight[self.order]
        positives = np.cumsum(ordered * self.label)[self.last_of_tie]
        negatives = np.cumsum(ordered * (1.0 - self.label))[self.last_of_tie]
        return positives, negatives

    def auc(self, weight: FloatArray | None = None) -> float:
        positives, negatives = self.cumulative(weight)
        if positives[-1] <= 0 or negatives[-1] <= 0:
            return float("nan")
        heights = np.concatenate([[0.0], positives])
        area = np.sum(np.diff(np.concatenate([[0.0], negatives])) * (heights[1:] + heights[:-1]) / 2.0)
        return float(area / (positives[-1] * negatives[-1]))

    def average_precision(self, weight: FloatArray | None = None) -> float:
        positives, negatives = self.cumulative(weight)
        if positives[-1] <= 0:
            return float("nan")
        seen = positives + negatives
        precision = np.divide(positives, seen, out=np.ones_like(positives), where=seen > 0)
        return float(np.sum(np.diff(np.concatenate([[0.0], positives])) * precision) / positives[-1])


def roc_auc(label: FloatArray, score: FloatArray, weight: FloatArray | None = None) -> float:
    """Probability that a positive ranks above a negative, ties counting half; ``nan`` with one class only."""
    return _Ranked.of(label, score).auc(weight)


def average_precision(label: FloatArray, score: FloatArray, weight: FloatArray | None = None) -> float:
    """Area under precision over recall as a step function (PR-AUC); tied scores enter together."""
    return _Ranked.of(label, score).average_precision(weight)


def precision_at(label: FloatArray, score: FloatArray, *, share: float) -> float:
    """Share of positives among the best-scored ``share`` of rows; a tie at the edge counts by its mean."""
    return _positives_at(label, score, share)[0]


def recall_at(label: FloatArray, score: FloatArray, *, share: float) -> float:
    """Share of all positives that is among the best-scored ``share`` of rows."""
    return _positives_at(label, score, share)[1]


def _positives_at(label: FloatArray, score: FloatArray, share: float) -> tuple[float, float]:
    positives, negatives = _Ranked.of(label, score).cumulative(None)
    k = max(1, round(share * len(label)))
    found = float(np.interp(k, np.concatenate([[0.0], positives + negatives]), np.concatenate([[0.0], positives])))
    return found / k, found / float(positives[-1]) if positives[-1] else float("nan")


def log_loss(label: FloatArray, probability: FloatArray, weight: FloatArray | None = None) -> float:
    """Mean negative log-likelihood in nats."""
    p = np.clip(probability, _TINY, 1.0 - _TINY)
    return float(np.average(-(label * np.log(p) + (1.0 - label) * np.log1p(-p)), weights=weight))


def brier_skill(label: FloatArray, probability: FloatArray, weight: FloatArray | None = None) -> float:
    """``1 - Brier / Brier of the constant rate``: 0 is no better than the constant, 1 is perfect."""
    rate = np.average(label, weights=weight)
    reference = float(np.average((label - rate) ** 2, weights=weight))
    own = float(np.average((label - probability) ** 2, weights=weight))
    return 1.0 - own / reference if reference > 0 else float("nan")


def expected_calibration_error(label: FloatArray, probability: FloatArray, *, n_bins: int = 15) -> float:
    """Mean distance between predicted and observed rate over bins of equal numbers of rows."""
    bins = _equal_bins(probability, n_bins)
    return float(_calibration_error(label, probability, bins))


def _equal_bins(probability: FloatArray, n_bins: int) -> list[IntArray]:
    return [b for b in np.array_split(np.argsort(probability, kind="stable"), n_bins) if len(b)]


def _calibration_error(label: FloatArray, probability: FloatArray, bins: list[IntArray]) -> float:
    gaps = [abs(float(label[b].mean() - probability[b].mean())) * len(b) for b in bins]
    return sum(gaps) / len(label)


@dataclass(frozen=True, slots=True)
class CalibrationFloor:
    """What expected calibration error *perfect* probabilities of this shape show on so many rows.

    Parameters
    ----------
    mean, upper
        Mean and 95 % quantile over resampled labels.
    """

    mean: float
    upper: float


def calibration_floor(
    probability: FloatArray, *, rng: np.random.Generator, n_bins: int = 15, n_resamples: int = 400
) -> CalibrationFloor:
    """Draw labels from the probabilities themselves: the error that is noise and no fault.

    Rows are drawn as independent; labels that cluster by subject have a higher floor than this one.
    """
    bins = _equal_bins(probability, n_bins)
    drawn = [
        _calibration_error((rng.random(len(probability)) < probability).astype(np.float64), probability, bins)
        for _ in range(n_resamples)
    ]
    return CalibrationFloor(float(np.mean(drawn)), float(np.quantile(drawn, 0.95)))


def calibration_line(
    label: FloatArray, probability: FloatArray, weight: FloatArray | None = None
) -> tuple[float, float]:
    """Slope and intercept of ``logit P(label) = intercept + slope * logit(probability)``; (1, 0) is calibrated.

    Slope below 1: too confident (the usual sign of overfitting). Newton steps with a trace of ridge, so that
    separable data gives a large finite slope instead of none.
    """
    x = logit(probability)
    w = np.ones(len(x)) if weight is None else weight
    design = np.stack([x, np.ones_like(x)], axis=1)
    beta = np.array([1.0, 0.0])
    for _ in range(50):
        p = expit(design @ beta)
        gradient = design.T @ (w * (label - p)) - 1e-6 * (beta - [1.0, 0.0])
        hessian = (design * (w * p * (1 - p))[:, None]).T @ design + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        beta = beta + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return float(beta[0]), float(beta[1])


def logit(probability: FloatArray) -> FloatArray:
    """Log odds, clipped to probabilities in [1e-7, 1 - 1e-7]."""
    p = np.clip(np.asarray(probability, dtype=np.float64), _TINY, 1.0 - _TINY)
    return np.asarray(np.log(p) - np.log1p(-p))


def expit(score: FloatArray) -> FloatArray:
    """Probability of log odds."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(score, -40.0, 40.0))))


Metric = Callable[[FloatArray, FloatArray, FloatArray | None], float]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


def cluster_weights(
    clusters: NDArray[Any], *, rng: np.random.Generator, n_resamples: int
) -> tuple[IntArray, NDArray[np.float64]]:
    """How often each cluster is drawn in each resample: cluster of each row ``(n,)`` and counts ``(n_resamples, n_clusters)``."""
    names, member = np.unique(clusters, return_inverse=True)
    counts = rng.multinomial(len(names), np.full(len(names), 1.0 / len(names)), size=n_resamples)
    return member.astype(np.int64), counts.astype(np.float64)


def _resampled(
    metric: str, label: FloatArray, score: FloatArray, member: IntArray, counts: NDArray[np.float64]
) -> FloatArray:
    if metric in ("roc_auc", "average_precision"):
        ranked = _Ranked.of(label, score)
        measure = ranked.auc if metric == "roc_auc" else ranked.average_precision
        return np.array([measure(c[member]) for c in counts])
    plain: Mapping[str, Metric] = {"log_loss": log_loss, "brier_skill": brier_skill}
    if metric == "calibration_slope":
        return np.array([calibration_line(label, score, c[member])[0] for c in counts])
    return np.array([plain[metric](label, score, c[member]) for c in counts])


def with_interval(
    metric: str,
    label: FloatArray,
    score: FloatArray,
    clusters: NDArray[Any],
    *,
    rng: np.random.Generator,
    n_resamples: int = 400,
) -> Interval:
    """A metric with a percentile interval over resampled clusters.

    Parameters
    ----------
    metric
        ``roc_auc``, ``average_precision``, ``log_loss``, ``brier_skill`` or ``calibration_slope``.
    """
    member, counts = cluster_weights(clusters, rng=rng, n_resamples=n_resamples)
    drawn = _resampled(metric, label, score, member, counts)
    value = _resampled(metric, label, score, member, np.ones((1, counts.shape[1])))[0]
    return Interval(float(value), *(float(q) for q in np.nanquantile(drawn, [0.025, 0.975])))


def paired_difference(
    metric: str,
    label: FloatArray,
    score: FloatArray,
    reference: FloatArray,
    clusters: NDArray[Any],
    *,
    rng: np.random.Generator,
    n_resamples: int = 400,
) -> Interval:
    """Metric of ``score`` minus metric of ``reference`` on the same rows, both resampled together by cluster."""
    member, counts = cluster_weights(clusters, rng=rng, n_resamples=n_resamples)
    once = np.ones((1, counts.shape[1]))
    drawn = _resampled(metric, label, score, member, counts) - _resampled(metric, label, reference, member, counts)
    value = _resampled(metric, label, score, member, once) - _resampled(metric, label, reference, member, once)
    return Interval(float(value[0]), *(float(q) for q in np.nanquantile(drawn, [0.025, 0.975])))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model on one split; intervals are over subjects."""

    n_rows: int
    n_positives: int
    n_subjects: int
    roc_auc: Interval
    average_precision: Interval
    precision_at_10pct: float
    recall_at_10pct: float
    log_loss: float
    brier_skill: float
    ece: float
    ece_floor: CalibrationFloor
    calibration_slope: Interval
    calibration_intercept: float
    mean_probability: float
    rate: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def evaluate(
    label: FloatArray,
    probability: FloatArray,
    clusters: NDArray[Any],
    *,
    rng: np.random.Generator,
    n_resamples: int = 400,
) -> Evaluation:
    """Every figure of one model on one split.

    Raises
    ------
    InvalidInputError
        If shapes differ, a label is not 0 or 1, or only one class is present.
    """
    _check(label, probability)
    if label.min() == label.max():
        raise InvalidInputError(
            f"all {len(label)} labels are {label[0]:g}; a model can be judged only where both outcomes occur: widen the split"
        )

    def interval(metric: str, n: int = n_resamples) -> Interval:
        return with_interval(metric, label, probability, clusters, rng=rng, n_resamples=n)

    return Evaluation(
        n_rows=len(label),
        n_positives=int(label.sum()),
        n_subjects=len(np.unique(clusters)),
        roc_auc=interval("roc_auc"),
        average_precision=interval("average_precision"),
        precision_at_10pct=precision_at(label, probability, share=0.1),
        recall_at_10pct=recall_at(label, probability, share=0.1),
        log_loss=log_loss(label, probability),
        brier_skill=brier_skill(label, probability),
        ece=expected_calibration_error(label, probability),
        ece_floor=calibration_floor(probability, rng=rng),
        calibration_slope=interval("calibration_slope", min(n_resamples, 200)),
        calibration_intercept=calibration_line(label, probability)[1],
        mean_probability=float(probability.mean()),
        rate=float(label.mean()),
    )
