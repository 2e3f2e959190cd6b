"""Planned looks: Lan–DeMets bounds with O'Brien–Fleming-like spending, for a two-sided test.

Each side spends ``2 - 2 Φ(z_{α/4} / √t)`` of its ``α/2`` by information fraction t. The probability of a first crossing at each look
is computed by recursive numerical integration (Armitage, McPherson and Rowe 1969), so that looks may come when they come as long
as their timing does not depend on the difference seen.

References
----------
Lan and DeMets (1983), "Discrete sequential boundaries for clinical trials"; Jennison and Turnbull (2000), "Group sequential methods
with applications to clinical trials", chapters 7 and 19.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from offline_eval.abtest.records import FloatArray
from policies.errors import InvalidInputError

_N_NODES = 257
_FRACTION_DIGITS = 4
_LARGEST_Z = 9.0


def planned_fractions(n_looks: int) -> tuple[float, ...]:
    """Equally spaced information fractions, the last one 1."""
    return tuple((i + 1) / n_looks for i in range(n_looks))


def spent(fraction: float, alpha: float) -> float:
    """Two-sided error spent by an information fraction."""
    if fraction <= 0:
        return 0.0
    return float(min(1.0, 4 * ndtr(ndtri(alpha / 4) / math.sqrt(min(fraction, 1.0)))))


def bounds(fractions: Sequence[float], *, alpha: float = 0.05) -> tuple[float, ...]:
    """Critical value of ``|z|`` at each look taken so far.

    Parameters
    ----------
    fractions
        Information fractions of the looks, increasing; a fraction of 1 or more spends all that is left. They are rounded
        to four digits (a difference that moves no bound by more than 0.001), so that equal schedules are computed once.

    Raises
    ------
    InvalidInputError
        If the fractions do not increase from above 0.

    Notes
    -----
    Five equal looks at 0.05 give 4.877, 3.357, 2.680, 2.290, 2.031.
    """
    rounded = tuple(round(min(f, 1.0), _FRACTION_DIGITS) for f in fractions)
    if not rounded or rounded[0] <= 0 or any(b <= a for a, b in pairwise(rounded)):
        raise InvalidInputError(
            f"looks at information {list(fractions)}; expected fractions that increase from above 0, at most one of 1"
        )
    return tuple(_walk(rounded[: i + 1], alpha)[0] for i in range(len(rounded)))


def crossing_probability(
    fractions: Sequence[float], critical: Sequence[float], *, drift: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Chance of a first crossing above and below at each look, when z at full information has mean ``drift``.

    Returns
    -------
    tuple of numpy.ndarray
        Above and below, each of shape ``(n_looks,)``; their sums are the power and the chance of a wrong sign.
    """
    above, below = np.zeros(len(fractions)), np.zeros(len(fractions))
    nodes, mass, before = np.zeros(1), np.ones(1), 0.0
    for i, (t, c) in enumerate(zip(fractions, critical, strict=True)):
        edge, step = c * math.sqrt(t), t - before
        mean = nodes + drift * step
        above[i] = float(mass @ ndtr((mean - edge) / math.sqrt(step)))
        below[i] = float(mass @ ndtr((-edge - mean) / math.sqrt(step)))
        nodes, mass = _propagate(mean, mass, edge, step)
        before = t
    return above, below


def drift_for_power(fractions: Sequence[float], *, alpha: float, power: float) -> float:
    """Mean of z at full information with which the looks find the effect with the wanted power."""
    critical = bounds(fractions, alpha=alpha)
    return float(
        brentq(lambda d: crossing_probability(fractions, critical, drift=d)[0].sum() - power, 0.0, 12.0, xtol=1e-6)
    )


@lru_cache(maxsize=256)
def sample_inflation(n_looks: int, *, alpha: float, power: float) -> float:
    """How many times the fixed-sample size the planned end has to be for the same power."""
    fixed = float(ndtri(1 - alpha / 2) + ndtri(power))
    return (drift_for_power(planned_fractions(n_looks), alpha=alpha, power=power) / fixed) ** 2


def expected_sample(n_looks: int, *, alpha: float, drift: float) -> float:
    """Mean sample at the stop as a part of the planned, for a given drift."""
    fractions = planned_fractions(n_looks)
    above, below = crossing_probability(fractions, bounds(fractions, alpha=alpha), drift=drift)
    stopped = above + below
    stopped[-1] = 1.0 - stopped[:-1].sum()
    return float(stopped @ np.asarray(fractions))


@lru_cache(maxsize=8192)
def _walk(fractions: tuple[float, ...], alpha: float) -> tuple[float, FloatArray, FloatArray]:
    """Bound at the last of the looks, and the density of the score process that goes on after it (nodes and mass)."""
    t = fractions[-1]
    if len(fractions) == 1:
        nodes, mass, before = np.zeros(1), np.ones(1), 0.0
    else:
        _, nodes, mass = _walk(fractions[:-1], alpha)
        before = fractions[-2]
    step = t - before
    to_spend = spent(t, alpha) - spent(before, alpha)

    def excess(c: float) -> float:
        edge = c * math.sqrt(t)
        tails = ndtr((nodes - edge) / math.sqrt(step)) + ndtr((-edge - nodes) / math.sqrt(step))
        return float(mass @ tails) - to_spend

    # Below about 1e-17 the spending is lost in rounding: the bound is then simply out of reach.
    critical = _LARGEST_Z if excess(_LARGEST_Z) >= 0 else float(brentq(excess, 0.0, _LARGEST_Z, xtol=1e-7))
    after, left = _propagate(nodes, mass, critical * math.sqrt(t), step)
    return critical, after, left


def _propagate(mean: FloatArray, mass: FloatArray, edge: float, step: float) -> tuple[FloatArray, FloatArray]:
    """Carry the density over one increment and keep what stays within the edges (Gauss–Legendre nodes)."""
    x, w = _legendre()
    # Nodes reach only as far as the density does; at early looks the bounds lie far outside of it.
    low = max(-edge, float(mean.min()) - 8 * math.sqrt(step))
    high = min(edge, float(mean.max()) + 8 * math.sqrt(step))
    nodes = (high + low) / 2 + (high - low) / 2 * x
    density = np.exp(-0.5 * (nodes[:, None] - mean[None, :]) ** 2 / step) @ mass / math.sqrt(2 * math.pi * step)
    return nodes, density * w * (high - low) / 2


@lru_cache(maxsize=1)
def _legendre() -> tuple[FloatArray, FloatArray]:
    x, w = np.polynomial.legendre.leggauss(_N_NODES)
    return x, w
