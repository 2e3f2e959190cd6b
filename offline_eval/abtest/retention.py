"""Retention among subscribers: what people speak of, and why it must not judge.

Who subscribes is itself an outcome of the offer, so comparing those who did compares different people. It is reported as
descriptive, with bounds for what the difference could be among the same people.

References
----------
Lee (2009), "Training, wages, and sample selection: estimating sharp bounds on treatment effects".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from offline_eval.abtest.effects import wilson
from offline_eval.report.formatting import Interval


@dataclass(frozen=True, slots=True)
class RetentionReading:
    """Kept ÷ subscribed in two variants, and bounds for the same people.

    Parameters
    ----------
    control, treatment
        Share kept among subscribers, with Wilson intervals.
    lee
        Bounds of the difference among those who would subscribe in either variant, *if* the variant with more subscribers
        only added some (monotonicity); limits widened by sampling error. Estimate is the plain difference.
    worst_case
        The same bounds without that assumption; usually they say nothing, which is the point.
    """

    control: Interval
    treatment: Interval
    lee: Interval
    worst_case: Interval

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "descriptive": True,
            "control": self.control.to_json(),
            "treatment": self.treatment.to_json(),
            "difference_lee_bounds": self.lee.to_json(),
            "difference_worst_case": self.worst_case.to_json(),
        }


def read_retention(
    *, n: tuple[float, float], subscribed: tuple[float, float], kept: tuple[float, float], level: float = 0.95
) -> RetentionReading | None:
    """Describe retention of (control, treatment); None where one of them has no subscriber.

    Parameters
    ----------
    n, subscribed, kept
        Matured visitors, subscribers among them, and those of them kept: each (control, treatment).
    """
    if min(subscribed) < 1:
        return None
    shares = [
        Interval(k / s, *wilson(k, s, level=level), level, "Wilson") for k, s in zip(kept, subscribed, strict=True)
    ]
    plain = shares[1].estimate - shares[0].estimate
    p = np.array([[s / m, k / m] for m, s, k in zip(n, subscribed, kept, strict=True)])
    low, high = lee_bounds(p)
    low_se, high_se = _standard_errors(p, n)
    # One-sided limits at either end: the set is covered with the stated level.
    z = float(ndtri((1 + level) / 2))
    low, high = max(-1.0, low - z * low_se), min(1.0, high + z * high_se)
    low, high = min(low, high), max(low, high)  # where nobody has left both are zero, but for rounding
    worst = worst_case_bounds(p)
    return RetentionReading(
        control=shares[0],
        treatment=shares[1],
        lee=Interval(plain, low, high, level, "Lee bounds, assuming one variant only adds subscribers"),
        worst_case=Interval(plain, *worst, level, "no assumption"),
    )


def lee_bounds(p: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Bounds of the difference in retention among those who subscribe in either variant.

    Parameters
    ----------
    p
        Rows control and treatment; columns share subscribed and share kept of all visitors, shape ``(2, 2)``.
    """
    (s_c, k_c), (s_t, k_t) = p
    r_c, r_t = k_c / s_c, k_t / s_t
    if s_t >= s_c:
        keep = s_c / s_t
        return min(1.0, max(0.0, (r_t - (1 - keep)) / keep)) - r_c, min(1.0, r_t / keep) - r_c
    keep = s_t / s_c
    return r_t - min(1.0, r_c / keep), r_t - max(0.0, (r_c - (1 - keep)) / keep)


def worst_case_bounds(p: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """The same bounds when each variant may win some subscribers and lose others.

    At least ``s_c + s_t - 1`` of all visitors subscribe in either variant; where that is not positive nothing is known.
    """
    (s_c, k_c), (s_t, k_t) = p
    always = s_c + s_t - 1
    if always <= 0:
        return -1.0, 1.0
    limits = []
    for s, k in ((s_c, k_c), (s_t, k_t)):
        keep = always / s
        r = k / s
        limits.append((min(1.0, max(0.0, (r - (1 - keep)) / keep)), min(1.0, r / keep)))
    return limits[1][0] - limits[0][1], limits[1][1] - limits[0][0]


def _standard_errors(p: np.ndarray[Any, np.dtype[np.float64]], n: tuple[float, float]) -> tuple[float, float]:
    """Sampling error of both bounds by the delta method with a numerical gradient."""
    gradients = np.zeros((2, 2, 2))
    for i in range(2):
        for j in range(2):
            step = 1e-6
            up, down = p.copy(), p.copy()
            up[i, j] += step
            down[i, j] -= step
            gradients[:, i, j] = (np.array(lee_bounds(up)) - np.array(lee_bounds(down))) / (2 * step)
    variances = np.zeros(2)
    for i in range(2):
        s, k = p[i]
        cov = np.array([[s * (1 - s), k * (1 - s)], [k * (1 - s), k * (1 - k)]]) / n[i]
        variances += np.einsum("bi,ij,bj->b", gradients[:, i], cov, gradients[:, i])
    # Where nobody has left, the variance is zero and rounding may put it a hair below.
    low, high = np.sqrt(np.maximum(variances, 0.0))
    return float(low), float(high)
