"""Doubly robust forms: the model, corrected by weighted residuals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offline_eval.estimators.base import (
    MODEL,
    ONE,
    RESIDUAL,
    WEIGHT,
    WEIGHTED_RESIDUAL,
    Column,
    Rows,
    Total,
    Value,
    add,
    mean_of,
    ratio_of,
)
from offline_eval.estimators.importance import kept_of, need_positive, need_share, sub_gaussian_weight
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class DoublyRobust:
    """Model under the candidate plus weighted residuals (DR).

    Notes
    -----
    Unbiased where either the propensities are right or the model is; with logged propensities and a model fitted on
    other subjects (cross-fitting) the first holds by construction. With a zero model it is IPS.

    References
    ----------
    Dudík, Langford and Li (2011), "Doubly robust policy evaluation and learning".
    """

    name: str = "DR"
    needs_model: bool = True

    @property
    def columns(self) -> tuple[Column, ...]:
        """Model, and weighted residual."""
        return (MODEL, WEIGHTED_RESIDUAL)

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(dm + w (r - q))``."""
        return add(mean_of(MODEL.name, totals), mean_of(WEIGHTED_RESIDUAL.name, totals))


@dataclass(frozen=True, slots=True)
class SelfNormalisedDoublyRobust:
    """DR whose correction is divided by the mean weight (SNDR).

    Notes
    -----
    Less variance than DR where weights are heavy, biased for small samples. With a zero model it is SNIPS.

    References
    ----------
    Thomas and Brunskill (2016), "Data-efficient off-policy policy evaluation for reinforcement learning" (the weighted
    doubly robust estimator, for one decision).
    """

    name: str = "SNDR"
    needs_model: bool = True

    @property
    def columns(self) -> tuple[Column, ...]:
        """Model, weight, and weighted residual."""
        return (MODEL, WEIGHT, WEIGHTED_RESIDUAL)

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(dm) + sum(w (r - q)) / sum(w)``."""
        return add(mean_of(MODEL.name, totals), ratio_of(WEIGHTED_RESIDUAL.name, WEIGHT.name, totals))


class _ShrunkDoublyRobust:
    """DR with a smaller weight; the subclass says which, and a key that names it with its setting."""

    __slots__ = ()
    needs_model = True

    @property
    def is_one_at_one(self) -> bool:
        """Whether a weight of one stays as it is."""
        return False

    @property
    def key(self) -> str:
        """Name of the shrunk weight."""
        raise NotImplementedError

    def weight(self, rows: Rows) -> FloatArray:
        """The shrunk weight, shape ``(n,)``."""
        raise NotImplementedError

    @property
    def shrunk_weight(self) -> Column:
        """The shrunk weight as a column."""
        return Column(self.key, self.weight, ONE if self.is_one_at_one else "")

    @property
    def kept_weight(self) -> Column:
        """The shrunk weight."""
        return self.shrunk_weight

    @property
    def columns(self) -> tuple[Column, ...]:
        """Model, shrunk weight, and shrunk weight times residual."""
        shrunk = self.shrunk_weight
        at_one = RESIDUAL.name if self.is_one_at_one else ""
        return (MODEL, shrunk, Column(f"{self.key}*(r-q)", lambda rows: rows.column(shrunk) * rows.residual, at_one))

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(dm + w' (r - q))``."""
        return add(mean_of(MODEL.name, totals), mean_of(f"{self.key}*(r-q)", totals))


@dataclass(frozen=True, slots=True)
class SwitchDoublyRobust(_ShrunkDoublyRobust):
    """DR that trusts the model alone where the weight is above a threshold.

    Parameters
    ----------
    threshold
        tau; infinity gives DR, 0 gives DM (with weights above 0).

    References
    ----------
    Wang, Agarwal and Dudík (2017), "Optimal and adaptive off-policy evaluation in contextual bandits".
    """

    threshold: float = 10.0

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            need_positive("threshold", self.threshold)

    @property
    def name(self) -> str:
        """With the threshold."""
        return f"Switch-DR ({self.threshold:g})"

    @property
    def is_one_at_one(self) -> bool:
        """Where the threshold is not below it."""
        return self.threshold >= 1

    @property
    def key(self) -> str:
        """Named by the threshold."""
        return f"switch(w,{self.threshold!r})"

    def weight(self, rows: Rows) -> FloatArray:
        """``w`` where ``w <= tau``, else 0."""
        return np.where(rows.weight <= self.threshold, rows.weight, 0.0)


@dataclass(frozen=True, slots=True)
class DRos(_ShrunkDoublyRobust):
    """DR with optimistic shrinkage of the weights: ``lambda w / (w^2 + lambda)``.

    Parameters
    ----------
    strength
        lambda; 0 gives DM, infinity DR.

    Notes
    -----
    The shrunk weight is at most ``w`` and at most ``sqrt(lambda) / 2``.

    References
    ----------
    Su, Dimakopoulou, Krishnamurthy and Dudík (2020), "Doubly robust off-policy evaluation with shrinkage".
    """

    strength: float = 100.0

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            need_positive("strength", self.strength)

    @property
    def name(self) -> str:
        """With lambda."""
        return f"DRos ({self.strength:g})"

    @property
    def key(self) -> str:
        """Named by lambda."""
        return f"os(w,{self.strength!r})"

    def weight(self, rows: Rows) -> FloatArray:
        """``lambda w / (w^2 + lambda)``."""
        w = rows.weight
        if np.isinf(self.strength):
            return w
        if self.strength == 0.0:
            return np.zeros_like(w)
        return np.asarray(w / (w * w / self.strength + 1.0))


@dataclass(frozen=True, slots=True)
class SubGaussianDoublyRobust:
    """DR with the sub-Gaussian weight ``w / (1 - lambda + lambda w)``.

    Parameters
    ----------
    correction
        lambda in [0, 1]: 0 is DR.

    References
    ----------
    Metelli, Russo and Restelli (2021), "Subgaussian and differentiable importance sampling for off-policy evaluation and
    learning".
    """

    correction: float = 0.1
    needs_model: bool = True

    def __post_init__(self) -> None:
        need_share("correction", self.correction)

    @property
    def name(self) -> str:
        """With the correction."""
        return f"sub-Gaussian DR ({self.correction:g})"

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
        """Model, and bent weight times residual."""
        bent = self.shrunk_weight
        return (
            MODEL,
            Column(f"{bent.name}*(r-q)", lambda rows: rows.column(bent) * rows.residual, RESIDUAL.name),
        )

    def from_totals(self, totals: Mapping[str, Total]) -> Value:
        """``mean(dm + w / (1 - lambda + lambda w) (r - q))``."""
        return add(mean_of(MODEL.name, totals), mean_of(f"{self.shrunk_weight.name}*(r-q)", totals))
