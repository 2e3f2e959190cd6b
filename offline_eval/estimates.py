"""Estimates and differences: what estimators say of what one reading of a log has left behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from offline_eval.estimators import Estimator, Shrunk
from offline_eval.estimators.base import ONE, REWARD, WEIGHT, Value
from offline_eval.intervals import Bounds, bias_aware, normal, percentile, z_value
from offline_eval.moments import degrees_of_freedom, gradient_vector
from offline_eval.moments import resampled as resample
from offline_eval.one_pass import SEPARATOR, Pass
from policies.records import FloatArray

NO_MATCH = "No logged row shows an offer that the candidate would show."
ONE_UNIT = "One subject alone says nothing about the spread between subjects."

Gradient = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one estimator says of one candidate, per decision, in the unit of the reward.

    Attributes
    ----------
    value, standard_error
        None where the log gives no estimate; ``note`` then says why.
    bounds
        Influence-function interval, clustered by subject.
    bootstrap
        Percentile interval of resampled subjects; None where no resampling was asked for.
    bias_aware
        For estimators that use other weights than the true ones: the interval moved out by the largest bias that can cause.
    """

    candidate: str
    estimator: str
    value: float | None
    standard_error: float | None
    bounds: Bounds | None
    bootstrap: Bounds | None
    bias_aware: Bounds | None = None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "candidate": self.candidate,
            "estimator": self.estimator,
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": None if self.bounds is None else self.bounds.to_json(),
            "bootstrap_interval": None if self.bootstrap is None else self.bootstrap.to_json(),
            "bias_aware_interval": None if self.bias_aware is None else self.bias_aware.to_json(),
            "note": self.note,
        }


