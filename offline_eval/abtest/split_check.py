"""Is the traffic split as planned? A sequential test, so that it may be read every hour.

References
----------
Lindon and Malek (2022), "Anytime-valid inference for multinomial count data".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from offline_eval.abtest.records import IntArray, Phase, Rollup

# Prior on the true split: a Dirichlet around the planned weights. Three strengths in equal parts, so that a gross error shows
# after a few dozen subjects and a split that is 0.5 points off after enough of them. A mixture of martingales is a martingale.
CONCENTRATIONS = (100.0, 1_000.0, 10_000.0)
ALPHA = 0.01


@dataclass(frozen=True, slots=True)
class SplitCheck:
    """What the traffic says about the split.

    Parameters
    ----------
    log_bayes_factor
        Evidence against the planned split so far (natural logarithm), over all phases.
    largest_log_bayes_factor
        Largest seen at any look; an alarm does not go away.
    p_value
        Valid at every moment: 1 / exp of the largest.
    observed, expected
        Subjects by variant.
    """

    log_bayes_factor: float
    largest_log_bayes_factor: float
    observed: Mapping[str, int]
    expected: Mapping[str, float]
    n_leaked: int = 0
    n_multiple_exposed: int = 0
    alpha: float = ALPHA

    @property
    def p_value(self) -> float:
        """Valid at every moment."""
        return float(np.exp(-max(0.0, self.largest_log_bayes_factor)))

    @property
    def is_mismatch(self) -> bool:
        """Whether the split is not the planned one."""
        return self.p_value <= self.alpha

    @property
    def total(self) -> int:
        """Subjects in planned variants."""
        return sum(self.observed.values())

    @property
    def has_leak(self) -> bool:
        """Whether more than one subject in a thousand was seen in a variant that should get none."""
        return self.n_leaked > max(0.001 * (self.total + self.n_leaked), 0)

    @property
    def has_multiple_exposure(self) -> bool:
        """Whether more than one subject in a hundred was seen in several variants."""
        return self.n_multiple_exposed > 0.01 * (self.total + self.n_multiple_exposed)

    @property
    def is_broken(self) -> bool:
        """Whether no result may be read."""
        return self.is_mismatch or self.has_leak or self.has_multiple_exposure

    def sentence(self) -> str:
        """What is wrong, or that nothing is."""
        found: list[str] = []
        if self.is_mismatch:
            shares = ", ".join(f"{v} {n:,} of {self.expected[v]:,.0f} expected" for v, n in self.observed.items())
            found.append(f"the traffic is not split as planned ({shares})")
        if self.n_leaked:
            found.append(f"{self.n_leaked:,} subject(s) were seen in a variant that gets no traffic")
        if self.n_multiple_exposed:
            found.append(f"{self.n_multiple_exposed:,} subject(s) were seen in several variants and are left out")
        return "; ".join(found) if found else "the traffic is split as planned"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "is_broken": self.is_broken,
            "is_mismatch": self.is_mismatch,
            "p_value": self.p_value,
            "alpha": self.alpha,
            "prior": {"kind": "mixture of Dirichlet", "concentrations": list(CONCENTRATIONS)},
            "log_bayes_factor": self.log_bayes_factor,
            "largest_log_bayes_factor": self.largest_log_bayes_factor,
            "observed": dict(self.observed),
            "expected": dict(self.expected),
            "n_leaked": self.n_leaked,
            "n_multiple_exposed": self.n_multiple_exposed,
        }


def log_bayes_factor(counts: ArrayLike, weights: ArrayLike) -> NDArray[np.float64]:
    """Evidence that the split is another one than planned, natural logarithm.

    Parameters
    ----------
    counts
        Subjects by variant in the last axis, any leading axes.
    weights
        Planned shares, shape ``(n_variants,)``; variants of weight 0 are left out (the leak detector has them).
    """
    weights = np.asarray(weights, dtype=np.float64)
    used = weights > 0
    share = weights[used] / weights[used].sum()
    x = np.asarray(counts, dtype=np.float64)[..., used]
    n = x.sum(axis=-1)
    null = (x * np.log(share)).sum(axis=-1)
    parts = []
    for strength in CONCENTRATIONS:
        prior = strength * share
        parts.append(
            (gammaln(prior + x) - gammaln(prior)).sum(axis=-1) - gammaln(strength + n) + gammaln(strength) - null
        )
    # For a few numbers at a time logaddexp costs a tenth of scipy's logsumexp.
    return np.asarray(np.logaddexp.reduce(np.stack(parts), axis=0) - np.log(len(CONCENTRATIONS)))


def check_split(
    rollup: Rollup,
    phases: Sequence[Phase],
    variants: Sequence[str],
    *,
    largest_so_far: float = 0.0,
    alpha: float = ALPHA,
) -> SplitCheck:
    """Judge the exposures of all phases together; each phase against its own weights.

    Parameters
    ----------
    largest_so_far
        Largest logarithm of the Bayes factor at earlier looks, kept by the caller.
    """
    exposed: IntArray = rollup.exposed
    total = 0.0
    expected = np.zeros(len(variants))
    for row, phase in zip(exposed, phases, strict=True):
        weights = np.array([phase.weights_bp[v] for v in variants], dtype=np.float64)
        total += float(log_bayes_factor(row, weights))
        expected += row.sum() * weights / weights.sum()
    return SplitCheck(
        log_bayes_factor=total,
        largest_log_bayes_factor=max(total, largest_so_far),
        observed={v: int(n) for v, n in zip(variants, exposed.sum(axis=0), strict=True)},
        expected={v: float(e) for v, e in zip(variants, expected, strict=True)},
        n_leaked=rollup.n_leaked,
        n_multiple_exposed=rollup.n_multiple_exposed,
        alpha=alpha,
    )
