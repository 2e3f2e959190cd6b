"""The ``bandit_feedback`` dictionary of Open Bandit Pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.errors import InvalidInputError, SchemaError, SupportError
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch, Offer, OfferId, OfferSet


def from_obp(feedback: Mapping[str, Any], *, position: int | None = None) -> InteractionBatch:
    """A log from ``bandit_feedback``: ``n_actions``, ``context``, ``action``, ``reward``, ``pscore``.

    Parameters
    ----------
    position
        Which slot to keep where there are several; None needs a log with one.

    Raises
    ------
    SchemaError, InvalidInputError, SupportError
        Naming the key, the rule and the rounds that break it.
    """
    if not isinstance(feedback, Mapping):
        raise SchemaError(
            f"bandit_feedback is a {type(feedback).__name__}; expected a mapping with n_actions, action, reward, pscore"
        )
    for key in ("n_actions", "action", "reward", "pscore"):
        if key not in feedback:
            raise SchemaError(f"bandit_feedback has no {key!r}; its keys are {', '.join(sorted(feedback))}")
    action, reward, pscore = _rounds(feedback)
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
        propensity=pscore[keep],
        reward=reward[keep],
        probabilities=probabilities,
    )


def _rounds(feedback: Mapping[str, Any]) -> tuple[IntArray, FloatArray, FloatArray]:
    """Actions, rewards and propensities, checked under the names they have here."""
    columns: dict[str, FloatArray] = {}
    for key in ("action", "reward", "pscore"):
        try:
            columns[key] = np.asarray(feedback[key], dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise SchemaError(
                f"bandit_feedback[{key!r}] is no array of numbers ({error}); expected one number a round"
            ) from error
    lengths = {key: column.shape for key, column in columns.items()}
    if len(set(lengths.values())) > 1 or columns["action"].ndim != 1:
        raise SchemaError(f"bandit_feedback has shapes {lengths}; expected one value a round in each")
    action, reward, pscore = columns.values()
    k = int(feedback["n_actions"])
    for key, bad, rule in (
        ("action", ~((action >= 0) & (action < k) & (action == np.floor(action))), f"no integer from 0 to {k - 1}"),
        ("reward", ~np.isfinite(reward), "not finite"),
        ("pscore", ~((pscore > 0) & (pscore <= 1)), "outside (0, 1]"),
    ):
        if bad.any():
            first = int(np.argmax(bad))
            kind = SupportError if key == "pscore" else InvalidInputError
            raise kind(
                f"bandit_feedback[{key!r}] is {rule} in {int(bad.sum())} rounds, the first at {first} ({columns[key][first]:g}); "
                "log what was drawn and with which probability, or leave these rounds out"
            )
    return action.astype(np.int64), reward, pscore


def from_action_dist(action_dist: FloatArray, *, position: int = 0) -> FloatArray:
    """A candidate from obp's ``action_dist``, shape ``(n, k, n_positions)``."""
    if action_dist.ndim != 3:
        raise SchemaError(f"action_dist has shape {action_dist.shape}; expected (n, k, n_positions)")
    return np.ascontiguousarray(action_dist[:, :, position], dtype=np.float64)
