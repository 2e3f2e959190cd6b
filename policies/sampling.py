"""The one place where an offer is drawn, and where the explore share is applied.

What is logged is true by construction: ``decide`` writes down exactly the distribution it drew from.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np

from policies.errors import InvalidInputError, NoEligibleOfferError, ProbabilityError
from policies.protocols import Policy
from policies.records import BoolArray, DecisionOfOne, DecisionTable, FloatArray, IntArray

DEFAULT_EXPLORE_SHARE = 0.05

# Policies computed in float32 (VW, ONNX) sum to one within about 3e-8 per offer; anything further off is a fault.
_SUM_TOLERANCE = 1e-4
_BLOCK = 64  # bytes that SHA-256 takes in at once


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
    mixed = _mixed(probabilities, eligible, explore_share)
    return np.asarray(mixed / np.cumsum(mixed, axis=1)[:, -1:], dtype=np.float64)


def _mixed(probabilities: FloatArray, eligible: BoolArray, explore_share: float) -> FloatArray:
    n_eligible = eligible.sum(axis=1, keepdims=True)
    return np.asarray((1.0 - explore_share) * probabilities + explore_share * (eligible / n_eligible))


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
        probabilities, drawn = decide_one(policy, table, uniform=float(uniforms[0]), explore_share=explore_share)
        row = np.asarray([probabilities])
        return Draws(row, np.asarray([drawn], dtype=np.int64), row[0, drawn : drawn + 1])
    empty = ~table.eligible.any(axis=1)
    if empty.any():
        rows = [int(i) for i in np.flatnonzero(empty)]
        subject = None if table.subjects is None or len(rows) > 1 else str(table.subjects[rows[0]])
        raise NoEligibleOfferError(rows, subject=subject)
    raw = np.asarray(policy.probabilities(table), dtype=np.float64)
    check_distribution(raw, table.eligible, policy_name=policy.name)
    mixed = _mixed(np.where(table.eligible, raw, 0.0), table.eligible, explore_share)
    cumulative = np.cumsum(mixed, axis=1)
    chosen = _first_above(cumulative, uniforms)
    shares = mixed / cumulative[:, -1:]
    return Draws(shares, chosen, shares[np.arange(len(chosen)), chosen])


def decide_one(
    policy: Policy, table: DecisionTable, *, uniform: float, explore_share: float
) -> tuple[list[float], int]:
    """``decide`` for a table of one row, equal to the bit, at a fraction of the cost: what a server does all day.

    A row is short: plain numbers, added in the order in which ``cumsum`` adds them, cost less than one call of numpy.

    Returns
    -------
    tuple
        The distribution that was drawn from, one number per offer, and the index of the drawn offer.

    Raises
    ------
    NoEligibleOfferError, ProbabilityError
        As ``decide``.
    """
    if isinstance(table, DecisionOfOne):
        of_one, allowed = getattr(policy, "probabilities_of_one", None), table.allowed
    else:
        of_one, allowed = None, None if table.eligible.all() else table.eligible[0].tolist()
    n_eligible = len(table.offers) if allowed is None else sum(allowed)
    if not n_eligible:
        raise NoEligibleOfferError([0], subject=None if table.subjects is None else str(table.subjects[0]))
    if of_one is not None:
        row: list[float] = of_one(table)
    else:
        raw = np.asarray(policy.probabilities(table), dtype=np.float64)
        if raw.shape != table.eligible.shape:
            check_distribution(raw, table.eligible, policy_name=policy.name)
        row = raw[0].tolist()
    kept, shared = 1.0 - explore_share, explore_share * (1.0 / n_eligible)
    if allowed is None:
        is_leaking, mixed = False, [kept * p + shared for p in row]
    else:
        is_leaking = any(p > 0.0 and not ok for p, ok in zip(row, allowed, strict=True))
        mixed = [kept * p + shared if ok else 0.0 for p, ok in zip(row, allowed, strict=True)]
    cumulative = list(accumulate(mixed))
    total = cumulative[-1]
    # `not (… and …)` catches nan too.
    if is_leaking or not (min(row) >= 0.0 and abs(total - 1.0) <= _SUM_TOLERANCE * kept):
        check_distribution(np.asarray([row]), table.eligible, policy_name=policy.name)
    return [m / total for m in mixed], bisect_right(cumulative, uniform * total)


def draw(probabilities: FloatArray, uniforms: FloatArray) -> IntArray:
    """Invert the cumulative distribution of each row; never lands on an offer of probability zero."""
    return _first_above(np.cumsum(probabilities, axis=1), uniforms)


def _first_above(cumulative: FloatArray, uniforms: FloatArray) -> IntArray:
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
            f"policy {policy_name!r} returned a negative or non-finite probability in "
            f"{_rows_of(~(np.isfinite(probabilities) & (probabilities >= 0)))}; discard this snapshot"
        )
    if (probabilities[~eligible] > 0).any():
        raise ProbabilityError(
            f"policy {policy_name!r} gave probability to an offer that is not eligible in "
            f"{_rows_of((probabilities > 0) & ~eligible)}; expected 0 there: apply the mask of eligible offers"
        )
    off = np.abs(probabilities.sum(axis=1) - 1.0)
    if off.size and off.max() > _SUM_TOLERANCE:
        raise ProbabilityError(
            f"policy {policy_name!r} returned probabilities that do not sum to 1 in {_rows_of(off[:, None] > _SUM_TOLERANCE)}, by up "
            f"to {off.max():.3g}; expected a distribution over the eligible offers in every row"
        )


def _rows_of(bad: BoolArray) -> str:
    """How many rows break a rule, and where the first is."""
    rows = np.asarray(bad.any(axis=1))
    return f"{int(rows.sum())} of {len(rows)} rows, the first at {int(np.argmax(rows))}"


def uniform_for(secret: bytes, placement: str, decision_id: str) -> float:
    """Return the number in [0, 1) that a decision is drawn with: a keyed hash of its id.

    The same id gives the same number, so a retried request repeats its answer, a restored policy does not
    repeat its exploration, and an audit can recompute every draw.
    """
    keyed = _keyed(secret)
    inner, outer = keyed[0].copy(), keyed[1].copy()
    inner.update(f"{placement}\x00{decision_id}".encode())
    outer.update(inner.digest())
    return (int.from_bytes(outer.digest()[:8], "big") >> 11) / 2**53  # 53 bits: exact in float64 and below 1


@lru_cache(maxsize=8)
def _keyed(secret: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """The two hashes that HMAC-SHA-256 is made of (RFC 2104), with the key in: setting them up costs more than the hashing.

    ``hmac`` gives the same number in three times the time.
    """
    key = (secret if len(secret) <= _BLOCK else hashlib.sha256(secret).digest()).ljust(_BLOCK, b"\x00")
    return hashlib.sha256(bytes(b ^ 0x36 for b in key)), hashlib.sha256(bytes(b ^ 0x5C for b in key))
