"""A log whose propensities are not true: somebody who knows the visitors better than the site chose, and the site does not know it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policies.errors import InvalidInputError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch
from simulator import world
from simulator.habit import AnyWorld
from simulator.rollouts import RewardName, Rollout, rollout
from simulator.scenarios.car_subscription import Scenario


class HiddenHand:
    """Shows discounts to those it knows to love them; what it knows is not in the table.

    Parameters
    ----------
    seed
        Of the rollout it acts in: it recognises the visitors by their names.
    strength
        Log-odds of an offer with the largest discount per unit of deal affinity; 0 is uniform.
    """

    name = "hidden hand"
    traits = PolicyTraits()

    def __init__(self, scenario: AnyWorld, *, seed: int, strength: float) -> None:
        self._scenario, self._seed, self._strength = scenario, seed, strength
        discount = np.asarray([float(o.features["discount_pct"] or 0.0) for o in scenario.offers])
        self._depth = discount / discount.max()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Softmax of hidden affinity times depth of discount over what is eligible."""
        if table.subjects is None:
            raise InvalidInputError("the hidden hand got a table without subjects; it recognises visitors by name")
        ids: IntArray = np.asarray([int(str(name).lstrip("v")) for name in table.subjects], dtype=np.int64)
        affinity = _affinity(self._scenario, ids, seed=self._seed)
        odds = np.exp(self._strength * affinity[:, None] * self._depth[None, :]) * table.eligible
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def _affinity(scenario: AnyWorld, ids: IntArray, *, seed: int) -> FloatArray:
    """Deal affinity of the people behind some ids."""
    if isinstance(scenario, Scenario):
        return world.Subjects.draw(scenario, ids, seed=seed).deal_affinity
    return scenario.population.deal_affinity[scenario.person_of(ids, seed=seed)]


def confounded_log(
    scenario: AnyWorld,
    *,
    n_subjects: int,
    seed: int,
    strength: float = 1.5,
    reward: RewardName = "clicked",
) -> tuple[InteractionBatch, InteractionBatch]:
    """The same decisions as the site believes them, and as they were.

    Returns
    -------
    tuple of InteractionBatch
        First with the propensities the site would estimate from what it sees (mean distribution per stage), then with the
        true ones. Any estimator that trusts the first is biased, and nothing in it says so.
    """
    run = rollout(
        scenario,
        HiddenHand(scenario, seed=seed, strength=strength),
        n_subjects=n_subjects,
        seed=seed,
    )
    return replace(run, probabilities=believed_probabilities(run)).interactions(reward), run.interactions(reward)


def believed_probabilities(run: Rollout) -> FloatArray:
    """What a site would estimate of a rollout's propensities from what it sees: the mean distribution of each stage, shape ``(n, k)``."""
    stage = run.table.columns["stage"]
    seen = np.zeros_like(run.probabilities)
    for name in np.unique(stage):
        seen[stage == name] = run.probabilities[stage == name].mean(axis=0)
    return seen
