"""The whole distribution of rewards under a candidate: a mean hides who loses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_eval.candidates import Candidate, target_of
from offline_eval.intervals import Bounds, percentile
from offline_eval.moments import unit_groups
from policies.errors import InvalidInputError
from policies.records import FloatArray, InteractionBatch


@dataclass(frozen=True, slots=True)
class TailValue:
    """A quantile or a mean of the worst part, with its bootstrap interval over subjects."""

    share: float
    value: float
    bounds: Bounds


def quantile(
    log: InteractionBatch, candidate: Candidate, *, share: float, n_resamples: int = 200, seed: int = 0
) -> TailValue:
    """The reward that a share of decisions under the candidate would not exceed (self-normalised distribution).

    References
    ----------
    Chandak et al. (2021), "Universal off-policy evaluation".
    """
    return _tail(log, candidate, share, n_resamples, seed, use_mean=False)


def worst_mean(
    log: InteractionBatch, candidate: Candidate, *, share: float, n_resamples: int = 200, seed: int = 0
) -> TailValue:
    """Mean reward of the worst share of decisions under the candidate (lower CVaR)."""
    return _tail(log, candidate, share, n_resamples, seed, use_mean=True)


def weighted_quantile(values: FloatArray, weights: FloatArray, share: float) -> float:
    """Smallest value at which the weighted distribution function reaches ``share``; values in ascending order."""
    cumulative = np.cumsum(weights)
    where = int(np.searchsorted(cumulative, share * cumulative[-1] * (1 - 1e-12)))
    return float(values[min(where, len(values) - 1)])


def weighted_worst_mean(values: FloatArray, weights: FloatArray, share: float) -> float:
    """Weighted mean of the lowest ``share`` of the weight; the value at the border counts in part. Values ascend."""
    total = weights.sum()
    before = np.concatenate(([0.0], np.cumsum(weights)[:-1]))
    used = np.clip(share * total - before, 0.0, weights)
    return float((used * values).sum() / (share * total))


def _tail(
    log: InteractionBatch, candidate: Candidate, share: float, n_resamples: int, seed: int, *, use_mean: bool
) -> TailValue:
    if not 0 < share < 1:
        raise InvalidInputError(f"share is {share}; expected a number between 0 and 1")
    target = target_of(candidate, log.table)
    of = weighted_worst_mean if use_mean else weighted_quantile
    order = np.argsort(log.reward, kind="stable")
    values = log.reward[order]
    weights = (target[np.arange(len(log)), log.chosen] / log.propensity)[order]
    if not weights.sum() > 0:
        raise InvalidInputError("no logged row shows an offer that the candidate would show; there is nothing to weigh")
    groups, n_groups, _, _ = unit_groups(log.table.subjects, len(log))
    groups = groups[order]
    rng = np.random.default_rng(seed)
    resampled = np.full(n_resamples, np.nan)
    for b in range(n_resamples):
        counts = np.bincount(rng.integers(0, n_groups, size=n_groups), minlength=n_groups)
        again = weights * counts[groups]
        if again.sum() > 0:
            resampled[b] = of(values, again, share)
    return TailValue(share, of(values, weights, share), percentile(resampled, alpha=0.05))
