"""Unknowns of the likelihoods a site is fitted by: each with a weak prior and the form without limits in which it is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from policies.records import FloatArray


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One unknown of a likelihood.

    Parameters
    ----------
    prior_mean, prior_sd
        Of its free form, weak: about half the width of what is plausible. Where the log says nothing they stay.
    free, natural
        Into and out of the form without limits that is searched.
    """

    name: str
    prior_mean: float
    prior_sd: float
    free: Callable[[float], float] = float
    natural: Callable[[float], float] = float

    def slope(self, free: float) -> float:
        """How fast the natural value moves with the free one."""
        return (self.natural(free + 1e-5) - self.natural(free - 1e-5)) / 2e-5


def positive(name: str, mean: float, log_sd: float, *, most: float = float("inf")) -> Coefficient:
    """A value above zero, searched as its logarithm."""
    return Coefficient(
        name, float(np.log(mean)), log_sd, lambda x: float(np.log(x)), lambda x: min(float(np.exp(x)), most)
    )


def share(name: str, mean: float, logit_sd: float, *, most: float = 1.0) -> Coefficient:
    """A value between zero and one, searched as its log-odds."""
    return Coefficient(
        name, float(logit(mean)), logit_sd, lambda x: float(logit(x)), lambda x: min(float(expit(x)), most)
    )


def moved(
    coefficients: Sequence[Coefficient], mode: FloatArray, inverse_curvature: FloatArray, values: Mapping[str, float]
) -> FloatArray:
    """Free forms of all coefficients where some are held at natural values and the others are most plausible given those."""
    names = [c.name for c in coefficients]
    held = np.asarray([names.index(n) for n in values])
    wanted = np.asarray([coefficients[i].free(v) for i, v in zip(held, values.values(), strict=True)])
    shift = np.linalg.solve(inverse_curvature[np.ix_(held, held)], wanted - mode[held])
    return np.asarray(mode + inverse_curvature[:, held] @ shift, dtype=np.float64)
