"""Policies side by side in one world: the same visitors with the same luck, means and paired differences with intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.artifact import load_artifact
from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import FixedOrder, Uniform
from policies.protocols import Policy
from policies.registry import load_policy
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator.habit import HabitScenario
from simulator.scenarios.car_subscription import Scenario
from simulator.truth import OUTCOMES, Oracle, PolicyTruth, true_value, upper_bound

Z95 = 1.959964


def policy_named(name: str, scenario: Scenario | HabitScenario, *, seed: int) -> Policy:
    """A policy by what a person types: ``uniform``, ``oracle``, an offer's id, or the folder of an artefact.

    Raises
    ------
    UnknownNameError
        If it is none of these.
    """
    if name == "uniform":
        return Uniform()
    if name == "oracle":
        if not isinstance(scenario, Scenario):
            raise InvalidInputError(
                f"the oracle knows the laws of the first family; world {scenario.name!r} has others: leave it out"
            )
        return Oracle(scenario, seed=seed)
    if name in scenario.offers.ids:
        return FixedOrder((name,))
    if Path(name).is_dir():
        return load_policy(load_artifact(Path(name)))
    raise UnknownNameError("policy", name, ["uniform", "oracle", *scenario.offers.ids])


def compare(
    scenario: Scenario | HabitScenario,
    names: Sequence[str],
    *,
    n_subjects: int,
    seeds: Sequence[int],
    explore_share: float = DEFAULT_EXPLORE_SHARE,
    on_done: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Let each policy choose for the same visitors; plain values with 95 % intervals, labelled as simulation.

    Parameters
    ----------
    names
        As ``policy_named`` takes them; differences are to the first.
    n_subjects
        Visitors per seed.
    on_done
        Called with (rollouts done, rollouts in all).
    """
    if not names or not seeds:
        raise InvalidInputError(f"got {len(names)} policies and {len(seeds)} seeds; expected at least one of each")
    runs: dict[str, list[PolicyTruth]] = {name: [] for name in names}
    for i, seed in enumerate(seeds):
        for j, name in enumerate(names):
            policy = policy_named(name, scenario, seed=seed)
            run = true_value(scenario, policy, n_subjects=n_subjects, seed=seed, explore_share=explore_share)
            runs[name].append(run)
            if on_done is not None:
                on_done(i * len(names) + j + 1, len(seeds) * len(names))
    pooled = {
        name: PolicyTruth(name, {o: np.concatenate([r.per_visitor[o] for r in made]) for o in OUTCOMES})
        for name, made in runs.items()
    }
    first = pooled[names[0]]
    rows = [
        {
            "policy": name,
            **{o: _interval(*made.value(o)) for o in OUTCOMES},
            "against_first": {o: _interval(*made.difference(first, o)) for o in OUTCOMES},
        }
        for name, made in pooled.items()
    ]
    told: dict[str, Any] = {
        "world": scenario.name,
        "in_simulation": True,
        "n_subjects": n_subjects,
        "seeds": list(seeds),
        "explore_share": explore_share,
        "policies": rows,
    }
    if isinstance(scenario, Scenario):
        told["upper_bound_kept_30d"] = _interval(*upper_bound(scenario, n_subjects=n_subjects, seed=seeds[0]))
    return told


def _interval(mean: float, error: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - Z95 * error, "high": mean + Z95 * error}
