"""Every one-decision estimate and standard error against influence functions written from the textbooks, on logs of all shapes.

Nothing here uses column totals: values and influences are computed row by row, spread is that between subjects' sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from offline_eval import LOGGED, evaluate
from offline_eval.estimators import (
    BaselineCorrectedIPS,
    ClippedIPS,
    DirectMethod,
    DoublyRobust,
    DRos,
    Estimator,
    InversePropensity,
    Replay,
    SelfNormalisedDoublyRobust,
    SelfNormalisedIPS,
    StochasticReplay,
    SubGaussianDoublyRobust,
    SubGaussianIPS,
    SwitchDoublyRobust,
)
from offline_eval.moments import hash_text
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch
from tests.offline_eval.worlds import offer_set


@dataclass(frozen=True)
class Row:
    """What formulas need of all rows: weight, reward, model under the candidate and of the shown offer, its chance, agreement."""

    w: FloatArray
    r: FloatArray
    d: FloatArray
    q: FloatArray
    pi: FloatArray
    match: FloatArray


Told = tuple[float, FloatArray]


def _mean(x: FloatArray) -> Told:
    return float(x.mean()), (x - x.mean()) / len(x)


def _ratio(weight: FloatArray, x: FloatArray) -> Told:
    v = float((weight * x).sum() / weight.sum())
    return v, weight * (x - v) / weight.sum()


def _sum(a: Told, b: Told) -> Told:
    return a[0] + b[0], a[1] + b[1]


def _corrected(t: Row) -> Told:
    spare = t.w**2 - t.w
    b = float((spare * t.r).sum() / spare.sum()) if abs(spare.sum()) > 1e-12 * t.w.sum() else 0.0
    value, influence = _mean(t.w * (t.r - b))
    of_b = spare * (t.r - b) / spare.sum() if b else 0.0
    return b + value, influence + (1 - t.w.mean()) * of_b


def _bent(w: FloatArray, correction: float) -> FloatArray:
    return np.where(w == 0, 0.0, w / np.where(w == 0, 1.0, 1 - correction + correction * w))


def _os(w: FloatArray, strength: float) -> FloatArray:
    return w * (strength / (w**2 + strength))


FORMULAS: list[tuple[Estimator, Callable[[Row], Told]]] = [
    (DirectMethod(), lambda t: _mean(t.d)),
    (InversePropensity(), lambda t: _mean(t.w * t.r)),
    (ClippedIPS(1e-3), lambda t: _mean(np.minimum(t.w, 1e-3) * t.r)),
    (ClippedIPS(1.7), lambda t: _mean(np.minimum(t.w, 1.7) * t.r)),
    (SelfNormalisedIPS(), lambda t: _ratio(t.w, t.r)),
    (SubGaussianIPS(0.2), lambda t: _mean(_bent(t.w, 0.2) * t.r)),
    (SubGaussianIPS(1.0), lambda t: _mean((t.w > 0) * t.r)),
    (BaselineCorrectedIPS(), _corrected),
    (DoublyRobust(), lambda t: _mean(t.d + t.w * (t.r - t.q))),
    (SelfNormalisedDoublyRobust(), lambda t: _sum(_mean(t.d), _ratio(t.w, t.r - t.q))),
    (SwitchDoublyRobust(0.0), lambda t: _mean(t.d)),
    (SwitchDoublyRobust(1.0), lambda t: _mean(t.d + t.w * (t.w <= 1.0) * (t.r - t.q))),
    (SwitchDoublyRobust(math.inf), lambda t: _mean(t.d + t.w * (t.r - t.q))),
    (DRos(0.0), lambda t: _mean(t.d)),
    (DRos(0.7), lambda t: _mean(t.d + _os(t.w, 0.7) * (t.r - t.q))),
    (DRos(math.inf), lambda t: _mean(t.d + t.w * (t.r - t.q))),
    (SubGaussianDoublyRobust(0.2), lambda t: _mean(t.d + _bent(t.w, 0.2) * (t.r - t.q))),
    (Replay(), lambda t: _ratio(t.match, t.r)),
    (StochasticReplay(), lambda t: _ratio(t.pi, t.r)),
]


def _dist(rng: np.random.Generator, eligible: np.ndarray, shape: float) -> FloatArray:
    x = rng.gamma(shape, size=eligible.shape) * eligible + 1e-12 * eligible
    return np.asarray(x / x.sum(axis=1, keepdims=True))


def _sure(rng: np.random.Generator, eligible: np.ndarray) -> FloatArray:
    picked = [rng.choice(np.flatnonzero(row)) for row in eligible]
    return np.eye(eligible.shape[1])[picked]


def _made(seed: int) -> tuple[InteractionBatch, FloatArray, FloatArray, IntArray]:
    """A log, a candidate, a model and each row's unit; seeds go through sizes, eligible sets, scales and kinds of policy."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.choice([2, 3, 17, 64, 400])), int(rng.choice([1, 2, 3, 7]))
    eligible = rng.random((n, k)) < rng.choice([0.4, 1.0])
    eligible[np.arange(n), rng.integers(0, k, n)] = True
    logged = _sure(rng, eligible) if seed % 5 == 1 else _dist(rng, eligible, 1.0)
    chosen = np.array([rng.choice(k, p=p) for p in logged])
    target = _sure(rng, eligible) if seed % 5 == 2 else _dist(rng, eligible, 0.5)
    if seed % 5 == 3:  # nothing of what the candidate would show, where there is anything else
        target[np.arange(n), chosen] = np.where(eligible.sum(axis=1) > 1, 0.0, 1.0)
        target /= target.sum(axis=1, keepdims=True)
    # Amounts, centavos, and rewards that differ little beside their size.
    reward = rng.normal(size=n) * rng.choice([1e-4, 1.0, 1e4]) + rng.choice([0.0, 5.0])
    units = [np.arange(n), np.arange(n), rng.integers(0, max(n // 3, 2), n)][seed % 3]
    subjects = None if seed % 3 == 0 else units.astype(np.str_)
    table = DecisionTable(offer_set(k), eligible, subjects=subjects)
    log = InteractionBatch(table, chosen, logged[np.arange(n), chosen], reward, probabilities=logged)
    return log, target, rng.normal(size=(n, k)) * float(np.abs(reward).max()), units


def _rows(log: InteractionBatch, target: FloatArray, q: FloatArray) -> Row:
    rows = np.arange(len(log))
    pi = target[rows, log.chosen]
    match = (target.argmax(axis=1) == log.chosen).astype(np.float64)
    return Row(pi / log.propensity, log.reward, (target * q).sum(axis=1), q[rows, log.chosen], pi, match)


def _error(influence: FloatArray, units: IntArray) -> float:
    sums = np.asarray([influence[units == u].sum() for u in np.unique(units)])
    return math.sqrt(len(sums) / (len(sums) - 1) * float((sums**2).sum()))


@pytest.mark.parametrize("seed", range(24))
def test_values_and_errors_are_the_textbooks(seed: int) -> None:
    """Values, clustered standard errors and those of differences agree to 1e-9, or there is no estimate and no number."""
    log, target, q, units = _made(seed)
    panel = evaluate(log, {"c": target}, estimators=[e for e, _ in FORMULAS], reward_model=q, n_resamples=0)
    assert log.probabilities is not None
    size = float(np.abs(log.reward).max())
    with np.errstate(divide="ignore", invalid="ignore"):
        told = {e.name: formula(_rows(log, target, q)) for e, formula in FORMULAS}
        logged = {e.name: formula(_rows(log, log.probabilities, q)) for e, formula in FORMULAS}
    for name, (value, influence) in told.items():
        e = panel.estimate("c", name)
        if not np.isfinite(value):
            assert (e.value, e.standard_error, e.bounds) == (None, None, None), name
            continue
        assert e.value == pytest.approx(value, rel=1e-9, abs=1e-13 * size), name
        if len(np.unique(units)) < 2:
            assert e.standard_error is None
            continue
        assert e.standard_error == pytest.approx(_error(influence, units), rel=1e-9, abs=1e-14 * size), name
        if name not in ("replay", "baseline-corrected IPS") and np.isfinite(logged[name][0]):
            off = panel.differences["c"][name]
            assert off.value == pytest.approx(value - logged[name][0], rel=1e-9, abs=1e-13 * size), name
            error = _error(influence - logged[name][1], units)
            assert off.standard_error == pytest.approx(error, rel=1e-9, abs=1e-14 * size), name
    assert panel.estimate(LOGGED, "IPS").value == pytest.approx(log.reward.mean(), rel=1e-12, abs=1e-14 * size)


def test_bootstrap_repeats_whole_subjects_for_all_estimators_and_candidates_at_once() -> None:
    """Percentile intervals of values and differences are those of logs made by drawing subjects, rows and all, from the log."""
    log, target, q, _ = _made(5)
    subjects = log.table.subjects
    assert subjects is not None
    other = _dist(np.random.default_rng(9), log.table.eligible, 1.0)
    panel = evaluate(
        log,
        {"c": target, "other": other},
        estimators=[e for e, _ in FORMULAS],
        incumbent="other",
        reward_model=q,
        n_resamples=40,
        seed=11,
    )
    in_order = sorted(set(subjects), key=lambda s: int(hash_text(np.asarray([s]))[0]))
    rows_of = [np.flatnonzero(subjects == s) for s in in_order]
    rng = np.random.default_rng(11)
    made: dict[tuple[str, str], list[float]] = {}
    for _ in range(40):
        rows = np.concatenate([rows_of[j] for j in rng.integers(0, len(rows_of), size=len(rows_of))])
        for name, candidate in (("c", target), ("other", other)):
            drawn = _rows(log.take(rows), candidate[rows], q[rows])
            for e, formula in FORMULAS:
                made.setdefault((name, e.name), []).append(formula(drawn)[0])
    for e, _ in FORMULAS:
        mine, theirs = np.asarray(made["c", e.name]), np.asarray(made["other", e.name])
        for told, values in ((panel.estimate("c", e.name), mine), (panel.differences["c"][e.name], mine - theirs)):
            assert told.bootstrap is not None
            expected = np.quantile(values, [0.025, 0.975])
            assert (told.bootstrap.low, told.bootstrap.high) == pytest.approx(expected, rel=1e-9, abs=1e-12), e.name
