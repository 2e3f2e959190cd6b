"""The whole distribution of rewards under a candidate: a mean hides who loses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offline_eval.candidates import Candidate, target_of
from offline_eval.intervals import Bounds, percentile
from offline_eval.moments import N_BOOTSTRAP_GROUPS, subject_groups
from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray, InteractionBatch


@dataclass(frozen=True, slots=True)
class TailValue:
    """A quantile or a mean of the worst part, with its bootstrap interval over subjects."""

    share: float
    value: float
    bounds: Bounds

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"share": self.share, "value": self.value, "interval": self.bounds.to_json()}


NOT_OF_WEIGHTED = (
    "rewards that came stand for others not seen yet, so their mean is right and their quantiles are not; for those leave out the rows "
    "with open windows instead of weighing"
)
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
WORST_SHARE = 0.1
CURVE_SHARES = tuple(j / 100 for j in range(1, 100))


@dataclass(frozen=True, slots=True)
class Distribution:
    """Quantiles of the reward of a decision (or of a subject's return) under a candidate, and the mean of the worst part.

    Attributes
    ----------
    curve
        The quantile function at every hundredth: shares and values.
    """

    quantiles: tuple[TailValue, ...]
    worst: TailValue
    curve: tuple[tuple[float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "quantiles": [t.to_json() for t in self.quantiles],
            "worst_mean": self.worst.to_json(),
            "curve": [list(point) for point in self.curve],
        }


def distribution(
    log: InteractionBatch,
    candidate: Candidate | None,
    *,
    explore_share: float = 0.0,
    n_resamples: int = 100,
    seed: int = 0,
) -> Distribution:
    """Quantiles and the mean of the worst tenth; None stands for the policy that logged.

    Raises
    ------
    InvalidInputError
        If no logged row shows an offer that the candidate would show, or rewards are weighted.
    """
    _check_rewards(log)
    weights = _weights(log, candidate, explore_share)
    groups, n_groups = _groups(log)
    return weighted_distribution(log.reward, weights, groups, n_groups, n_resamples=n_resamples, seed=seed)


def weighted_distribution(
    values: FloatArray, weights: FloatArray, groups: IntArray, n_groups: int, *, n_resamples: int, seed: int
) -> Distribution:
    """Quantiles and the mean of the worst tenth of weighted values, with intervals from resampled groups."""
    wanted = [(share, False) for share in SHARES] + [(WORST_SHARE, True)]
    *quantiles, worst = _tails(values, weights, groups, n_groups, wanted, n_resamples, seed)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(weights[order])
    curve = tuple((share, _quantile(values[order], cumulative, share)) for share in CURVE_SHARES)
    return Distribution(tuple(quantiles), worst, curve)


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


def _quantile(values: FloatArray, cumulative: FloatArray, share: float) -> float:
    """Smallest value at which the weighted distribution function reaches ``share``; values ascend, weights are added up."""
    return float(values[_border(cumulative, share)])


def _worst_mean(values: FloatArray, cumulative: FloatArray, share: float) -> float:
    """Weighted mean of the lowest ``share`` of the weight; the value at the border counts in part."""
    border = _border(cumulative, share)
    weights = np.diff(cumulative[:border], prepend=0.0)
    wanted = share * cumulative[-1]
    rest = wanted - (cumulative[border - 1] if border else 0.0)
    # Not by linear algebra, whose threads wait for each other, and this is asked for once a resample.
    return float((np.einsum("i,i->", weights, values[:border]) + rest * values[border]) / wanted)


def _border(cumulative: FloatArray, share: float) -> int:
    where = int(np.searchsorted(cumulative, share * cumulative[-1] * (1 - 1e-12)))
    return min(where, len(cumulative) - 1)


def _tail(
    log: InteractionBatch, candidate: Candidate, share: float, n_resamples: int, seed: int, *, use_mean: bool
) -> TailValue:
    if not 0 < share < 1:
        raise InvalidInputError(f"share is {share}; expected a number between 0 and 1")
    _check_rewards(log)
    weights, (groups, n_groups) = _weights(log, candidate, 0.0), _groups(log)
    return _tails(log.reward, weights, groups, n_groups, [(share, use_mean)], n_resamples, seed)[0]


def _check_rewards(log: InteractionBatch) -> None:
    if log.is_reward_weighted:
        raise InvalidInputError(f"{NOT_OF_WEIGHTED}: read the log without is_weighted=True")


def _weights(log: InteractionBatch, candidate: Candidate | None, explore_share: float) -> FloatArray:
    if candidate is None:
        return np.ones(len(log))
    target = target_of(candidate, log.table, explore_share=explore_share)
    weights: FloatArray = target[np.arange(len(log)), log.chosen] / log.propensity
    if not weights.sum() > 0:
        raise InvalidInputError("no logged row shows an offer that the candidate would show; there is nothing to weigh")
    return weights


def _tails(
    values: FloatArray,
    weights: FloatArray,
    groups: IntArray,
    n_groups: int,
    wanted: Sequence[tuple[float, bool]],
    n_resamples: int,
    seed: int,
) -> list[TailValue]:
    """Several tails on the same resamples of groups; each a share, and whether its mean is wanted."""
    order = np.argsort(values, kind="stable")
    values, weights, groups = values[order], weights[order], groups[order]
    rng = np.random.default_rng(seed)
    resampled = np.full((n_resamples, len(wanted)), np.nan)

    def tails(w: FloatArray) -> list[float]:
        cumulative = np.cumsum(w)
        return [(_worst_mean if use_mean else _quantile)(values, cumulative, share) for share, use_mean in wanted]

    for b in range(n_resamples):
        counts = np.bincount(rng.integers(0, n_groups, size=n_groups), minlength=n_groups)
        again = weights * counts[groups]
        if again.sum() > 0:
            resampled[b] = tails(again)
    found = tails(weights)
    return [TailValue(share, found[j], percentile(resampled[:, j], alpha=0.05)) for j, (share, _) in enumerate(wanted)]


def _groups(log: InteractionBatch) -> tuple[IntArray, int]:
    """Group of each row to resample, and their number: subjects, or rows dealt out evenly."""
    if log.table.subjects is None:
        n_groups = min(len(log), N_BOOTSTRAP_GROUPS)
        return np.arange(len(log)) % n_groups, n_groups
    groups, grouping, _ = subject_groups(log.table.subjects)
    return groups, grouping.n_groups
