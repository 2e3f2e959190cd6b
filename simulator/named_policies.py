"""Policies by what a person types: fixed ones, yardsticks, exact ones, and saved ones."""

from __future__ import annotations

from pathlib import Path

from policies.artifact import load_artifact
from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import FixedOrder, Uniform
from policies.protocols import Policy
from policies.registry import load_policy
from simulator.exact import myopic, solve
from simulator.habit import HabitScenario
from simulator.scenarios.car_subscription import Scenario
from simulator.truth import Oracle

SPECIAL = ("uniform", "oracle", "greedy", "planned", "careful")


def policy_named(name: str, scenario: Scenario | HabitScenario, *, seed: int, outcome: str = "kept_30d") -> Policy:
    """A policy by what a person types.

    Parameters
    ----------
    name
        ``uniform``; ``oracle`` (sees what is hidden); on tabular sites ``greedy`` (sells most in each visit), ``planned`` (the exact
        optimum) and ``careful`` (the exact optimum without discounts); an offer's id; the folder of an artefact.

    Raises
    ------
    UnknownNameError
        If it is none of these.
    InvalidInputError
        If this world does not have it.
    """
    if name == "uniform":
        return Uniform()
    if name in SPECIAL:
        if not isinstance(scenario, Scenario):
            raise InvalidInputError(
                f"{name!r} knows the laws of the first family; world {scenario.name!r} has others: leave it out"
            )
        if name == "oracle":
            return Oracle(scenario, seed=seed, outcome=outcome)
        if name == "greedy":
            return myopic(scenario)
        return solve(scenario, outcome=outcome, with_discounts=name == "planned")[0]
    if name in scenario.offers.ids:
        return FixedOrder((name,))
    if Path(name).exists():
        return load_policy(load_artifact(Path(name)))
    raise UnknownNameError("policy", name, [*SPECIAL, *scenario.offers.ids])
