"""Make a score a probability: Platt, beta and isotonic calibration, and the shift for a known change of rate.

A reward estimator's *level* matters, not only its order, so calibration is fitted on a split that neither trained
the model nor stopped it. All maps are numpy only and go into artefacts as plain values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize

from engine.models.metrics import expit, logit
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import FloatArray, IntArray

Kind = Literal["identity", "platt", "beta", "isotonic"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Fewer positives than this cannot carry a curve: the level alone is shifted.
MIN_POSITIVES = 20


class Calibrator(Protocol):
    """A monotone map from score to probability."""

    def __call__(self, probability: FloatArray) -> FloatArray:
        """Calibrated probability, same shape."""
        ...

    def to_manifest(self) -> dict[str, Any]:
        """Plain JSON values that ``from_manifest`` reads back."""
        ...


@dataclass(frozen=True, slots=True)
class LogisticCalibrator:
    """``expit(a * log p - b * log(1 - p) + c)``: beta calibration; with ``a = b`` it is Platt's, with 1, 1, 0 nothing.

    References
    ----------
    Kull, Silva Filho and Flach (2017), "Beta calibration"; Platt (1999).
    """

    a: float = 1.0
    b: float = 1.0
    c: float = 0.0

    def __call__(self, probability: FloatArray) -> FloatArray:
        """Calibrated probability, same shape."""
        p = np.clip(np.asarray(probability, dtype=np.float64), 1e-7, 1.0 - 1e-7)
        return expit(self.a * np.log(p) - self.b * np.log1p(-p) + self.c)

    def to_manifest(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"calibrator": "logistic", "a": self.a, "b": self.b, "c": self.c}


@dataclass(frozen=True, slots=True)
class IsotonicCalibrator:
    """A rising step function, read linearly between its knots; makes ties, so it costs ranking."""

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, probability: FloatArray) -> FloatArray:
        """Calibrated probability, same shape."""
        return np.asarray(np.interp(probability, self.x, self.y))

    def to_manifest(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"calibrator": "isotonic", "x": list(self.x), "y": list(self.y)}


def from_manifest(manifest: Mapping[str, Any]) -> Calibrator:
    """Read back what a calibrator's ``to_manifest`` wrote."""
    kind = manifest["calibrator"]
    if kind == "logistic":
        return LogisticCalibrator(manifest["a"], manifest["b"], manifest["c"])
    if kind == "isotonic":
        return IsotonicCalibrator(tuple(manifest["x"]), tuple(manifest["y"]))
    raise UnknownNameError("calibrator", kind, ["logistic", "isotonic"])


def fit_calibrator(label: FloatArray, probability: FloatArray, *, kind: Kind) -> Calibrator:
    """Fit one map by maximum likelihood (isotonic: least squares).

    Raises
    ------
    InvalidInputError
        If only one class is present.
    """
    if label.min() == label.max():
        raise InvalidInputError(
            f"all {len(label)} calibration labels are {label[0]:g}; calibration needs both outcomes: widen its split"
        )
    if kind == "identity":
        return LogisticCalibrator()
    if kind == "isotonic":
        return _fit_isotonic(label, probability)
    p = np.clip(probability, 1e-7, 1.0 - 1e-7)
    if kind == "platt":
        a, c = _maximum_likelihood(label, logit(p)[:, None])
        return LogisticCalibrator(a, a, c)
    a, b, c = _maximum_likelihood(label, np.stack([np.log(p), -np.log1p(-p)], axis=1))
    return LogisticCalibrator(a, b, c)


def _maximum_likelihood(label: FloatArray, design: NDArray[np.float64]) -> tuple[float, ...]:
    """Coefficients (kept non-negative, so that order is never turned round) and an intercept."""
    width = design.shape[1]

    def loss(beta: FloatArray) -> tuple[float, FloatArray]:
        score = design @ beta[:width] + beta[width]
        p = expit(score)
        residual = (p - label) / len(label)
        value = float(np.mean(np.logaddexp(0.0, score) - label * score))
        return value, np.append(design.T @ residual, residual.sum())

    start = np.append(np.full(width, 1.0), 0.0)
    bounds = [(1e-3, 50.0)] * width + [(-50.0, 50.0)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-8})
    return tuple(float(v) for v in found.x)


