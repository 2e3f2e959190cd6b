"""Several offers shown at once, in slots: what a slate would have earned in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from offline_eval.intervals import Bounds, normal
from offline_eval.moments import degrees_of_freedom
from policies.errors import InvalidInputError, SchemaError, SupportError
from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class SlateEstimate:
    """Expected total reward of a slate."""

    estimator: str
    value: float
    standard_error: float
    bounds: Bounds


def evaluate_slates(
    logged: FloatArray,
    target: FloatArray,
    reward: FloatArray,
    *,
    q_chosen: FloatArray | None = None,
    v: FloatArray | None = None,
    alpha: float = 0.05,
) -> dict[str, SlateEstimate]:
    """Standard, independent, cascade and cascade doubly robust estimates.

    Parameters
    ----------
    logged, target
        Probability of the shown offer in each slot, given the slots above it, shape ``(n_slates, n_slots)``.
    reward
        Reward of each slot, shape ``(n_slates, n_slots)``.
    q_chosen, v
        Model's value of this slot and all below it: for the shown offer, and mean under the candidate; same shape.

    Notes
    -----
    Standard (SIPS) assumes nothing and has the largest variance; independent (IIPS) assumes that a slot's reward depends
    on its own offer only; cascade (RIPS) that it depends on its own and those above.

    References
    ----------
    Li, Abbasi-Yadkori, Kveton, Muthukrishnan, Vinay and Wen (2018), "Offline evaluation of ranking policies with click
    models" (IIPS); McInerney et al. (2020), "Counterfactual evaluation of slate recommendations with sequential reward
    interactions" (RIPS); Kiyohara et al. (2022), "Doubly robust off-policy evaluation for ranking policies under the
    cascade behavior model".
    """
    if logged.shape != target.shape or logged.shape != reward.shape or logged.ndim != 2:
        raise SchemaError(
            f"shapes are {logged.shape}, {target.shape} and {reward.shape}; expected (n_slates, n_slots) for all"
        )
    if not ((logged > 0) & (logged <= 1)).all() or not ((target >= 0) & (target <= 1)).all():
        raise SupportError("slot probabilities are outside (0, 1]; log the probability each shown offer was drawn with")
    if not np.isfinite(reward).all() or len(reward) < 2:
        raise InvalidInputError("rewards are not finite or there are fewer than two slates")
    ratio = target / logged
    down = np.cumprod(ratio, axis=1)
    made = {
        "SIPS": down[:, -1] * reward.sum(axis=1),
        "IIPS": (ratio * reward).sum(axis=1),
        "RIPS": (down * reward).sum(axis=1),
    }
    if q_chosen is not None and v is not None:
        before = np.concatenate([np.ones((len(down), 1)), down[:, :-1]], axis=1)
        made["Cascade-DR"] = (down * (reward - q_chosen) + before * v).sum(axis=1)
    return {name: _estimate(name, values, alpha) for name, values in made.items()}


def _estimate(name: str, values: FloatArray, alpha: float) -> SlateEstimate:
    value, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    freedom = degrees_of_freedom((values - value)[:, None], np.ones(1))
    return SlateEstimate(name, value, error, normal(value, error, alpha=alpha, degrees_of_freedom=freedom))
