"""Several offers shown at once, in slots: what a slate would have earned in all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline_eval.intervals import Bounds, normal
from offline_eval.moments import degrees_of_freedom, hash_text, numbered
from policies.errors import InvalidInputError, SchemaError, SupportError
from policies.records import FloatArray, IntArray


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
    subjects: NDArray[np.str_] | None = None,
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
    subjects
        Who saw each slate, shape ``(n_slates,)``: intervals are then clustered by them.

    Raises
    ------
    SchemaError, SupportError, InvalidInputError
        If shapes differ, a probability is none, a number is not finite, only one of ``q_chosen`` and ``v`` is given, or there are
        fewer than two slates or subjects.

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
    if (q_chosen is None) != (v is None):
        raise InvalidInputError("one of q_chosen and v is missing; expected both, or neither to leave Cascade-DR out")
    for name, values in (("reward", reward), ("q_chosen", q_chosen), ("v", v)):
        if values is not None and values.shape != reward.shape:
            raise SchemaError(f"{name} has shape {values.shape}; expected {reward.shape}")
        if values is not None and not np.isfinite(values).all():
            raise InvalidInputError(
                f"{name} is not finite in {int((~np.isfinite(values)).sum())} slots; mend the log or the model"
            )
    if subjects is not None and len(subjects) != len(reward):
        raise SchemaError(f"there are {len(subjects)} subjects; expected one for each of {len(reward)} slates")
    units = np.arange(len(reward)) if subjects is None else numbered(hash_text(subjects))[0]
    if len(units) == 0 or units.max() < 1:
        raise InvalidInputError(
            "there is one slate or one subject at most; expected at least two, to know their spread"
        )
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
    return {name: _estimate(name, values, units, alpha) for name, values in made.items()}


def _estimate(name: str, values: FloatArray, units: IntArray, alpha: float) -> SlateEstimate:
    value = float(values.mean())
    influence: FloatArray = np.asarray(np.bincount(units, weights=values - value), dtype=np.float64)
    m = len(influence)
    error = math.sqrt(float(influence @ influence) * m / (m - 1)) / len(values)
    freedom = degrees_of_freedom(influence[:, None], np.ones(1))
    return SlateEstimate(name, value, error, normal(value, error, alpha=alpha, degrees_of_freedom=freedom))
