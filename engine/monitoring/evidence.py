"""Arithmetic of the checks: evidence that draws are not those of the log, distance of two distributions, bins of numbers.

References
----------
Howard, Ramdas, McAuliffe and Sekhon (2020), "Time-uniform Chernoff bounds via nonnegative supermartingales" (Bennett-type process).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from policies.records import FloatArray, IntArray

# Sizes of the deviation that are betted on, in both directions and in equal parts. Small ones find a bias of a percent in a day of a
# busy site, large ones a gross error after a few dozen draws.
_BETS = np.array([s * x for x in (0.01, 0.03, 0.1, 0.3, 1.0) for s in (1.0, -1.0)])
# Bins of numbers are half octaves: 1.0-1.41, 1.41-2.0, 2.0-2.83, …
_BINS_AN_OCTAVE = 2
_LARGEST_BIN = 80


def log_evidence(counts: ArrayLike, expected: ArrayLike, variance: ArrayLike) -> FloatArray:
    """Natural logarithm of the evidence that draws do not follow their logged probabilities, any shape.

    For each cell ``count - expected`` is a sum of differences ``1{drawn} - p`` that are a martingale if the log is true, each at most
    one in size. For every bet x, ``exp(x S - V (e^|x| - 1 - |x|))`` is then a supermartingale that starts at one (Bennett), and so is
    the mean over bets: by Ville's inequality it ever reaches ``1 / alpha`` with probability at most alpha, however often it is read.

    Parameters
    ----------
    counts, expected, variance
        How often an offer was drawn, and the sums of p and of p (1 - p) over the decisions in which it was eligible.
    """
    off = np.asarray(counts, dtype=np.float64) - np.asarray(expected, dtype=np.float64)
    spread = np.asarray(variance, dtype=np.float64)
    size = np.abs(_BETS)
    logs = off[..., None] * _BETS - spread[..., None] * (np.expm1(size) - size)
    return np.asarray(logsumexp(logs, axis=-1) - np.log(len(_BETS)))


def stability_index(now: ArrayLike, before: ArrayLike) -> float:
    """Population stability index of two counts over the same bins: 0 for equal shares, above 0.25 for other people.

    Half a count is added to each bin, so that a bin that was never seen before weighs what its rows weigh and is not infinite; what
    chance alone is expected to give at these sizes is taken off.
    """
    x, y = np.asarray(now, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if len(x) < 2 or not x.sum() or not y.sum():
        return 0.0
    p, q = (x + 0.5) / (x + 0.5).sum(), (y + 0.5) / (y + 0.5).sum()
    by_chance = (len(x) - 1) * (1 / x.sum() + 1 / y.sum())
    return float(max(0.0, ((p - q) * np.log(p / q)).sum() - by_chance))


def bin_of(values: FloatArray) -> IntArray:
    """Half octave in which each number lies, with the sign of the number; 0 for zero.

    Returns
    -------
    numpy.ndarray
        Shape of ``values``, int64: ``sign * (half octaves above 2 ** -20, at least 1 and at most 80)``.
    """
    size = np.abs(values)
    with np.errstate(divide="ignore"):
        place = np.floor(np.log2(size) * _BINS_AN_OCTAVE) + 20 * _BINS_AN_OCTAVE
    place = np.clip(np.where(size > 0, place, 0.0), 1, _LARGEST_BIN)
    return np.asarray(np.where(size > 0, np.sign(values) * place, 0), dtype=np.int64)


def bin_of_one(value: float) -> int:
    """``bin_of`` of one number."""
    if not value:
        return 0
    place = min(max(math.floor(math.log2(abs(value)) * _BINS_AN_OCTAVE) + 20 * _BINS_AN_OCTAVE, 1), _LARGEST_BIN)
    return place if value > 0 else -place


def smallest_of(bin_number: int) -> float:
    """Smallest size of a number in a bin."""
    return 0.0 if bin_number == 0 else float(2.0 ** ((abs(bin_number) - 20 * _BINS_AN_OCTAVE) / _BINS_AN_OCTAVE))


def fingerprint(values: FloatArray) -> IntArray:
    """A number 0 to 15 for each value: equal for equal values, so that what stands still has one and what moves has many."""
    whole = np.floor(values)
    bits = np.ascontiguousarray(values, dtype=np.float64).view(np.uint64)
    mixed = (bits * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(60)
    small = (whole == values) & (np.abs(values) < 2**31)
    whole = np.where(small, whole, 0.0).astype(np.int64)
    return np.asarray(np.where(small, whole & 15, mixed.astype(np.int64)), dtype=np.int64)


def grouped(codes: NDArray[np.int64], n_groups: int, *columns: FloatArray) -> list[FloatArray]:
    """Sums of columns (each ``(n,)`` or ``(n, k)``) over rows of equal code, each of shape ``(n_groups,)`` or ``(n_groups, k)``."""
    if not len(codes):
        return [np.zeros((n_groups, *c.shape[1:])) for c in columns]
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    out = []
    for column in columns:
        sums = np.zeros((n_groups, *column.shape[1:]))
        sums[ordered[starts]] = np.add.reduceat(column[order], starts, axis=0)
        out.append(sums)
    return out
