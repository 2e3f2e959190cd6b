"""Lower bounds on what a candidate earns that hold for any number of rows, under declared assumptions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offline_eval.candidates import Candidate, target_of
from offline_eval.intervals import empirical_bernstein_lower, hoeffding_lower, lower_confidence_sequence
from offline_eval.moments import count_distinct, hash_text
from policies.errors import InvalidInputError
from policies.records import FloatArray, InteractionBatch


@dataclass(frozen=True, slots=True, eq=False)
class LowerBounds:
    """Lower ends for the candidate's mean reward, each with probability at least ``1 - alpha``.

    Attributes
    ----------
    hoeffding, empirical_bernstein
        For this number of rows, fixed before the data were seen.
    sequence
        For every number of rows at once, shape ``(n,)``: stop whenever you like and read the last one.
    n_capped
        Rows whose weight was cut at the cap; they make the bounds lower, never wrong.
    """

    hoeffding: float
    empirical_bernstein: float
    sequence: FloatArray
    n_rows: int
    n_capped: int
    alpha: float

    @property
    def any_time(self) -> float:
        """The last end of the sequence."""
        return float(self.sequence[-1])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "hoeffding": self.hoeffding,
            "empirical_bernstein": self.empirical_bernstein,
            "any_time": self.any_time,
            "rows": self.n_rows,
            "capped_rows": self.n_capped,
            "confidence": 1 - self.alpha,
        }


def lower_bounds(
    log: InteractionBatch,
    candidate: Candidate,
    *,
    reward_range: tuple[float, float],
    weight_cap: float,
    alpha: float = 0.05,
    explore_share: float = 0.0,
) -> LowerBounds:
    """Bound a candidate's mean reward from below.

    Parameters
    ----------
    reward_range
        Least and largest reward that can occur, declared from what the reward is, never read off the log.
    weight_cap
        Where weights are cut, declared before the log is seen: ``(largest probability of the candidate) / (smallest of the
        log)`` cuts none, less makes the bounds tighter if few rows weigh more.

    Raises
    ------
    InvalidInputError
        If rows are not independent (a subject has several), a reward lies outside the declared range, or the range or cap is
        no range or cap: the bounds assume these.

    Notes
    -----
    With ``low`` the least reward, ``min(w, cap) (r - low)`` is not negative, and its mean is at most the candidate's value less
    ``low``: capped weights and offers that were never logged both make it smaller. So the bounds hold without full support.
    They assume true propensities, as everything here does.
    """
    low, high = reward_range
    if not (np.isfinite([low, high]).all() and low < high):
        raise InvalidInputError(f"reward_range is {reward_range}; expected the least and the largest possible reward")
    if not (np.isfinite(weight_cap) and weight_cap > 0):
        raise InvalidInputError(
            f"weight_cap is {weight_cap}; expected a number above 0, declared before the log is seen"
        )
    outside = int(np.count_nonzero((log.reward < low) | (log.reward > high)))
    if outside:
        raise InvalidInputError(
            f"{outside} rewards lie outside the declared range {low:g} to {high:g}; declare the range that can occur"
        )
    n_subjects = len(log) if log.table.subjects is None else count_distinct(hash_text(log.table.subjects))
    if n_subjects < len(log):
        raise InvalidInputError(
            f"{len(log)} rows belong to {n_subjects} subjects; expected independent rows: keep one row a subject, "
            "or read the clustered intervals of evaluate()"
        )
    target = target_of(candidate, log.table, explore_share=explore_share)
    weight = target[np.arange(len(log)), log.chosen] / log.propensity
    value = np.minimum(weight, weight_cap) * (log.reward - low)
    n, mean, width = len(value), float(value.mean()), weight_cap * (high - low)
    variance = float(value.var(ddof=1)) if n > 1 else 0.0
    sequence = lower_confidence_sequence(value, alpha=alpha, scale=high - low, best_at=n)
    return LowerBounds(
        hoeffding=low + hoeffding_lower(mean, n, width=width, alpha=alpha),
        empirical_bernstein=low + empirical_bernstein_lower(mean, variance, n, width=width, alpha=alpha),
        sequence=low + sequence,
        n_rows=n,
        n_capped=int(np.count_nonzero(weight > weight_cap)),
        alpha=alpha,
    )
