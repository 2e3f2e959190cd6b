"""Policies by what a person types: fixed ones, yardsticks, exact ones, and saved ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from policies.artifact import load_artifact
from policies.errors import InvalidInputError, UnknownNameError
from policies.features import FeatureSpace
from policies.fixed import FixedOrder, Uniform
from policies.linear import LinTS, LinUCB
from policies.logistic import LogisticThompson
from policies.protocols import OnlineLearner, Policy
from policies.registry import load_policy
from policies.shared_linear import SharedLinTS
from policies.thompson import BetaThompson
from simulator.exact import myopic, solve
from simulator.habit import AnyWorld
from simulator.scenarios.car_subscription import Scenario
from simulator.spaces import reference_space
from simulator.truth import Oracle

SPECIAL = ("uniform", "oracle", "greedy", "planned", "careful")
# Learners that begin with nothing, with their own defaults, and learn while they are lived.
LEARNERS: dict[str, Callable[[FeatureSpace], OnlineLearner]] = {
    "lints": LinTS,
    "linucb": LinUCB,
    "logistic_thompson": LogisticThompson,
    "shared_lints": SharedLinTS,
    "beta_thompson": lambda _: BetaThompson(),
}


def policy_named(name: str, scenario: AnyWorld, *, seed: int, outcome: str = "kept_30d") -> Policy:
    """A policy by what a person types.

    Parameters
    ----------
    name
        ``uniform``; ``oracle`` (sees what is hidden); on tabular sites ``greedy`` (sells most in each visit), ``planned`` (the exact
        optimum) and ``careful`` (the exact optimum without discounts); one of ``LEARNERS``, fresh; an offer's id; the folder of an artefact.

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
    if name in LEARNERS:
        return LEARNERS[name](reference_space(scenario))
    if name in scenario.offers.ids:
        return FixedOrder((name,))
    if Path(name).exists():
        return load_policy(load_artifact(Path(name)))
    raise UnknownNameError("policy", name, [*SPECIAL, *LEARNERS, *scenario.offers.ids])


def refuse_learner(name: str) -> None:
    """Where nobody learns, a learner would be judged as it began: knowing nothing.

    Raises
    ------
    InvalidInputError
        If the name is that of a learner.
    """
    if name in LEARNERS:
        raise InvalidInputError(
            f"policy {name!r} begins with nothing and nothing is learned here; expected one that has learned, such as the folder of "
            "a saved policy: `nextoffer simulate` lets learners learn"
        )
