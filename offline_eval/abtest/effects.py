"""Difference of two variants: stratified by phase, with intervals for its absolute and its relative size.

Phases are strata: each is compared within itself and the differences are averaged with weights proportional to
``n_t n_c / (n_t + n_c)``, the information each carries. Pooling over a change of weights instead finds a winner in every A/A
test whose base rate drifts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from offline_eval.abtest.records import FloatArray, Metric, Moments
from offline_eval.report.formatting import Interval, finite_or_none
from policies.errors import InvalidInputError


@dataclass(frozen=True, slots=True)
class Effect:
    """Treatment minus control for one metric.

    Parameters
    ----------
    standard_error, df
        Of the difference; degrees of freedom by Welch and Satterthwaite.
    control, treatment
        Levels under the same phase weights, so that their difference is the effect.
    interval
        Fixed-sample interval of the difference: right for a single look, too narrow for someone who looks often.
    lift
        Relative change with its interval; None where the control level is not positive.
    information
        ``sum over phases of n_t n_c / (n_t + n_c)``.
    """

    estimate: float
    standard_error: float
    df: float
    control: float
    treatment: float
    n_control: int
    n_treatment: int
    interval: Interval
    lift: Interval | None
    information: float

    @property
    def z(self) -> float:
        """Difference in standard errors; 0 where there is no spread to judge by."""
        return self.estimate / self.standard_error if self.standard_error > 0 else 0.0

    @property
    def p_value(self) -> float:
        """Two-sided, for a single look."""
        return float(2 * stdtr(self.df, -abs(self.z))) if self.standard_error > 0 else 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "estimate": finite_or_none(self.estimate),
            "standard_error": finite_or_none(self.standard_error),
            "df": finite_or_none(self.df),
            "z": finite_or_none(self.z),
            "p_value_single_look": finite_or_none(self.p_value),
            "control": finite_or_none(self.control),
            "treatment": finite_or_none(self.treatment),
            "n_control": self.n_control,
            "n_treatment": self.n_treatment,
            "interval_single_look": self.interval.to_json(),
            "lift": None if self.lift is None else self.lift.to_json(),
        }


def compare(moments: Moments, metric: Metric, *, treatment: int, control: int, level: float = 0.95) -> Effect:
    """Compare two variants by one metric.

    Parameters
    ----------
    treatment, control
        Columns of the moments.
    level
        Of the fixed-sample interval: Newcombe for a proportion in one phase, Welch otherwise.

    Raises
    ------
    InvalidInputError
        If no phase has two subjects in both variants.

    References
    ----------
    Deng, Xu, Kohavi and Walker (2013), "Improving the sensitivity of online controlled experiments by utilizing
    pre-experiment data" (the covariate); Deng, Knoblich and Lu (2018), "Applying the delta method in metric analytics"
    (ratios); Newcombe (1998), "Interval estimation for the difference between independent proportions", method 10.
    """
    means, variances = cell_means(moments, metric)
    n_t, n_c = moments.n[:, treatment], moments.n[:, control]
    usable = (n_t >= 2) & (n_c >= 2) & np.isfinite(means[:, treatment]) & np.isfinite(means[:, control])
    if not usable.any():
        raise InvalidInputError(
            f"metric {metric.name!r} has {int(n_t.sum())} and {int(n_c.sum())} matured subjects; expected at least two in both "
            "variants of one phase: wait until more subjects have matured"
        )
    information = np.where(usable, n_t * n_c / np.maximum(n_t + n_c, 1), 0.0)
    weight = information / information.sum()
    mean_t, var_t, df_t = _standardised(means[:, treatment], variances[:, treatment], n_t, weight)
    mean_c, var_c, df_c = _standardised(means[:, control], variances[:, control], n_c, weight)
    estimate, variance = mean_t - mean_c, var_t + var_c
    df = _satterthwaite(var_t, df_t, var_c, df_c)
    if metric.kind == "proportion" and not metric.covariate and usable.sum() == 1:
        p = int(np.argmax(usable))
        interval = newcombe(moments.sum_y[p, treatment], n_t[p], moments.sum_y[p, control], n_c[p], level=level)
    else:
        half = _t_quantile(level, df) * math.sqrt(variance)
        interval = Interval(
            estimate,
            estimate - half,
            estimate + half,
            level,
            "Welch" if usable.sum() == 1 else "Welch, stratified by phase",
        )
    return Effect(
        estimate=estimate,
        standard_error=math.sqrt(variance),
        df=df,
        control=mean_c,
        treatment=mean_t,
        n_control=int(n_c[usable].sum()),
        n_treatment=int(n_t[usable].sum()),
        interval=interval,
        lift=_lift((mean_t, var_t, df_t), (mean_c, var_c, df_c), level=level),
        information=float(information.sum()),
    )


def cell_means(moments: Moments, metric: Metric) -> tuple[FloatArray, FloatArray]:
    """Mean and variance of the mean in each cell, shape ``(n_phases, n_variants)``; nan in empty cells.

    With a covariate the mean is the CUPED-adjusted one: the slope is pooled within cells, the covariate is centred on its mean
    over all variants of the phase, so that levels stay levels.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        n = moments.n
        mean_y, mean_x = moments.sum_y / n, moments.sum_x / n
        s_yy = np.maximum(moments.sum_yy - n * mean_y**2, 0.0)
        s_xx = np.maximum(moments.sum_xx - n * mean_x**2, 0.0)
        s_xy = moments.sum_xy - n * mean_x * mean_y
        if metric.kind == "ratio":
            ratio = moments.sum_y / moments.sum_x
            residual = np.maximum(s_yy - 2 * ratio * s_xy + ratio**2 * s_xx, 0.0)
            return np.where(moments.sum_x > 0, ratio, np.nan), residual / (n - 1) / n / mean_x**2
        if not metric.covariate:
            return mean_y, s_yy / (n - 1) / n
        total_xx = float(np.nansum(s_xx))
        theta = float(np.nansum(s_xy)) / total_xx if total_xx > 0 else 0.0
        centre = moments.sum_x.sum(axis=1, keepdims=True) / n.sum(axis=1, keepdims=True)
        residual = np.maximum(s_yy - 2 * theta * s_xy + theta**2 * s_xx, 0.0)
        return mean_y - theta * (mean_x - centre), residual / (n - 1) / n


