"""Importance weighting: no model, only the logged propensities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offline_eval.estimators.base import (
    ONE,
    REWARD,
    WEIGHT,
    WEIGHTED_REWARD,
    Column,
    Rows,
    Total,
    Value,
    mean_of,
    ratio_of,
)
from policies.errors import InvalidInputError
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class InversePropensity:
    """Mean of weight times reward (IPS, also IPW).

    Notes
    -----
    Unbiased where the log supports the candidate. Its variance grows with the second moment of the weights, and adding
    a constant to the reward changes its error: prefer SNIPS or DR where rewards are far from 0.

    References
    ----------
    Horvitz and Thompson (1952), "A generalization of sampling without replacement from a finite universe".
    """

    name: str = "IPS"
    needs_model: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Weighted reward."""
        return (WEIGHTED_REWARD,)

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(w r)``."""
        return mean_of(WEIGHTED_REWARD.name, totals)


@dataclass(frozen=True, slots=True)
class SelfNormalisedIPS:
    """Weighted reward over the total weight (SNIPS, also SNIPW, Hájek).

    Notes
    -----
    Biased for small samples, bounded by the largest reward, and equivariant: adding a constant to the reward shifts the
    estimate by it. It hides missing support (offers never logged), which the mean weight shows.

    References
    ----------
    Swaminathan and Joachims (2015), "The self-normalized estimator for counterfactual learning".
    """

    name: str = "SNIPS"
    needs_model: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """Weight and weighted reward."""
        return (WEIGHT, WEIGHTED_REWARD)

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``sum(w r) / sum(w)``."""
        return ratio_of(WEIGHTED_REWARD.name, WEIGHT.name, totals)