def _fit_isotonic(label: FloatArray, probability: FloatArray) -> IsotonicCalibrator:
    order = np.argsort(probability, kind="stable")
    x, start = np.unique(probability[order], return_index=True)
    counts = np.diff(np.append(start, len(order)))
    means = np.add.reduceat(label[order], start) / counts
    y = isotonic_regression(means, weights=counts.astype(np.float64)).x
    # Keep the two ends of each step: the same function with fewer knots. Never exactly 0 or 1.
    keep = np.ones(len(x), dtype=np.bool_)
    keep[1:-1] = (np.diff(y)[:-1] != 0) | (np.diff(y)[1:] != 0)
    floor = 0.5 / len(label)
    return IsotonicCalibrator(tuple(map(float, x[keep])), tuple(map(float, np.clip(y[keep], floor, 1.0 - floor))))


def choose_calibrator(
    label: FloatArray,
    probability: FloatArray,
    clusters: NDArray[Any],
    *,
    seed: int,
    n_folds: int = 5,
    kinds: Sequence[Kind] = KINDS,
) -> tuple[Calibrator, Kind, dict[str, float]]:
    """Choose the map by log loss on held-out clusters of the calibration split, then fit it on all of it.

    Parameters
    ----------
    kinds
        Maps that may be chosen, from the plainest to the richest; the first also where there are too few positives to choose.

    Returns
    -------
    tuple
        The map, its kind and the cross-validated log loss of each kind tried. A richer map must win by more than
        one standard error of the paired difference over clusters; else the simpler one stays.
    """
    if label.sum() < MIN_POSITIVES or (1 - label).sum() < MIN_POSITIVES:
        kinds = kinds[:1]
    fold, member = _folds(clusters, n_folds=n_folds, seed=seed)
    losses: dict[Kind, FloatArray] = {}
    for kind in kinds:
        out = np.zeros(len(label))
        for k in range(n_folds):
            held = fold == k
            if not held.any():
                continue
            fitted = (
                fit_calibrator(label[~held], probability[~held], kind=kind)
                if kind != "identity"
                else LogisticCalibrator()
            )
            p = np.clip(fitted(probability[held]), 1e-7, 1 - 1e-7)
            out[held] = -(label[held] * np.log(p) + (1 - label[held]) * np.log1p(-p))
        losses[kind] = out
    chosen = kinds[0]
    for kind in kinds[1:]:
        gain = np.bincount(member, weights=losses[chosen] - losses[kind])
        if gain.sum() > np.sqrt(len(gain)) * gain.std():
            chosen = kind
    return (
        fit_calibrator(label, probability, kind=chosen),
        chosen,
        {kind: float(loss.mean()) for kind, loss in losses.items()},
    )


def cross_calibrated(
    label: FloatArray, probability: FloatArray, clusters: NDArray[Any], *, seed: int, n_folds: int = 5
) -> FloatArray:
    """Calibrated probability of each row by a map that was chosen and fitted without its cluster, shape ``(n,)``.

    What a calibrated score is worth in its own period: a map judged on the rows it was fitted on flatters itself.
    """
    fold, _ = _folds(clusters, n_folds=n_folds, seed=seed)
    out = np.array(probability, dtype=np.float64)
    for k in range(n_folds):
        held = fold == k
        if held.any() and label[~held].min() != label[~held].max():
            fitted, _, _ = choose_calibrator(label[~held], probability[~held], clusters[~held], seed=seed)
            out[held] = fitted(probability[held])
    return out


def _folds(clusters: NDArray[Any], *, n_folds: int, seed: int) -> tuple[IntArray, IntArray]:
    names, member = np.unique(clusters, return_inverse=True)
    fold_of = np.random.default_rng(seed).permutation(len(names)) % n_folds
    return fold_of[member].astype(np.int64), member.astype(np.int64)


def shift_prior(probability: FloatArray, *, trained_rate: float, true_rate: float) -> FloatArray:
    """Correct probabilities of a model trained at one base rate for another (Elkan 2001, Saerens et al. 2002).

    The log odds move by ``logit(true) - logit(trained)``. Needed after class weights, oversampling or negative sampling;
    exact where only the rate changed and nothing within the classes did.
    """
    shift = logit(np.array([true_rate]))[0] - logit(np.array([trained_rate]))[0]
    return expit(logit(probability) + shift)
