"""Worlds by name, for the command line and for proofs that are committed to a world before a policy is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from policies.errors import UnknownNameError
from simulator.habit import HabitScenario
from simulator.population import Population
from simulator.scenarios.car_subscription import Scenario, reference, tabular


def alike(population: Population | None = None) -> Scenario:
    """Everyone alike: the best single offer is best for each, so whatever a policy personalises can only cost."""
    site = reference(population=population)
    same = {"taste_spread": 0.0, "price_sensitivity_spread": 0.0, "deal_affinity_weight": 0.0}
    return replace(site, name="alike", parameters=site.parameters.with_assumed(**same))


def bargain_trap(population: Population | None = None, *, cancel_per_discount: float = 10.0) -> Scenario:
    """Discounts sell more than anywhere else and are left as soon as they can be: wins the week, loses the month."""
    site = reference(population=population)
    values = {"cancel_per_discount": cancel_per_discount, "discount_appeal": 3.5}
    return replace(site, name="bargain-trap", parameters=site.parameters.with_assumed(**values))


@dataclass(frozen=True, slots=True)
class NamedWorld:
    """A world with a name and a sentence."""

    make: Callable[[Population | None], Scenario | HabitScenario]
    about: str


WORLDS: dict[str, NamedWorld] = {
    "reference": NamedWorld(lambda p: reference(population=p), "the reference site"),
    "null": NamedWorld(lambda p: reference(population=p).null(), "the reference site where offers make no difference"),
    "alike": NamedWorld(alike, "everyone alike: personalisation can only cost"),
    "bargain-trap": NamedWorld(bargain_trap, "discounts win the week and lose the month"),
    "tabular": NamedWorld(lambda _: tabular(), "three visible segments, exact values by recursion"),
    "habit": NamedWorld(
        lambda p: HabitScenario(population=p or Population.synthetic()),
        "another family of laws: habits, reference prices, word of mouth",
    ),
    "habit-null": NamedWorld(
        lambda p: HabitScenario(population=p or Population.synthetic()).null(),
        "that family where offers make no difference",
    ),
}


def world_named(name: str, population: Population | None = None) -> Scenario | HabitScenario:
    """A world by its name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in WORLDS:
        raise UnknownNameError("world", name, WORLDS)
    return WORLDS[name].make(population)
