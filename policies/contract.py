"""What every policy and reward model must satisfy; plug-ins run the same suites on their own classes.

``check_policy(policy, table)`` raises ``ContractError`` with the first rule that does not hold and what was
found. Nothing here needs a test framework.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from policies.errors import NextofferError
from policies.protocols import OnlineLearner, Policy, QuickPolicy, RewardModel, SaveablePolicy
from policies.records import DecisionOfOne, DecisionTable, FeatureValue, FloatArray, IntArray, InteractionBatch
from policies.registry import load_policy
from policies.sampling import decide

# Single and batched float32 arithmetic differ by up to 1e-5 (gemm against gemv).
BATCH_TOLERANCE = 1e-5


class ContractError(NextofferError, AssertionError):
    """A policy or reward model breaks a rule of its protocol."""


def _require(condition: bool | np.bool_, rule: str, found: object = "") -> None:
    if not condition:
        raise ContractError(rule if isinstance(found, str) and not found else f"{rule}; found: {found}")


def check_policy(
    policy: Policy, table: DecisionTable, *, seed: int = 0, n_draws: int = 100_000, explore_share: float = 0.05
) -> None:
    """Run the contract of ``Policy`` on decisions the policy understands.

    Parameters
    ----------
    table
        At least two rows and three offers, with some offers ineligible somewhere and different numbers of
        rows and offers, so that a wrong axis cannot hide.
    n_draws
        Draws per checked row for the comparison of frequencies with propensities (chi-square at 1e-4, corrected for rows).

    Raises
    ------
    ContractError
        With the rule that does not hold.
    """
    _require(
        len(table) >= 2 and table.n_offers >= 3 and len(table) != table.n_offers,
        "the table for a contract needs n >= 2, k >= 3, n != k",
    )
    before = _fingerprint(table)
    p = policy.probabilities(table)
    _require(p.shape == (len(table), table.n_offers), "probabilities have shape (n, k)", p.shape)
    _require(np.isfinite(p).all() and (p >= 0).all(), "probabilities are finite and not negative", p.min())
    _require(np.abs(p.sum(axis=1) - 1).max() <= 1e-4, "each row sums to one", p.sum(axis=1))
    _require((p[~table.eligible] == 0).all(), "an ineligible offer gets no probability")
    _require(_fingerprint(table) == before, "inputs are left unchanged")
    _require(np.array_equal(policy.probabilities(table), p), "the same state gives the same answer")
    rows = np.concatenate([policy.probabilities(table.take(slice(i, i + 1))) for i in range(len(table))])
    _require(np.abs(rows - p).max() <= BATCH_TOLERANCE, "a batch equals its rows", np.abs(rows - p).max())
    if isinstance(policy, QuickPolicy):
        quick = np.asarray([policy.probabilities_of_one(_single(table, i)) for i in range(len(table))])
        _require(np.array_equal(quick, rows), "a single decision's own path gives the same to the bit")
    if not policy.traits.is_order_sensitive:
        order = np.random.default_rng(seed).permutation(table.n_offers)
        moved = policy.probabilities(table.permute_offers([int(i) for i in order]))
        _require(
            np.abs(moved - p[:, order]).max() <= BATCH_TOLERANCE, "reordering the offers reorders the probabilities"
        )
    _require(
        policy.traits.probabilities == "exact" or policy.traits.n_nodes > 0,
        "a policy whose probabilities are estimated says from how many nodes",
    )
    _check_draws(policy, table, seed=seed, n_draws=n_draws, explore_share=explore_share)
    if isinstance(policy, SaveablePolicy):
        again = load_policy(policy.to_artifact())
        _require(np.array_equal(again.probabilities(table), p), "saving and loading changes no answer")
        _require(again.name == policy.name, "saving and loading keeps the name", again.name)


def _single(table: DecisionTable, row: int) -> DecisionOfOne:
    def plain(value: Any) -> FeatureValue:
        return (str(value) or None) if isinstance(value, str) else (None if np.isnan(value) else float(value))

    return DecisionOfOne(
        table.offers,
        subject="" if table.subjects is None else str(table.subjects[row]),
        features={name: plain(column[row]) for name, column in table.columns.items()},
        at_us=0,
        vectors={name: tuple(block[row].tolist()) for name, block in table.vectors.items()},
        allowed=None if table.eligible[row].all() else table.eligible[row].tolist(),
    )


def _check_draws(policy: Policy, table: DecisionTable, *, seed: int, n_draws: int, explore_share: float) -> None:
    rng = np.random.default_rng(seed)
    rows = range(min(len(table), 3))
    for row in rows:
        repeated = table.take(np.full(n_draws, row))
        one = table.take(slice(row, row + 1))
        draws = decide(
            _Constant(policy, policy.probabilities(one)),
            repeated,
            uniforms=rng.random(n_draws),
            explore_share=explore_share,
        )
        p = draws.probabilities[0]
        eligible = table.eligible[row]
        floor = explore_share / eligible.sum()
        _require(
            (p[eligible] >= floor * (1 - 1e-9)).all(), "the floor holds for every eligible offer", p[eligible].min()
        )
        counts = np.bincount(draws.chosen, minlength=table.n_offers)
        _require((counts[~eligible] == 0).all(), "an ineligible offer is never drawn")
        _require(
            _chi_square_p(counts[eligible], p[eligible]) > 1e-4 / len(rows),
            "the frequency of draws matches the logged propensity",
            counts,
        )


class _Constant:
    """One row's answer, given again for many draws, so that a slow policy is asked once."""

    def __init__(self, policy: Policy, row: FloatArray) -> None:
        self.name, self.traits, self._row = policy.name, policy.traits, row

    def probabilities(self, table: DecisionTable) -> FloatArray:
        return np.repeat(self._row, len(table), axis=0)


