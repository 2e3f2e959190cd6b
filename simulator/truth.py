"""What a policy is worth in the simulator: the number every estimator is judged against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.protocols import Policy
from policies.records import FloatArray
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import Scenario

OUTCOMES = ("subscribed", "kept_30d", "margin_eur")


@dataclass(frozen=True, slots=True, eq=False)
class PolicyTruth:
    """Per-visitor outcomes of one policy on one cohort, in simulation.

    Attributes
    ----------
    per_visitor
        For each outcome, shape ``(n_subjects,)``; rows of two policies with one seed are the same visitors.
    """

    policy: str
    per_visitor: dict[str, FloatArray]

    def value(self, outcome: str) -> tuple[float, float]:
        """Mean per visitor and its standard error."""
        return _mean(self.per_visitor[outcome])

    def difference(self, other: PolicyTruth, outcome: str) -> tuple[float, float]:
        """Mean paired difference to another policy on the same visitors, and its standard error."""
        return _mean(self.per_visitor[outcome] - other.per_visitor[outcome])

    def to_json(self) -> dict[str, Any]:
        """Plain values, labelled as what they are."""
        return {
            "policy": self.policy,
            "in_simulation": True,
            **{name: dict(zip(("mean", "standard_error"), self.value(name), strict=True)) for name in OUTCOMES},
        }


def true_value(
    scenario: Scenario, policy: Policy, *, n_subjects: int, seed: int, explore_share: float = DEFAULT_EXPLORE_SHARE
) -> PolicyTruth:
    """Value of a policy as it would be served, by letting it choose for a cohort until every window is over."""
    return truth_of(rollout(scenario, policy, n_subjects=n_subjects, seed=seed, explore_share=explore_share))


def truth_of(run: Rollout) -> PolicyTruth:
    """Per-visitor outcomes of a rollout whose windows are all over."""
    return PolicyTruth(
        policy=run.policy,
        per_visitor={name: np.asarray(getattr(run.subjects, name), dtype=np.float64) for name in OUTCOMES},
    )


def mean_per_decision(run: Rollout, reward: FloatArray) -> tuple[float, float]:
    """Mean of a per-decision reward over a rollout, and its standard error clustered by subject."""
    n_subjects = len(run.subjects.n_visits)
    totals = np.bincount(run.row, weights=reward, minlength=n_subjects)
    counts = np.bincount(run.row, minlength=n_subjects)
    mean = totals.sum() / counts.sum()
    return float(mean), float(np.sqrt(((totals - mean * counts) ** 2).sum()) / counts.sum())


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
