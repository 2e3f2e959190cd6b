"""A candidate is a policy, or its probabilities in every row of the log."""

from __future__ import annotations

import numpy as np

from policies.features import FeatureSpace
from policies.protocols import Policy
from policies.records import DecisionTable, FloatArray
from policies.sampling import check_distribution, with_explore_share

Candidate = Policy | FloatArray


def target_of(
    candidate: Candidate, table: DecisionTable, *, explore_share: float = 0.0, name: str | None = None
) -> FloatArray:
    """Probability of each offer under a candidate as it would be served, shape ``(n, k)``.

    Parameters
    ----------
    explore_share
        Share of uniform exploration a policy would be served with; an array holds its own.

    Raises
    ------
    ProbabilityError
        If it is no distribution over the eligible offers.
    """
    if isinstance(candidate, np.ndarray):
        check_distribution(candidate, table.eligible, policy_name=name or "candidate")
        return candidate
    raw = np.asarray(candidate.probabilities(table), dtype=np.float64)
    check_distribution(raw, table.eligible, policy_name=name or candidate.name)
    return with_explore_share(np.where(table.eligible, raw, 0.0), table.eligible, explore_share)


def features_of(candidate: Candidate | None) -> frozenset[str]:
    """Names of the features of the context that a policy was fitted on, wherever it keeps its feature space; empty where it has none."""
    waiting, depth = [candidate], 3
    for _ in range(depth):
        spaces = [space for held in waiting if isinstance(space := getattr(held, "space", None), FeatureSpace)]
        if spaces:
            return frozenset(part.name for space in spaces for part in (*space.context, *space.blocks))
        waiting = [
            getattr(held, name) for held in waiting for name in ("state", "model", "policy") if hasattr(held, name)
        ]
    return frozenset()
