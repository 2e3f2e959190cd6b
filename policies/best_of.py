"""Probability that each of k independent normal (or other) variables is the largest, by quadrature.

This is what makes Thompson sampling's propensities true: they are computed, not counted from draws.
"""

from __future__ import annotations

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


@cache
def _gauss_legendre(n: int) -> tuple[FloatArray, FloatArray]:
    points, weights = np.polynomial.legendre.leggauss(n)
    return (points + 1.0) / 2.0, weights / 2.0


def normal_best_probabilities(mean: FloatArray, deviation: FloatArray, eligible: BoolArray) -> FloatArray:
    """Probability that each eligible offer's normal score is the row's largest, shape ``(n, k)``.

    Parameters
    ----------
    mean, deviation
        Shape ``(n, k)``; deviations above 0.
    eligible
        Shape ``(n, k)``, at least one per row.

    Notes
    -----
    ``P_i = ∫ f_i(x) Π_{j≠i} F_j(x) dx`` on one grid per row (all k share the cumulative distributions): 128
    Gauss-Legendre points, or pieces cut at every offer's own quantiles where the deviations differ much.
    """
    n, k = mean.shape
    out = np.zeros((n, k))
    step = max(1, _CHUNK // (k * N_POINTS))
    if n > step:
        for start in range(0, n, step):
            rows = slice(start, start + step)
            out[rows] = normal_best_probabilities(mean[rows], deviation[rows], eligible[rows])
        return out
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