@dataclass(frozen=True, slots=True)
class ClippedIPS:
    """IPS with weights cut at a cap.

    Parameters
    ----------
    cap
        Largest weight allowed, above 0.

    Notes
    -----
    Biased downwards for rewards that are not negative, whatever the number of rows: read its bias-aware interval.

    References
    ----------
    Ionides (2008), "Truncated importance sampling".
    """

    cap: float = 10.0
    needs_model: bool = False

    def __post_init__(self) -> None:
        need_positive("cap", self.cap)

    @property
    def name(self) -> str:
        """With the cap."""
        return f"clipped IPS (cap {self.cap:g})"

    @property
    def shrunk_weight(self) -> Column:
        """``min(w, cap)``."""
        return Column(
            f"min(w,{self.cap!r})", lambda rows: np.minimum(rows.weight, self.cap), ONE if self.cap >= 1 else ""
        )

    @property
    def kept_weight(self) -> Column:
        """The clipped weight."""
        return self.shrunk_weight

    @property
    def columns(self) -> tuple[Column, ...]:
        """Clipped weight, and times the reward."""
        clipped = self.shrunk_weight
        at_one = REWARD if self.cap >= 1 else ""
        return (clipped, Column(f"min(w,{self.cap!r})*r", lambda rows: rows.column(clipped) * rows.reward, at_one))

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(min(w, cap) r)``."""
        return mean_of(f"min(w,{self.cap!r})*r", totals)


@dataclass(frozen=True, slots=True)
class SubGaussianIPS:
    """IPS with weights bent towards one by a harmonic mean, so that the estimate has sub-Gaussian tails.

    Parameters
    ----------
    correction
        lambda in [0, 1]: 0 is IPS, 1 gives every row with a weight above 0 weight one (the logging policy's value, if that is every row).

    References
    ----------
    Metelli, Russo and Restelli (2021), "Subgaussian and differentiable importance sampling for off-policy evaluation and
    learning" (the case s = -1).
    """

    correction: float = 0.1
    needs_model: bool = False

    def __post_init__(self) -> None:
        need_share("correction", self.correction)

    @property
    def name(self) -> str:
        """With the correction."""
        return f"sub-Gaussian IPS ({self.correction:g})"

    @property
    def shrunk_weight(self) -> Column:
        """The bent weight, above the true one where that is below 1."""
        return sub_gaussian_weight(self.correction)

    @property
    def kept_weight(self) -> Column:
        """The lesser of bent and true weight."""
        return kept_of(self.shrunk_weight)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Bent weight times reward."""
        bent = self.shrunk_weight
        return (Column(f"{bent.name}*r", lambda rows: rows.column(bent) * rows.reward, REWARD),)

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(w / (1 - lambda + lambda w) r)``."""
        return mean_of(f"{self.shrunk_weight.name}*r", totals)


@dataclass(frozen=True, slots=True)
class BaselineCorrectedIPS:
    """IPS of the reward less a baseline, plus the baseline: ``b + mean(w (r - b))``.

    Parameters
    ----------
    baseline
        A fixed b (0 gives IPS), or None for the one that makes the variance smallest, estimated from the same rows.

    Notes
    -----
    With a fixed b it is unbiased; with the estimated one the bias is of order 1/n. The influence function differentiates
    through the estimated baseline.

    References
    ----------
    Gupta, Jeunen, Oosterhuis and de Rijke (2024), "Optimal baseline corrections for off-policy contextual bandits".
    """

    baseline: float | None = None
    needs_model: bool = False

    @property
    def name(self) -> str:
        """With the baseline where it is fixed."""
        return "baseline-corrected IPS" if self.baseline is None else f"baseline-corrected IPS ({self.baseline:g})"

    @property
    def columns(self) -> tuple[Column, ...]:
        """First and second moments of the weight, with and without the reward."""
        return (
            WEIGHT,
            WEIGHTED_REWARD,
            Column("w^2-w", lambda rows: rows.weight * (rows.weight - 1.0)),
            Column("(w^2-w)*r", lambda rows: rows.weight * (rows.weight - 1.0) * rows.reward),
        )

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``b + mean(w r) - b mean(w)`` with ``b = sum((w^2 - w) r) / sum(w^2 - w)`` unless it is fixed."""
        n, w, wr = totals[ONE], totals["w"], totals["w*r"]
        top, bottom = totals["(w^2-w)*r"], totals["w^2-w"]
        # All weights 0 or 1 (the logging policy itself): no variance that a baseline could take away.
        is_free = np.abs(bottom) < 1e-12 * np.maximum(np.abs(w), 1e-300)
        safe = np.where(is_free, 1.0, bottom)
        b = self.baseline if self.baseline is not None else np.where(is_free, 0.0, top / safe)
        slope = 0.0 if self.baseline is not None else np.where(is_free, 0.0, 1.0 - w / n)
        gradient = {
            "w*r": 1.0 / n,
            "w": -b / n,
            ONE: -(wr - b * w) / n**2,
            "(w^2-w)*r": slope / safe,
            "w^2-w": -slope * b / safe,
        }
        return Value(b + (wr - b * w) / n, gradient)


def sub_gaussian_weight(correction: float) -> Column:
    """``w / (1 - lambda + lambda w)``, 0 where w is 0."""

    def bent(rows: Rows) -> FloatArray:
        w = rows.weight
        bottom = 1.0 - correction + correction * w
        return np.asarray(np.divide(w, bottom, out=np.zeros_like(w), where=bottom > 0))

    return Column(f"sg(w,{correction!r})", bent, ONE)


def kept_of(used: Column) -> Column:
    """The lesser of a weight and the true one."""
    return Column(f"min(w,{used.name})", lambda rows: np.minimum(rows.weight, rows.column(used)), used.at_one)


def need_positive(name: str, value: float) -> None:
    """Refuse a setting that is not a positive number."""
    if not (np.isfinite(value) and value > 0):
        raise InvalidInputError(f"{name} is {value}; expected a number above 0")


def need_share(name: str, value: float) -> None:
    """Refuse a setting outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise InvalidInputError(f"{name} is {value}; expected a number in [0, 1]")
