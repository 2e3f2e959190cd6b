"""Intervals and bounds, each with what it assumes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from policies.errors import InvalidInputError
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class Bounds:
    """Low and high end of an interval; infinite where only one side is bounded."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of its length."""
        return (self.high - self.low) / 2

    def to_json(self) -> list[float | None]:
        """Low and high, null where unbounded."""
        return [self.low if math.isfinite(self.low) else None, self.high if math.isfinite(self.high) else None]


def z_value(alpha: float) -> float:
    """Two-sided normal quantile of an error probability."""
    if not 0 < alpha < 1:
        raise InvalidInputError(f"alpha is {alpha}; expected an error probability in (0, 1), for example 0.05")
    return NormalDist().inv_cdf(1 - alpha / 2)


def t_value(alpha: float, degrees_of_freedom: float) -> float:
    """Two-sided quantile of Student's t; the normal one where degrees of freedom are infinite."""
    z = z_value(alpha)
    if degrees_of_freedom < 20:
        from scipy.special import stdtrit  # a third of a second to import, needed for small samples only

        return float(stdtrit(degrees_of_freedom, 1 - alpha / 2))
    # Fisher's expansion (Abramowitz and Stegun 26.7.5), here good to 1e-5.
    nu = degrees_of_freedom
    return (
        z
        + (z**3 + z) / (4 * nu)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    )


def normal(value: float, standard_error: float, *, alpha: float, degrees_of_freedom: float = math.inf) -> Bounds:
    """Influence-function interval: right for large samples; wider where the variance itself is known from few rows."""
    t = t_value(alpha, degrees_of_freedom)
    return Bounds(value - t * standard_error, value + t * standard_error)


def percentile(resampled: FloatArray, *, alpha: float) -> Bounds:
    """Bootstrap interval from the quantiles of resampled estimates; resamples without an estimate are left out."""
    finite = resampled[np.isfinite(resampled)]
    if len(finite) == 0:
        return Bounds(-math.inf, math.inf)
    low, high = np.quantile(finite, [alpha / 2, 1 - alpha / 2])
    return Bounds(float(low), float(high))


def bias_aware(
    value: float, standard_error: float, *, bias: float, alpha: float, degrees_of_freedom: float = math.inf
) -> Bounds:
    """Interval of an estimate whose bias is at most ``bias`` in size: the normal one, moved out by it on both sides.

    Notes
    -----
    Wider than the fixed-length interval of Armstrong and Kolesár (2018) by less than a third, and valid whatever the sign
    of the bias.
    """
    t = t_value(alpha, degrees_of_freedom)
    return Bounds(value - t * standard_error - bias, value + t * standard_error + bias)


def hoeffding_lower(mean: float, n: int, *, width: float, alpha: float) -> float:
    """Lower confidence bound (one-sided) of the mean of n independent values in a range of the given width.

    References
    ----------
    Hoeffding (1963), "Probability inequalities for sums of bounded random variables".
    """
    return mean - width * math.sqrt(math.log(1 / alpha) / (2 * n))


def empirical_bernstein_lower(mean: float, variance: float, n: int, *, width: float, alpha: float) -> float:
    """Lower confidence bound (one-sided) that profits from a small sample variance (divisor n - 1).

    References
    ----------
    Maurer and Pontil (2009), "Empirical Bernstein bounds and sample variance penalization", theorem 4.
    """
    if n < 2:
        return -math.inf
    log = math.log(2 / alpha)
    return mean - math.sqrt(2 * variance * log / n) - 7 * width * log / (3 * (n - 1))


def asymptotic_confidence_sequence(
    value: FloatArray, standard_deviation: FloatArray, n: FloatArray, *, alpha: float, best_at: float
) -> tuple[FloatArray, FloatArray]:
    """Intervals that hold at all sample sizes at once, for means of influence functions (asymptotic in the first look).

    Parameters
    ----------
    value, standard_deviation
        Running mean and running standard deviation of the influence function after n units, same shape as ``n``.
    best_at
        Number of units at which the sequence should be tightest.

    Returns
    -------
    tuple
        Low and high ends.

    References
    ----------
    Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), "Time-uniform central limit theory and asymptotic confidence
    sequences", theorem 2.2 with rho as in its appendix B.2.
    """
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / best_at
    radius = standard_deviation * np.sqrt(2 * (n * rho2 + 1) / (n**2 * rho2) * np.log(np.sqrt(n * rho2 + 1) / alpha))
    return np.asarray(value - radius), np.asarray(value + radius)


def lower_confidence_sequence(values: FloatArray, *, alpha: float, scale: float, best_at: int) -> FloatArray:
    """Lower ends that hold at all times at once, for the mean of independent values that are not negative.

    No upper range is needed, so it holds for importance-weighted rewards without a cap on the weights; it is one-sided
    for the same reason.

    Parameters
    ----------
    values
        In the order they came, shape ``(n,)``, not negative.
    scale
        An upper bound of the *mean* (not of the values), for example the largest reward; fixed before the data are seen.
    best_at
        Number of values at which it should be tightest; it holds at every other number too.

    Raises
    ------
    InvalidInputError
        If a value is negative: shift the reward first.

    References
    ----------
    Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2024), "Anytime-valid off-policy inference for contextual
    bandits", the predictable plug-in empirical Bernstein form.
    """
    if len(values) and values.min() < 0:
        raise InvalidInputError(
            f"a value is {values.min():.4g}; expected none below 0: subtract the least possible reward first"
        )
    x = values / scale
    n = len(x)
    before = np.arange(n, dtype=np.float64)
    total = np.concatenate(([0.0], np.cumsum(x)[:-1]))
    centre = np.minimum((0.5 + total) / (before + 1), 1.0)  # known before x_t, at most 1, so x_t - centre >= -1
    spread = np.concatenate(([0.0], np.cumsum((x - centre) ** 2)[:-1]))
    # Ten imagined values of variance 10 keep the first bets small: a heavy weight that comes early would else cost all.
    variance = (100.0 + spread) / (before + 10)
    bet = np.minimum(np.sqrt(2 * math.log(1 / alpha) / (variance * best_at)), 0.5)
    penalty = (-np.log1p(-bet) - bet) * (x - centre) ** 2
    weights = np.cumsum(bet)
    low = (np.cumsum(bet * x) - math.log(1 / alpha) - np.cumsum(penalty)) / weights
    return np.asarray(scale * np.maximum(np.maximum.accumulate(low), 0.0))
