"""The one place where an offer is drawn, and where the explore share is applied.

What is logged is true by construction: ``decide`` writes down exactly the distribution it drew from.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

import numpy as np

from policies.errors import InvalidInputError, NoEligibleOfferError, ProbabilityError
from policies.protocols import Policy
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray

DEFAULT_EXPLORE_SHARE = 0.05

# Policies computed in float32 (VW, ONNX) sum to one within about 3e-8 per offer; anything further off is a fault.
_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """What was drawn and from what.

    Attributes
    ----------
    probabilities
        Shape ``(n, k)``, after the explore share; rows sum to one.
    chosen
        Index of the drawn offer, shape ``(n,)``.
    propensity
        Probability of the drawn offer, shape ``(n,)``.
    """

    probabilities: FloatArray
    chosen: IntArray
    propensity: FloatArray


def with_explore_share(probabilities: FloatArray, eligible: BoolArray, explore_share: float) -> FloatArray:
    """Mix a distribution with the uniform one over eligible offers, so that each keeps at least ``share / k``.

    Parameters
    ----------
    probabilities
        Shape ``(n, k)``, rows sum to one up to float32 rounding.
    eligible
        Shape ``(n, k)``, at least one per row.
    explore_share
        Share of decisions given to uniform exploration, in [0, 1].

    Returns
    -------
    numpy.ndarray
        Shape ``(n, k)``, float64, renormalised.
    """
    n_eligible = eligible.sum(axis=1, keepdims=True)
    mixed = (1.0 - explore_share) * probabilities + explore_share * (eligible / n_eligible)
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True), dtype=np.float64)


def decide(
    policy: Policy, table: DecisionTable, *, uniforms: FloatArray, explore_share: float = DEFAULT_EXPLORE_SHARE
) -> Draws:
    """Draw one offer per row from a policy's probabilities after the explore share.

    Parameters
    ----------
    uniforms
        One number in [0, 1) per row, shape ``(n,)``: ``uniform_for`` in service, a seeded generator's in experiments.

    Raises
    ------
    NoEligibleOfferError
        If a row has no eligible offer.
    ProbabilityError
        If the policy's answer is not a distribution over the eligible offers.
    """
    if uniforms.shape != (len(table),):
        raise InvalidInputError(f"uniforms have shape {uniforms.shape}; expected ({len(table)},), one per decision")
    if not 0.0 <= explore_share <= 1.0:
        raise InvalidInputError(f"explore_share is {explore_share}; expected a share in [0, 1]")
    if len(table) == 1:
        return _decide_one(policy, table, uniform=float(uniforms[0]), explore_share=explore_share)
    empty = ~table.eligible.any(axis=1)
    if empty.any():
        rows = [int(i) for i in np.flatnonzero(empty)]
        subject = None if table.subjects is None or len(rows) > 1 else str(table.subjects[rows[0]])
        raise NoEligibleOfferError(rows, subject=subject)
    raw = np.asarray(policy.probabilities(table), dtype=np.float64)
    check_distribution(raw, table.eligible, policy_name=policy.name)
    probabilities = with_explore_share(np.where(table.eligible, raw, 0.0), table.eligible, explore_share)
    chosen = draw(probabilities, uniforms)
    return Draws(probabilities, chosen, probabilities[np.arange(len(chosen)), chosen])


def _decide_one(policy: Policy, table: DecisionTable, *, uniform: float, explore_share: float) -> Draws:
    """``decide`` for one decision, equal to the bit, at a third of the cost: what a server does all day."""
    eligible = table.eligible[0]
    n_eligible = int(np.count_nonzero(eligible))
    if not n_eligible:
        raise NoEligibleOfferError([0], subject=None if table.subjects is None else str(table.subjects[0]))
    raw = np.asarray(policy.probabilities(table), dtype=np.float64)
    if raw.shape != table.eligible.shape or not (raw.min() >= 0.0 and abs(raw.sum() - 1.0) <= _SUM_TOLERANCE):
        check_distribution(raw, table.eligible, policy_name=policy.name)
    if n_eligible == eligible.size:
        mixed = (1.0 - explore_share) * raw[0] + explore_share * (1.0 / n_eligible)
    else:
        check_distribution(raw, table.eligible, policy_name=policy.name)
        mixed = (1.0 - explore_share) * np.where(eligible, raw[0], 0.0) + explore_share * (eligible / n_eligible)
    mixed = mixed / mixed.sum()
    cumulative = mixed.cumsum()
    chosen = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    return Draws(mixed[None, :], np.asarray([chosen], dtype=np.int64), mixed[chosen : chosen + 1])


def draw(probabilities: FloatArray, uniforms: FloatArray) -> IntArray:
    """Invert the cumulative distribution of each row; never lands on an offer of probability zero."""
    cumulative = np.cumsum(probabilities, axis=1)
    # Scaling by the last sum instead of trusting it to be 1 keeps u close to 1 inside the row.
    below = cumulative <= (uniforms * cumulative[:, -1])[:, None]
    return np.asarray(below.sum(axis=1), dtype=np.int64)


def check_distribution(probabilities: FloatArray, eligible: BoolArray, *, policy_name: str) -> None:
    """Raise ``ProbabilityError`` unless each row is a distribution over its eligible offers."""
    if probabilities.shape != eligible.shape:
        raise ProbabilityError(
            f"policy {policy_name!r} returned shape {probabilities.shape}; expected {eligible.shape}"
        )
    if not np.isfinite(probabilities).all() or (probabilities < 0).any():
        raise ProbabilityError(
            f"policy {policy_name!r} returned a negative or non-finite probability; discard this snapshot"
        )
    if (probabilities[~eligible] > 0).any():
        raise ProbabilityError(f"policy {policy_name!r} gave probability to an offer that is not eligible")
    off = np.abs(probabilities.sum(axis=1) - 1.0)
    if off.size and off.max() > _SUM_TOLERANCE:
        raise ProbabilityError(
            f"policy {policy_name!r} returned probabilities that sum to 1 {off.max():+.3g} off; expected 1"
        )


def uniform_for(secret: bytes, placement: str, decision_id: str) -> float:
    """Return the number in [0, 1) that a decision is drawn with: a keyed hash of its id.

    The same id gives the same number, so a retried request repeats its answer, a restored policy does not
    repeat its exploration, and an audit can recompute every draw.
    """
    digest = hmac.new(secret, f"{placement}\x00{decision_id}".encode(), hashlib.sha256).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53  # 53 bits: exact in float64 and below 1
