"""Rare outcomes: ways to make a fit see them more, and for each the correction that gives the level back.

None of them is needed for ranking as a rule, and each spoils the level until it is corrected: they are here to be compared.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from engine.models.calibration import shift_prior
from engine.models.metrics import expit, logit
from policies.errors import UnknownNameError
from policies.records import FloatArray, IntArray

Imbalance = Literal["none", "class_weights", "oversampling", "focal", "logit_adjustment"]
GAMMA = 2.0
_BALANCED = 0.5


def checked_imbalance(how: str) -> str:
    """The name itself.

    Raises
    ------
    UnknownNameError
        If there is no such way; the text offers the nearest.
    """
    if how not in get_args(Imbalance):
        raise UnknownNameError("way of handling imbalance", how, get_args(Imbalance))
    return how


def positive_weight(label: FloatArray) -> float:
    """Weight of a positive row under which both outcomes weigh the same."""
    rate = float(label.mean())
    return (1.0 - rate) / rate


def oversampled(label: FloatArray, rng: np.random.Generator) -> IntArray:
    """Row numbers with positives drawn again (with replacement) until both outcomes are equally frequent, shape ``(2 n_negative,)``."""
    positive, negative = np.flatnonzero(label == 1.0), np.flatnonzero(label != 1.0)
    if len(positive) >= len(negative):
        return np.arange(len(label))
    again = rng.choice(positive, size=len(negative) - len(positive))
    return np.concatenate([negative, positive, again])


def corrected(probability: FloatArray, *, how: str, rate: float) -> FloatArray:
    """Undo what a way of handling imbalance did to the level.

    Parameters
    ----------
    probability
        What the network's score says, shape ``(n,)``.
    rate
        Share of positives among the rows it was fitted on.

    Notes
    -----
    ``class_weights`` and ``oversampling`` train at a rate of one half, so the log odds move by the logit of the true rate (Elkan 2001).
    ``logit_adjustment`` adds that logit to the score inside the loss (Menon et al. 2021, tau = 1) and is given it back here. The minimiser v of the
    focal loss at a true probability q solves ``q l'(v) = (1 - q) l'(1 - v)`` with ``l(v) = -(1 - v)^gamma log v``: so
    ``q / (1 - q) = h(v) / h(1 - v)``, ``h(v) = v / ((1 - v)^gamma - gamma (1 - v)^(gamma - 1) v log v)``. Exact for the minimiser; a network
    that stopped early is none, which is what calibration is for.
    """
    if how in ("class_weights", "oversampling"):
        return shift_prior(probability, trained_rate=min(max(_BALANCED, rate), 1 - 1e-7), true_rate=rate)
    if how == "logit_adjustment":
        return expit(logit(probability) + logit(np.array([rate]))[0])
    if how == "focal":
        p = np.clip(probability, 1e-7, 1.0 - 1e-7)
        own, other = _focal_odds(p), _focal_odds(1.0 - p)
        return np.asarray(own / (own + other))
    return probability


def _focal_odds(v: FloatArray) -> FloatArray:
    return np.asarray(v / ((1.0 - v) ** GAMMA - GAMMA * (1.0 - v) ** (GAMMA - 1.0) * v * np.log(v)))
