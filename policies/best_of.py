"""Probability that each of k independent normal (or other) variables is the largest, by quadrature.

This is what makes Thompson sampling's propensities true: they are computed, not counted from draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import ndtr

from policies.records import BoolArray, FloatArray

N_POINTS = 128
_REACH = 8.0  # standard deviations; beyond them a normal keeps 1e-15 of its mass
_MAX_SPREAD_RATIO = 6.0  # one rule for the whole range is exact to 1e-9 up to this ratio of standard deviations
_POINTS_PER_PIECE = 12
_CHUNK = 4_000_000  # numbers held at once
# One decision: an offer this many standard deviations (of the difference) behind the leader is best with probability
# below 1e-8 and left out; steps of 0.35 of the narrowest deviation integrate the product of normals to 1e-9.
_BEHIND = 5.6
_STEP = 0.35
_REACH_ONE = 6.5
_MAX_STEPS = 1024
_GRID = np.stack([np.arange(_MAX_STEPS) + 0.5, np.ones(_MAX_STEPS)])


@cache
def _gauss_legendre(n: int) -> tuple[FloatArray, FloatArray]:
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1.0) / 2.0, weights / 2.0


def normal_best_probabilities(
    mean: FloatArray, variance: FloatArray, eligible: BoolArray, *, factor: float = 1.0
) -> FloatArray:
    """Probability that each eligible offer's normal score is the row's largest, shape ``(n, k)``.

    Parameters
    ----------
    mean, variance
        Shape ``(n, k)``; variances above 0.
    factor
        Multiplies every variance.
    eligible
        Shape ``(n, k)``, at least one per row.

    Notes
    -----
    ``P_i = ∫ f_i(x) Π_{j≠i} F_j(x) dx`` on one grid per row (all k share the cumulative distributions): 128
    Gauss-Legendre points, or pieces cut at every offer's own quantiles where the deviations differ much.
    """
    n, k = mean.shape
    if n == 1:
        return _one_decision(mean[0], variance[0], eligible[0], factor)
    out = np.zeros((n, k))
    step = max(1, _CHUNK // (k * N_POINTS))
    if n > step:
        for start in range(0, n, step):
            rows = slice(start, start + step)
            out[rows] = normal_best_probabilities(mean[rows], variance[rows], eligible[rows], factor=factor)
        return out
    return _many(mean, np.sqrt(factor * variance), eligible, out)


def _many(mean: FloatArray, deviation: FloatArray, eligible: BoolArray, out: FloatArray) -> FloatArray:
    # An ineligible offer takes part with the row's lowest score and no mass of its own.
    low = np.where(eligible, mean - _REACH * deviation, -np.inf).max(axis=1)
    high = np.where(eligible, mean + _REACH * deviation, -np.inf).max(axis=1)
    contender = eligible & (mean + _REACH * deviation > low[:, None])
    widest = np.where(contender, deviation, 0.0).max(axis=1)
    narrowest = np.where(contender, deviation, np.inf).min(axis=1)
    wide = widest > _MAX_SPREAD_RATIO * narrowest
    if not wide.all():
        rows = ~wide
        points, weights = _gauss_legendre(N_POINTS)
        span = (high - low)[rows, None]
        out[rows] = _integrate(
            mean[rows], deviation[rows], contender[rows], low[rows, None] + span * points, span * weights
        )
    for row in np.flatnonzero(wide):
        grid, w = _pieces(mean[row], deviation[row], contender[row], low[row], high[row])
        out[row] = _integrate(mean[row : row + 1], deviation[row : row + 1], contender[row : row + 1], grid, w)[0]
    return np.asarray(out / out.sum(axis=1, keepdims=True), dtype=np.float64)


def _one_decision(mean: FloatArray, variance: FloatArray, eligible: BoolArray, factor: float) -> FloatArray:
    """The same for one row, at a fifth of the cost: only the offers that may still be best are looked at."""
    k = len(mean)
    out = np.zeros((1, k))
    if np.count_nonzero(eligible) < k:
        mean = np.where(eligible, mean, -np.inf)
    # First with the largest variance for all, then, of the few that are left, each with its own: plain floats beat array calls.
    leader = int(mean.argmax())
    limit = float(mean[leader]) - _BEHIND * math.sqrt(2.0 * factor * float(variance[variance.argmax()]))
    near = (mean > limit).nonzero()[0]
    if len(near) == 1:
        out[0, leader] = 1.0
        return out
    top, own, reach = float(mean[leader]), float(variance[leader]), _BEHIND**2 * factor
    found = [
        (position, a, v)
        for position, a, v in zip(near.tolist(), mean[near].tolist(), variance[near].tolist(), strict=True)
        if (top - a) * (top - a) < reach * (v + own)
    ]
    if len(found) == 1:
        out[0, leader] = 1.0
        return out
    if len(found) == 2:
        (first, a, v), (second, b, w) = found
        p = 0.5 * math.erfc((a - b) / math.sqrt(2.0 * factor * (v + w)))
        out[0, first], out[0, second] = 1.0 - p, p
        return out
    contenders = [position for position, _, _ in found]
    m, s = [a for _, a, _ in found], [math.sqrt(factor * v) for _, _, v in found]
    low = max([a - _REACH_ONE * b for a, b in zip(m, s, strict=True)])
    high = max([a + _REACH_ONE * b for a, b in zip(m, s, strict=True)])
    n_steps = int((high - low) / (_STEP * min(s))) + 1
    if n_steps > _MAX_STEPS:
        return _many(mean[None], np.sqrt(factor * variance)[None], eligible[None], out)
    step = (high - low) / n_steps
    z = np.array([(step / b, (low - a) / b) for a, b in zip(m, s, strict=True)]) @ _GRID[:, :n_steps]
    below = ndtr(z)  # never below that of -6.5: the range begins where every contender does
    z *= z
    z *= -0.5
    np.exp(z, out=z)
    z /= below
    mass = [a / b for a, b in zip((z @ np.multiply.reduce(below, axis=0)).tolist(), s, strict=True)]
    total = sum(mass)
    out[0, contenders] = [a / total for a in mass]
    return out


def _pieces(
    mean: FloatArray, deviation: FloatArray, contender: BoolArray, low: float, high: float
) -> tuple[FloatArray, FloatArray]:
    cuts = mean[contender, None] + deviation[contender, None] * np.asarray([-8.0, -5.0, -2.5, 0.0, 2.5, 5.0, 8.0])
    edges = np.unique(np.clip(np.append(cuts.ravel(), (low, high)), low, high))
    points, weights = _gauss_legendre(_POINTS_PER_PIECE)
    width = np.diff(edges)
    return (edges[:-1, None] + width[:, None] * points).reshape(1, -1), (width[:, None] * weights).reshape(1, -1)


def _integrate(
    mean: FloatArray, deviation: FloatArray, contender: BoolArray, grid: FloatArray, weights: FloatArray
) -> FloatArray:
    z = (grid[:, None, :] - mean[:, :, None]) / deviation[:, :, None]
    below = np.where(contender[:, :, None], np.maximum(ndtr(z), 1e-300), 1.0)
    density = np.exp(-0.5 * z * z) / deviation[:, :, None]
    ratio = np.where(contender[:, :, None], density / below, 0.0)
    mass = np.einsum("nkq,nq->nk", ratio, below.prod(axis=1) * weights)
    return np.asarray(mass / np.sqrt(2 * np.pi), dtype=np.float64)


def best_probabilities(
    cdf: Callable[[FloatArray], FloatArray],
    pdf: Callable[[FloatArray], FloatArray],
    cuts: FloatArray,
) -> FloatArray:
    """Probability that each of k independent variables is the largest, shape ``(k,)``.

    Parameters
    ----------
    cdf, pdf
        From points of shape ``(1, q)`` to values of shape ``(k, q)``.
    cuts
        Where the integral is cut into pieces: quantiles of the variables, the ends included.
    """
    edges = np.unique(cuts)
    points, weights = _gauss_legendre(_POINTS_PER_PIECE)
    width = np.diff(edges)
    grid = (edges[:-1, None] + width[:, None] * points).reshape(1, -1)
    w = (width[:, None] * weights).ravel()
    below = np.maximum(cdf(grid), 1e-300)
    p = (pdf(grid) / below) @ (below.prod(axis=0) * w)
    return np.asarray(p / p.sum(), dtype=np.float64)