def newcombe(x_t: float, n_t: float, x_c: float, n_c: float, *, level: float = 0.95) -> Interval:
    """Interval of the difference of two proportions that holds for rare events and never leaves [-1, 1]."""
    p_t, p_c = x_t / n_t, x_c / n_c
    low_t, high_t = wilson(x_t, n_t, level=level)
    low_c, high_c = wilson(x_c, n_c, level=level)
    low = p_t - p_c - math.hypot(p_t - low_t, high_c - p_c)
    high = p_t - p_c + math.hypot(high_t - p_t, p_c - low_c)
    return Interval(p_t - p_c, low, high, level, "Newcombe")


def wilson(x: float, n: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of one proportion; exactly 0 or 1 at an end where nothing, or everything, was found."""
    z = float(ndtri((1 + level) / 2))
    p = x / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 0.0 if x == 0 else middle - half, 1.0 if x == n else middle + half


def _standardised(
    mean: FloatArray, variance: FloatArray, n: FloatArray, weight: FloatArray
) -> tuple[float, float, float]:
    """Weighted mean over phases, its variance, and Satterthwaite's degrees of freedom."""
    use = weight > 0
    w, parts = weight[use], weight[use] ** 2 * variance[use]
    total = float(parts.sum())
    df = total**2 / float((parts**2 / (n[use] - 1)).sum()) if total > 0 else float(n[use].sum() - 1)
    return float(w @ mean[use]), total, df


def _satterthwaite(var_a: float, df_a: float, var_b: float, df_b: float) -> float:
    if var_a + var_b <= 0:
        return df_a + df_b
    return (var_a + var_b) ** 2 / (var_a**2 / df_a + var_b**2 / df_b)


def _lift(
    treatment: tuple[float, float, float], control: tuple[float, float, float], *, level: float
) -> Interval | None:
    """Relative change by the delta method on the logarithm of the ratio, so that it never falls below -100 %."""
    (mean_t, var_t, df_t), (mean_c, var_c, df_c) = treatment, control
    if mean_c <= 0 or mean_t <= 0:
        return None
    rel_t, rel_c = var_t / mean_t**2, var_c / mean_c**2
    half = _t_quantile(level, _satterthwaite(rel_t, df_t, rel_c, df_c)) * math.sqrt(rel_t + rel_c)
    ratio = mean_t / mean_c
    return Interval(
        ratio - 1, ratio * math.exp(-half) - 1, ratio * math.exp(half) - 1, level, "delta method, log scale"
    )


def _t_quantile(level: float, df: float) -> float:
    return float(stdtrit(df, (1 + level) / 2))
