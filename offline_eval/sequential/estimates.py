"""Per-decision importance sampling, its self-normalised form, sequential DR and FQE, with the warning they need."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from offline_eval.candidates import Candidate, target_of
from offline_eval.diagnostics import MIN_ESS, effective_sample_size
from offline_eval.distribution import Distribution, weighted_distribution
from offline_eval.intervals import Bounds, normal
from offline_eval.moments import N_BOOTSTRAP_GROUPS, degrees_of_freedom
from offline_eval.reward_models import FitReward, check_expected, fit_ridge
from offline_eval.sequential.fqe import fitted_q
from offline_eval.sequential.paths import Paths
from offline_eval.verdict import Word
from policies.errors import InvalidInputError
from policies.records import FloatArray, InteractionBatch


@dataclass(frozen=True, slots=True)
class PathEstimate:
    """Expected return of a subject under the candidate, by one estimator."""

    estimator: str
    value: float
    standard_error: float
    bounds: Bounds

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "estimator": self.estimator,
            "value": self.value,
            "standard_error": self.standard_error,
            "interval": self.bounds.to_json(),
        }


@dataclass(frozen=True, slots=True)
class SequentialPanel:
    """What a candidate would earn per subject over all decisions.

    Attributes
    ----------
    estimates, differences
        By estimator; differences are to what the log's own policy earned, on the same subjects.
    effective_subjects
        Effective sample size of the cumulative weights after each step.
    word, reason
        Verdict on the difference by sequential DR, and why.
    distribution, logged_distribution
        Quantiles of a subject's return, and the mean of the worst tenth: under the candidate, and as it was. None for a candidate
        whose paths the log does not hold, and for both where rewards are weighted (their quantiles are not those of the reward).
    """

    n_subjects: int
    horizon: int
    mean_return: float
    estimates: Mapping[str, PathEstimate]
    differences: Mapping[str, PathEstimate]
    effective_subjects: Sequence[float]
    word: Word
    reason: str
    distribution: Distribution | None
    logged_distribution: Distribution | None

    def __str__(self) -> str:
        ess = self.effective_subjects
        lines = [
            f"{self.n_subjects:,} subjects, up to {self.horizon} decisions each, mean return {self.mean_return:.5g}",
            f"{self.word.upper()}: {self.reason}",
            f"effective subjects after each decision: {', '.join(f'{e:,.0f}' for e in ess[:6])}{' …' if len(ess) > 6 else ''}",
        ]
        for name, e in self.estimates.items():
            d = self.differences[name]
            lines.append(
                f"  {name:<22} {e.value:>10.5g} ({e.bounds.low:.4g} to {e.bounds.high:.4g})   difference {d.value:+.4g} "
                f"({d.bounds.low:+.4g} to {d.bounds.high:+.4g})"
            )
        if self.distribution is not None and self.logged_distribution is not None:
            mine, logged = self.distribution.worst, self.logged_distribution.worst
            lines.append(
                f"  mean of the worst tenth {mine.value:.5g} ({mine.bounds.low:.4g} to {mine.bounds.high:.4g}); "
                f"as logged {logged.value:.5g} ({logged.bounds.low:.4g} to {logged.bounds.high:.4g})"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "subjects": self.n_subjects,
            "horizon": self.horizon,
            "mean_return": self.mean_return,
            "estimates": {k: e.to_json() for k, e in self.estimates.items()},
            "differences": {k: e.to_json() for k, e in self.differences.items()},
            "effective_subjects": list(self.effective_subjects),
            "verdict": self.word,
            "reason": self.reason,
            "distribution": None if self.distribution is None else self.distribution.to_json(),
            "logged_distribution": None if self.logged_distribution is None else self.logged_distribution.to_json(),
        }


def evaluate_sequences(
    log: InteractionBatch,
    candidate: Candidate,
    *,
    discount: float = 1.0,
    fit_q: FitReward = fit_ridge,
    q_values: FloatArray | None = None,
    explore_share: float = 0.0,
    alpha: float = 0.05,
    n_resamples: int = 200,
    seed: int = 0,
) -> SequentialPanel:
    """Judge a candidate on a log with several decisions per subject.

    Parameters
    ----------
    candidate
        A policy, or its probabilities in each logged row, shape ``(n, k)``.
    discount
        Worth of the next step's reward relative to this one's, in (0, 1].
    q_values
        Value-to-go under the candidate, shape ``(n, k)``, not fitted on these subjects; fitted by FQE where None.
    n_resamples
        Of subjects, for the intervals of quantiles.

    Raises
    ------
    InvalidInputError
        If there are no subjects or fewer than three, or the discount or the values are none.

    Notes
    -----
    Assumes that the number of decisions of a subject does not depend on the offers, or that an ended path earns nothing
    more (churn): both are covered by taking rewards after the end as 0.

    References
    ----------
    Precup, Sutton and Singh (2000), "Eligibility traces for off-policy policy evaluation" (per-decision sampling);
    Jiang and Li (2016), "Doubly robust off-policy value evaluation for reinforcement learning";
    Thomas and Brunskill (2016), "Data-efficient off-policy policy evaluation for reinforcement learning" (weighted forms);
    Chandak et al. (2021), "Universal off-policy evaluation" (the distribution of returns, self-normalised).
    """
    if not 0 < discount <= 1:
        raise InvalidInputError(f"discount is {discount}; expected a number in (0, 1]")
    paths = Paths.of(log)
    if paths.n_paths < 3:
        raise InvalidInputError(f"the log has {paths.n_paths} subject(s); expected at least three")
    target = target_of(candidate, paths.log.table, explore_share=explore_share)
    q = fitted_q(paths, target, fit=fit_q, discount=discount, seed=seed).values if q_values is None else q_values
    check_expected(q, (len(log), log.table.n_offers))
    rows = np.arange(len(log))
    ratio = paths.grid(target[rows, log.chosen] / log.propensity, fill=1.0)
    weight: FloatArray = np.asarray(np.cumprod(ratio, axis=1), dtype=np.float64)
    reward = paths.grid(log.reward)
    q_chosen = paths.grid(q[rows, log.chosen])
    v = paths.grid((target * q).sum(axis=1))
    time: FloatArray = np.asarray(discount ** np.arange(paths.horizon), dtype=np.float64)
    returns = reward @ time
    made = {
        "FQE": v[:, 0],
        "PDIS": (weight * reward) @ time,
        "self-normalised PDIS": _weighted(weight, reward, time),
        "sequential DR": sequential_dr(ratio, reward, q_chosen, v, discount=discount),
        "weighted sequential DR": _weighted_dr(weight, reward, q_chosen, v, time),
    }
    estimates = {name: _estimate(name, values, alpha) for name, values in made.items()}
    differences = {name: _estimate(name, values - returns, alpha) for name, values in made.items()}
    alive = paths.grid(np.ones(len(log)))
    effective = [effective_sample_size(weight[alive[:, t] > 0, t]) for t in range(paths.horizon)]
    whole = effective_sample_size(weight[:, -1])
    n_groups = min(paths.n_paths, N_BOOTSTRAP_GROUPS)
    groups = np.arange(paths.n_paths) % n_groups
    has_tails = not log.is_reward_weighted
    tails = partial(
        weighted_distribution, returns, groups=groups, n_groups=n_groups, n_resamples=n_resamples, seed=seed
    )
    word, reason = _verdict(differences["sequential DR"], whole, len(returns), returns)
    return SequentialPanel(
        n_subjects=paths.n_paths,
        horizon=paths.horizon,
        mean_return=float(returns.mean()),
        estimates=estimates,
        differences=differences,
        effective_subjects=effective,
        word=word,
        reason=reason,
        distribution=tails(weights=weight[:, -1]) if has_tails and weight[:, -1].any() else None,
        logged_distribution=tails(weights=np.ones(paths.n_paths)) if has_tails else None,
    )


def sequential_dr(
    ratio: FloatArray, reward: FloatArray, q_chosen: FloatArray, v: FloatArray, *, discount: float
) -> FloatArray:
    """Doubly robust return of each path by the backward recursion; all of shape ``(n_paths, horizon)``.

    ``D_t = v_t + ratio_t (r_t + discount D_{t+1} - q_t)``.
    """
    found = np.zeros(len(ratio))
    for t in range(ratio.shape[1] - 1, -1, -1):
        found = v[:, t] + ratio[:, t] * (reward[:, t] + discount * found - q_chosen[:, t])
    return found


def _weighted(weight: FloatArray, reward: FloatArray, time: FloatArray) -> FloatArray:
    """Values of paths whose mean is the self-normalised estimate and whose spread is that of its influence."""
    mean_weight = weight.mean(axis=0)
    safe = np.where(mean_weight > 0, mean_weight, 1.0)
    centre = (weight * reward).mean(axis=0) / safe
    influence = weight * (reward - centre) / safe
    return np.asarray((influence + centre) @ time)


def _weighted_dr(
    weight: FloatArray, reward: FloatArray, q_chosen: FloatArray, v: FloatArray, time: FloatArray
) -> FloatArray:
    mean_weight = weight.mean(axis=0)
    safe = np.where(mean_weight > 0, mean_weight, 1.0)
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)
    safe_before = np.concatenate([[1.0], safe[:-1]])
    parts = []
    for w, bottom, x in ((weight, safe, reward - q_chosen), (before, safe_before, v)):
        centre = (w * x).mean(axis=0) / bottom
        parts.append(w * (x - centre) / bottom + centre)
    return np.asarray((parts[0] + parts[1]) @ time)


def _estimate(name: str, values: FloatArray, alpha: float) -> PathEstimate:
    value, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    freedom = degrees_of_freedom((values - value)[:, None], np.ones(1))
    return PathEstimate(name, value, error, normal(value, error, alpha=alpha, degrees_of_freedom=freedom))


def _verdict(difference: PathEstimate, effective: float, n: int, returns: FloatArray) -> tuple[Word, str]:
    if effective < MIN_ESS:
        return (
            "this log cannot answer",
            f"{n:,} subjects tell as much as {effective:,.1f} of the candidate's own over the whole horizon: "
            "the product of the weights has collapsed. Use the simulator, a person's approval and a small canary.",
        )
    told = f"Difference per subject {difference.value:+.4g}, interval {difference.bounds.low:+.4g} to {difference.bounds.high:+.4g}"
    if difference.bounds.low > 0:
        return "recommend", f"{told}: better than what the log's policy earned."
    if difference.bounds.high < 0:
        return "do not use", f"{told}: worse than what the log's policy earned."
    if difference.bounds.half_width <= 0.1 * abs(float(returns.mean())):
        return "caution", f"{told}: no gain shown."
    return "this log cannot answer", f"{told}: too wide to see a tenth of what the log's policy earned."