def _chi_square_p(counts: IntArray, probabilities: FloatArray) -> float:
    from scipy.stats import chisquare

    if len(counts) < 2:
        return 1.0
    return float(chisquare(counts, probabilities / probabilities.sum() * counts.sum()).pvalue)


def check_learner(
    make_learner: Callable[[], OnlineLearner], batch: InteractionBatch, *, tolerance: float = 1e-6
) -> None:
    """Run the contract of ``OnlineLearner``: it learns, keeps the policy contract, and resumes from a save.

    Parameters
    ----------
    make_learner
        Callable without arguments that returns a fresh learner.
    batch
        Interactions to learn from; its table must satisfy ``check_policy``.
    tolerance
        Allowed difference between learning after a save and learning straight on.
    """
    first, second = make_learner(), make_learner()
    _require(isinstance(first, OnlineLearner), "the object is an OnlineLearner (learn, probabilities, to_artifact)")
    half = len(batch) // 2
    head, tail = batch.take(slice(0, half)), batch.take(slice(half, len(batch)))
    before = _fingerprint(batch.table)
    first.learn(head)
    resumed = load_policy(first.to_artifact())
    _require(isinstance(resumed, OnlineLearner), "what is loaded again still learns")
    assert isinstance(resumed, OnlineLearner)
    first.learn(tail)
    resumed.learn(tail)
    p = first.probabilities(batch.table)
    _require(
        np.abs(resumed.probabilities(batch.table) - p).max() <= tolerance,
        "learning resumes from a save as if nothing had happened",
    )
    second.learn(head)
    second.learn(tail)
    _require(np.array_equal(second.probabilities(batch.table), p), "the same data give the same learner")
    _require(_fingerprint(batch.table) == before, "learning leaves its inputs unchanged")
    check_policy(first, batch.table)


def check_reward_model(model: RewardModel, table: DecisionTable) -> None:
    """Run the contract of ``RewardModel``.

    Raises
    ------
    ContractError
        With the rule that does not hold.
    """
    before = _fingerprint(table)
    r = model.expected_reward(table)
    _require(r.shape == (len(table), table.n_offers), "expected rewards have shape (n, k)", r.shape)
    _require(np.isfinite(r).all(), "expected rewards are finite everywhere, ineligible offers included")
    _require(_fingerprint(table) == before, "inputs are left unchanged")
    rows = np.concatenate([model.expected_reward(table.take(slice(i, i + 1))) for i in range(min(len(table), 16))])
    scale = max(1.0, float(np.abs(r).max()))
    _require(
        np.abs(rows - r[:16]).max() <= BATCH_TOLERANCE * scale, "a batch equals its rows", np.abs(rows - r[:16]).max()
    )
    order = [int(i) for i in np.random.default_rng(0).permutation(table.n_offers)]
    moved = model.expected_reward(table.permute_offers(order))
    _require(
        np.abs(moved - r[:, order]).max() <= BATCH_TOLERANCE * scale,
        "reordering the offers reorders the expected rewards",
    )


def _fingerprint(table: DecisionTable) -> tuple[bytes, ...]:
    blocks = [table.eligible, *table.columns.values(), *table.vectors.values()]
    return tuple(np.ascontiguousarray(b).tobytes() for b in blocks)
