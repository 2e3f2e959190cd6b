"""Small worlds whose truth is a formula."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet


@dataclass(frozen=True)
class World:
    """A log, two candidates and what each would earn on the log's contexts."""

    log: InteractionBatch
    better: FloatArray
    uniform: FloatArray
    mean_reward: FloatArray

    def truth(self, target: FloatArray) -> float:
        """Value of a candidate on these contexts."""
        return float((target * self.mean_reward).sum(axis=1).mean())


def offer_set(k: int) -> OfferSet:
    """K offers without features."""
    return OfferSet([Offer(OfferId(f"offer {j}")) for j in range(k)])


def softmax(scores: FloatArray) -> FloatArray:
    """Rows as distributions."""
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def world(
    *,
    n: int = 4000,
    k: int = 3,
    seed: int = 0,
    n_subjects: int | None = None,
    sharpness: float = 1.0,
    rate: float = -1.0,
) -> World:
    """A binary reward with interactions, logged by a softmax policy that prefers the wrong offers."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    slope = np.linspace(1.0, -1.0, k)
    logging = 0.8 * softmax(-sharpness * np.outer(x, slope)) + 0.2 / k
    q = 1 / (1 + np.exp(-(rate + np.outer(x, slope))))
    chosen = (np.cumsum(logging, axis=1) <= rng.random(n)[:, None]).sum(axis=1)
    chosen = np.minimum(chosen, k - 1)
    rows = np.arange(n)
    reward = (rng.random(n) < q[rows, chosen]).astype(np.float64)
    subjects = None if n_subjects is None else rng.integers(0, n_subjects, size=n).astype(np.str_)
    table = DecisionTable(offer_set(k), np.ones((n, k), dtype=np.bool_), columns={"x": x}, subjects=subjects)
    log = InteractionBatch(table, chosen, logging[rows, chosen], reward, probabilities=logging)
    return World(log, softmax(sharpness * np.outer(x, slope)), np.full((n, k), 1.0 / k), q)


class Better:
    """A policy that likes the first offer for high x."""

    name = "better"
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """A softmax."""
        return softmax(np.outer(table.columns["x"], np.linspace(1.0, -1.0, table.n_offers)))


class Guess:
    """A rough reward model."""

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Linear in x."""
        return np.outer(table.columns["x"], np.linspace(1.0, -1.0, table.n_offers))


def tiny_log(n: int = 7, k: int = 3, *, seed: int = 3) -> tuple[InteractionBatch, FloatArray, FloatArray]:
    """A few rows with rewards of any sign: ``(log, target, model values)``."""
    rng = np.random.default_rng(seed)
    logging = rng.dirichlet(np.ones(k), size=n)
    target = rng.dirichlet(np.ones(k), size=n)
    chosen = rng.integers(0, k, size=n)
    table = DecisionTable(offer_set(k), np.ones((n, k), dtype=np.bool_))
    log = InteractionBatch(table, chosen, logging[np.arange(n), chosen], rng.normal(size=n), probabilities=logging)
    return log, target, rng.normal(size=(n, k))
