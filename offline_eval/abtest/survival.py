"""How long subscribers stay: Kaplan–Meier from counts by day, so that no row per subscriber is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from offline_eval.abtest.records import FloatArray, IntArray
from policies.errors import InvalidInputError, SchemaError


@dataclass(frozen=True, slots=True)
class SurvivalCurve:
    """Share still there after each day, with limits; each array of shape ``(n_days,)``."""

    day: IntArray
    share: FloatArray
    low: FloatArray
    high: FloatArray
    at_risk: IntArray

    def at(self, day: int) -> float:
        """Share still there at the end of a day; nan beyond the data."""
        return float(self.share[day]) if day < len(self.share) else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "day": self.day.tolist(),
            "share": [float(v) for v in self.share],
            "low": [float(v) for v in self.low],
            "high": [float(v) for v in self.high],
            "at_risk": self.at_risk.tolist(),
        }


def kaplan_meier(left: IntArray, censored: IntArray, *, level: float = 0.95) -> SurvivalCurve:
    """Curve of those who stay.

    Parameters
    ----------
    left
        How many left on day 0, 1, 2, … after subscribing, shape ``(n_days,)``.
    censored
        How many were still there when last seen, by the same day; whoever leaves and whoever is last seen on one day are
        both at risk on it.

    Notes
    -----
    Greenwood's variance on the log(-log) scale, so that limits stay within [0, 1].
    """
    left, censored = np.asarray(left, dtype=np.int64), np.asarray(censored, dtype=np.int64)
    if left.shape != censored.shape or left.ndim != 1 or len(left) == 0:
        raise SchemaError(
            f"left has shape {left.shape} and censored {censored.shape}; expected one count a day in both"
        )
    if (left < 0).any() or (censored < 0).any() or left.sum() + censored.sum() == 0:
        raise InvalidInputError("counts of subscribers are negative or all zero; pass at least one subscriber")
    gone = left + censored
    at_risk = gone.sum() - np.concatenate([[0], np.cumsum(gone)[:-1]])
    known = at_risk > 0
    days = np.flatnonzero(known)
    n, d = at_risk[known].astype(np.float64), left[known].astype(np.float64)
    share = np.cumprod(1 - d / n)
    with np.errstate(divide="ignore", invalid="ignore"):
        greenwood = np.cumsum(np.where(n > d, d / (n * (n - d)), np.inf))
        spread = float(ndtri((1 + level) / 2)) * np.sqrt(greenwood) / np.log(share)
        low, high = share ** np.exp(-spread), share ** np.exp(spread)
    # Before anyone left, and after everyone did, the scale has no width to speak of.
    certain = (share >= 1) | (share <= 0)
    return SurvivalCurve(days, share, np.where(certain, share, low), np.where(certain, share, high), at_risk[known])
