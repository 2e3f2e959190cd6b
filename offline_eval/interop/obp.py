"""The ``bandit_feedback`` dictionary of Open Bandit Pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.errors import InvalidInputError, SchemaError
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet


def from_obp(feedback: Mapping[str, Any], *, position: int | None = None) -> InteractionBatch:
    """A log from ``bandit_feedback``: ``n_actions``, ``context``, ``action``, ``reward``, ``pscore``.

    Parameters
    ----------
    position
        Which slot to keep where there are several; None needs a log with one.

    Raises
    ------
    SchemaError
        If a key is missing.
    """
    for key in ("n_actions", "action", "reward", "pscore"):
        if key not in feedback:
            raise SchemaError(f"bandit_feedback has no {key!r}; its keys are {', '.join(sorted(feedback))}")
    action = np.asarray(feedback["action"], dtype=np.int64)
    keep = np.ones(len(action), dtype=np.bool_)
    slots = feedback.get("position")
    if slots is not None:
        slots = np.asarray(slots)
        found = np.unique(slots)
        if position is None and len(found) > 1:
            raise InvalidInputError(
                f"bandit_feedback has positions {found.tolist()}; pass position= to judge one of them"
            )
        if position is not None:
            keep = slots == position
            if not keep.any():
                raise InvalidInputError(f"no row has position {position}; bandit_feedback has {found.tolist()}")
    k = int(feedback["n_actions"])
    context = feedback.get("context")
    vectors = {} if context is None else {"context": np.asarray(context, dtype=np.float32)[keep]}
    logged = feedback.get("pi_b")
    probabilities: FloatArray | None = None
    if logged is not None:
        whole: FloatArray = np.asarray(logged, dtype=np.float64)[keep]
        probabilities = whole[:, :, position or 0] if whole.ndim == 3 else whole
    n = int(keep.sum())
    return InteractionBatch(
        table=DecisionTable(
            OfferSet([Offer(OfferId(str(j))) for j in range(k)]), np.ones((n, k), dtype=np.bool_), vectors=vectors
        ),
        chosen=action[keep],
        propensity=np.asarray(feedback["pscore"], dtype=np.float64)[keep],
        reward=np.asarray(feedback["reward"], dtype=np.float64)[keep],
        probabilities=probabilities,
    )


def from_action_dist(action_dist: FloatArray, *, position: int = 0) -> FloatArray:
    """A candidate from obp's ``action_dist``, shape ``(n, k, n_positions)``."""
    if action_dist.ndim != 3:
        raise SchemaError(f"action_dist has shape {action_dist.shape}; expected (n, k, n_positions)")
    return np.ascontiguousarray(action_dist[:, :, position], dtype=np.float64)
