"""Worlds by name, for the command line and for proofs that are committed to a world before a policy is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from policies.errors import InvalidInputError, UnknownNameError
from simulator.calendar import Calendar, Shock
from simulator.habit import AnyWorld, HabitScenario
from simulator.parameters import WorldParameters
from simulator.population import Population
from simulator.scenarios.car_subscription import TRIAL_RULES, Scenario, reference, tabular


def alike(population: Population | None = None) -> Scenario:
    """Everyone alike: the best single offer is best for each and in every visit, so whatever a policy personalises can only cost.

    Nothing tires either: with fatigue, changing offers from visit to visit would pay, and a policy that saw the count of visits would gain.
    """
    site = reference(population=population)
    same = {"taste_spread": 0.0, "price_sensitivity_spread": 0.0, "deal_affinity_weight": 0.0, "fatigue_per_view": 0.0}
    return replace(site, name="alike", parameters=site.parameters.with_assumed(**same))


def bargain_trap(population: Population | None = None, *, cancel_per_discount: float = 10.0) -> Scenario:
    """Discounts sell more than anywhere else and are left as soon as they can be: wins the week, loses the month."""
    site = reference(population=population)
    values = {"cancel_per_discount": cancel_per_discount, "discount_appeal": 3.5}
    return replace(site, name="bargain-trap", parameters=site.parameters.with_assumed(**values))


def dependent_on_discounts(discount_dependence: float, parameters: WorldParameters | None = None) -> WorldParameters:
    """Laws in which every discount seen makes a visitor harder to sell to at list price, and quicker to leave.

    Parameters
    ----------
    discount_dependence
        Log-hazard of cancelling per discount seen before signing (the one signed included, three at most); a quarter of it
        is lost on the appeal of list prices. Zero: discounts sell, and cost nothing but margin.
    """
    if discount_dependence < 0:
        raise InvalidInputError(f"discount_dependence is {discount_dependence}; expected 0 (off) or more")
    return (parameters or WorldParameters()).with_assumed(
        convert_base=-3.0,  # more contracts than at the reference site: the same precision from fewer visitors
        cancel_per_discount=0.0,
        cancel_per_dependence=discount_dependence,
        appeal_per_dependence=0.25 * discount_dependence,
    )


def retention(population: Population | None = None, *, discount_dependence: float = 0.9) -> Scenario:
    """Whoever sells by discounts wins the week; above a crossing point of the coefficient it loses the month.

    What an offer does to later visits counts here, so that planning can beat the best choice of each visit.
    """
    site = reference(population=population)
    laws = dependent_on_discounts(discount_dependence, site.parameters)
    return replace(site, name=f"retention-{discount_dependence:g}", parameters=laws, shows_history=True)


def retention_tabular(*, discount_dependence: float = 0.9) -> Scenario:
    """The same laws without hidden differences: the best policy, any rule's value and the crossing point are exact."""
    laws = dependent_on_discounts(discount_dependence)
    return tabular(parameters=laws, name=f"retention-tabular-{discount_dependence:g}")


def trial(population: Population | None = None) -> Scenario:
    """Every contract begins with seven days on trial; a fifth of average contracts ends with it."""
    site = reference(population=population)
    laws = site.parameters.with_assumed(trial_days=7.0, trial_leave=0.2, cancel_per_day=0.006)
    return replace(site, name="trial", parameters=laws, rules=TRIAL_RULES)


def lapsed(population: Population | None = None) -> Scenario:
    """Three visitors in ten had a contract once: easier to sell to, and quicker to leave again."""
    site = reference(population=population)
    laws = site.parameters.with_assumed(lapsed_share=0.3, lapsed_appeal=0.5, cancel_per_lapse=0.6)
    return replace(site, name="lapsed", parameters=laws)


def changing(population: Population | None = None, *, seed: int = 0) -> Scenario:
    """Weekdays, season and drift; discounts lose their appeal in week three; one offer comes late, one sells out."""
    calendar = Calendar(
        weekday_log_odds=(0.0, 0.0, 0.0, 0.0, -0.1, 0.25, 0.3),
        season_log_odds=0.2,
        season_days=120.0,
        drift_per_day=0.03,
        shocks=(Shock(15, 10_000, -1.0, ("city_deal", "compact_deal", "suv_deal")),),
        offered={"compact_year": (10, 10_000), "suv_care": (0, 40)},
        max_views={"city_deal": 3},
        seed=seed,
    )
    return replace(reference(population=population), name="changing", calendar=calendar)


def everything(population: Population | None = None) -> Scenario:
    """All of it at once: dates, trials, lapsed subscribers, and discounts that make visitors dependent; what speed is measured on."""
    site = changing(population)
    laws = dependent_on_discounts(0.5, site.parameters)
    laws = laws.with_assumed(
        engagement_gain=0.1, discount_wear=0.1, cancel_per_fatigue=0.05, trial_days=7.0, trial_leave=0.1,
        lapsed_share=0.1, lapsed_appeal=0.3, cancel_per_lapse=0.3,
    )  # fmt: skip
    return replace(site, name="everything", parameters=laws, rules=TRIAL_RULES, shows_history=True)


@dataclass(frozen=True, slots=True)
class NamedWorld:
    """A world with a name and a sentence."""

    make: Callable[[Population | None], AnyWorld]
    about: str


WORLDS: dict[str, NamedWorld] = {
    "reference": NamedWorld(lambda p: reference(population=p), "the reference site"),
    "null": NamedWorld(lambda p: reference(population=p).null(), "the reference site where offers make no difference"),
    "alike": NamedWorld(alike, "everyone alike: personalisation can only cost"),
    "bargain-trap": NamedWorld(bargain_trap, "discounts win the week and lose the month"),
    "retention": NamedWorld(retention, "each discount seen makes a visitor dearer to keep: planning pays"),
    "retention-tabular": NamedWorld(
        lambda _: retention_tabular(),
        "each discount seen makes a visitor dearer to keep, in three visible segments: exact by recursion",
    ),
    "trial": NamedWorld(trial, "contracts begin with a trial that many end"),
    "lapsed": NamedWorld(lapsed, "three visitors in ten had a contract before and left it"),
    "changing": NamedWorld(
        changing, "weekdays, season, drift, a shock, an offer that comes late and one that sells out"
    ),
    "everything": NamedWorld(everything, "all of that at once"),
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


def world_named(name: str, population: Population | None = None) -> AnyWorld:
    """A world by its name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    """
    if name not in WORLDS:
        raise UnknownNameError("world", name, WORLDS)
    return WORLDS[name].make(population)