@dataclass(frozen=True, eq=False)
class Estimation:
    """One reading of a log, and what intervals are made with.

    Attributes
    ----------
    data
        What the reading has left behind.
    alpha
        Error probability of intervals.
    reward_range
        Least and largest possible reward, for bias-aware intervals.
    n_resamples, seed
        Of the bootstrap; resampled subjects are shared by all estimators and candidates.
    """

    data: Pass
    alpha: float
    reward_range: tuple[float, float]
    n_resamples: int
    seed: int

    @cached_property
    def resampled(self) -> FloatArray | None:
        """Totals of the resamples, shape ``(n_resamples, n_columns)``; None where there are none."""
        if self.n_resamples == 0:
            return None
        return resample(self.data.folded, n_resamples=self.n_resamples, rng=np.random.default_rng(self.seed))

    def estimate(self, estimator: Estimator, candidate: str) -> Estimate:
        """What an estimator says of a candidate."""
        found = self._value(estimator, candidate)
        if found is None:
            return Estimate(candidate, estimator.name, None, None, None, None, note=NO_MATCH)
        return self._with_intervals(
            estimator,
            candidate,
            float(found.value),
            self._named(found.gradient, candidate),
            self._resampled_values(estimator, candidate),
            of=(candidate,),
        )

    def difference(self, estimator: Estimator, candidate: str, against: str) -> Estimate:
        """A candidate less another one, judged on the same rows and the same resamples."""
        a, b = self._value(estimator, candidate), self._value(estimator, against)
        if a is None or b is None:
            return Estimate(candidate, estimator.name, None, None, None, None, note=NO_MATCH)
        mine, theirs = (self._resampled_values(estimator, name) for name in (candidate, against))
        return self._with_intervals(
            estimator,
            candidate,
            float(a.value) - float(b.value),
            _sum((self._named(a.gradient, candidate), self._named(b.gradient, against, -1.0))),
            None if mine is None or theirs is None else mine - theirs,
            of=(candidate, against),
        )

    def mean_weight(self, candidate: str) -> tuple[float, float]:
        """Mean weight of a candidate, which is 1 where propensities are true and all offers supported, and its standard error."""
        totals = self._totals(candidate)
        n = totals[ONE]
        mean = float(totals[WEIGHT.name] / n)
        return mean, self._standard_error(self._named({WEIGHT.name: 1 / n, ONE: -mean / n}, candidate))

    def apart(self, candidate: str, one: Estimator, other: Estimator) -> tuple[float, float] | None:
        """What one estimator says of a candidate less what another says, and its standard error; None without both."""
        a, b = self._value(one, candidate), self._value(other, candidate)
        if a is None or b is None:
            return None
        joint = _sum((self._named(a.gradient, candidate), self._named(b.gradient, candidate, -1.0)))
        return float(a.value) - float(b.value), self._standard_error(joint)

    def _with_intervals(
        self,
        estimator: Estimator,
        candidate: str,
        value: float,
        gradient: Gradient,
        resampled: FloatArray | None,
        *,
        of: Sequence[str],
    ) -> Estimate:
        """An estimate from its gradient and resamples; ``of`` are the candidates whose bias it carries."""
        if self.data.moments.n_scattered < 2:
            return Estimate(candidate, estimator.name, value, None, None, None, note=ONE_UNIT)
        error = self._standard_error(gradient)
        freedom = degrees_of_freedom(self.data.folded, self._vector(gradient))
        bounds = normal(value, error, alpha=self.alpha, degrees_of_freedom=freedom)
        boot = None if resampled is None else percentile(resampled, alpha=self.alpha)
        widened = None
        if isinstance(estimator, Shrunk):
            bias = sum(self._largest_bias(estimator, name) for name in of)
            widened = bias_aware(value, error, bias=bias, alpha=self.alpha, degrees_of_freedom=freedom)
        return Estimate(candidate, estimator.name, value, error, bounds, boot, widened)

    def _largest_bias(self, estimator: Shrunk, candidate: str) -> float:
        """Largest bias that other weights than the true ones can cause: what was changed of them times the size of what they multiply.

        ``E|w - w'| = E[w] + E[w'] - 2 E[min(w, w')]``, where ``E[w]`` is at most 1 (less where offers lack support, and what they
        would earn is then covered too): bounded terms only, whose upper error is added. Without a model the weight multiplies the
        reward, with one a residual: the reward's range beside that of the model's values of shown offers.
        """
        used, kept = estimator.shrunk_weight.name, estimator.kept_weight.name
        totals = self._totals(candidate)
        n = totals[ONE]
        mean = float((totals[used] - 2 * totals[kept]) / n)
        gradient = _sum(({used: 1 / n}, {kept: -2 / n}, {ONE: -mean / n}))
        error = self._standard_error(self._named(gradient, candidate))
        changed = max(0.0, 1.0 + mean + z_value(self.alpha) * error)
        least, most = self.reward_range
        if not getattr(estimator, "needs_model", False):
            return changed * max(abs(least), abs(most))
        low, high = self.data.log.model_range
        return changed * max(most - low, high - least)

    def _totals(self, candidate: str, totals: FloatArray | None = None) -> dict[str, Any]:
        """Totals as one candidate's estimators name them."""
        every = self.data.moments.as_mapping(totals)
        prefix = candidate + SEPARATOR
        mine = {name.removeprefix(prefix): t for name, t in every.items() if name.startswith(prefix)}
        mine |= {ONE: every[ONE], REWARD: every[REWARD]}
        return mine | {name: mine[other] for name, other in self.data.same.get(candidate, {}).items()}

    def _named(self, gradient: Mapping[str, Any], candidate: str, sign: float = 1.0) -> dict[str, float]:
        """A gradient with the names the moments use."""
        same = self.data.same.get(candidate, {})
        out: dict[str, float] = {}
        for name, slope in gradient.items():
            found = same.get(name, name)
            key = found if found in (ONE, REWARD) else candidate + SEPARATOR + found
            out[key] = out.get(key, 0.0) + sign * float(slope)
        return out

    def _value(self, estimator: Estimator, candidate: str) -> Value | None:
        with np.errstate(divide="ignore", invalid="ignore"):
            found = estimator.from_totals(self._totals(candidate))
        finite = math.isfinite(float(found.value)) and all(math.isfinite(float(g)) for g in found.gradient.values())
        return found if finite else None

    def _resampled_values(self, estimator: Estimator, candidate: str) -> FloatArray | None:
        if self.resampled is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            found = estimator.from_totals(self._totals(candidate, self.resampled)).value
        return np.broadcast_to(np.asarray(found, dtype=np.float64), (len(self.resampled),))

    def _standard_error(self, gradient: Gradient) -> float:
        return math.sqrt(self.data.moments.variance(self._vector(gradient)))

    def _vector(self, gradient: Gradient) -> FloatArray:
        return gradient_vector(gradient, self.data.moments.names)


def _sum(gradients: Sequence[Gradient]) -> dict[str, float]:
    out: dict[str, float] = {}
    for gradient in gradients:
        for name, slope in gradient.items():
            out[name] = out.get(name, 0.0) + slope
    return out
