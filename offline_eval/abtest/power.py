"""How many subjects an answer takes, before and during an experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import ndtr, ndtri

from offline_eval.abtest.group_sequential import sample_inflation
from policies.errors import InvalidInputError


def required_subjects(
    *,
    standard_deviation: float,
    effect: float,
    weights: Sequence[float] = (0.5, 0.5),
    alpha: float = 0.05,
    power: float = 0.8,
    n_looks: int = 1,
) -> int:
    """Subjects, all variants together, with which a change of ``effect`` is found with the wanted power.

    Parameters
    ----------
    standard_deviation
        Of the metric between subjects; ``sqrt(p (1 - p))`` for a proportion.
    effect
        Absolute change, positive.
    weights
        Shares of the variants, the control first. With several treatments the smallest one counts, and alpha is divided
        among them.
    n_looks
        Planned looks of the group-sequential test.

    Notes
    -----
    Normal approximation with equal variances; the usual textbook size for one look and two variants.
    """
    if effect <= 0 or standard_deviation <= 0:
        raise InvalidInputError(
            f"effect is {effect} and the standard deviation {standard_deviation}; expected both positive"
        )
    shares = [w / sum(weights) for w in weights]
    each = alpha / (len(shares) - 1)
    smallest = min(shares[1:])
    if smallest <= 0 or shares[0] <= 0:
        raise InvalidInputError(f"weights are {list(weights)}; every variant needs traffic to be compared")
    z = float(ndtri(1 - each / 2) + ndtri(power))
    inflation = sample_inflation(n_looks, alpha=each, power=power) if n_looks > 1 else 1.0
    return math.ceil((1 / smallest + 1 / shares[0]) * (z * standard_deviation / effect) ** 2 * inflation)


def detectable_effect(
    *,
    n: float,
    standard_deviation: float,
    weights: Sequence[float] = (0.5, 0.5),
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Smallest change that so many subjects would find with the wanted power in one look."""
    shares = [w / sum(weights) for w in weights]
    z = float(ndtri(1 - alpha / (len(shares) - 1) / 2) + ndtri(power))
    return z * standard_deviation * math.sqrt((1 / min(shares[1:]) + 1 / shares[0]) / n)


def achieved_power(
    *, n: float, standard_deviation: float, effect: float, weights: Sequence[float] = (0.5, 0.5), alpha: float = 0.05
) -> float:
    """Chance that so many subjects find a change of ``effect`` in one look (either sign counts as found)."""
    shares = [w / sum(weights) for w in weights]
    z = effect / (standard_deviation * math.sqrt((1 / min(shares[1:]) + 1 / shares[0]) / n))
    critical = float(ndtri(1 - alpha / (len(shares) - 1) / 2))
    return float(ndtr(z - critical) + ndtr(-z - critical))
