"""A scenario written down as values, so that a process of its own can live in the same world."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact, load_artifact, save_artifact
from policies.eligibility import EligibilityRule, rule_from_json, rule_to_json
from policies.errors import ArtifactError
from policies.records import Offer, OfferSet
from simulator.calendar import Calendar, Shock
from simulator.parameters import Parameter, WorldParameters
from simulator.population import Population
from simulator.scenarios.car_subscription import OFFERS, RULES, TRIAL_RULES, Scenario

KIND = "car_subscription_scenario"


def save_scenario(scenario: Scenario, folder: Path) -> Path:
    """Write the people, parameters, calendar, offers and rules of a scenario."""
    people = scenario.population
    arrays: dict[str, NDArray[Any]] = {"deal_affinity": people.deal_affinity, "pace": people.pace}
    arrays |= {f"column.{name}": np.asarray(column) for name, column in people.columns.items()}
    arrays |= {f"vector.{name}": block for name, block in people.vectors.items()}
    manifest = {
        "name": scenario.name,
        "people": people.label,
        "shows_history": scenario.shows_history,
        "calendar": None if scenario.calendar is None else asdict(scenario.calendar),
        "offers": None if scenario.offers is OFFERS else [asdict(offer) for offer in scenario.offers],
        "usual_price_eur": None if scenario.usual_price_eur is None else dict(scenario.usual_price_eur),
        "rules": _named(scenario.rules) or [rule_to_json(rule) for rule in scenario.rules],
        "parameters": {f.name: asdict(getattr(scenario.parameters, f.name)) for f in fields(scenario.parameters)},
    }
    return save_artifact(Artifact(KIND, manifest, arrays), folder)


def load_scenario(folder: Path) -> Scenario:
    """Read back what ``save_scenario`` wrote.

    Raises
    ------
    ArtifactError
        If the folder holds something else.
    """
    artifact = load_artifact(folder)
    if artifact.kind != KIND:
        raise ArtifactError(f"{folder} holds a {artifact.kind!r}; expected a {KIND!r}")
    if "offers" not in artifact.manifest:
        raise ArtifactError(f"{folder} was saved before worlds kept their offers; save the world again")
    arrays, manifest = artifact.arrays, artifact.manifest

    def named(prefix: str) -> dict[str, NDArray[Any]]:
        return {name.removeprefix(prefix): block for name, block in arrays.items() if name.startswith(prefix)}

    return Scenario(
        manifest["name"],
        parameters=WorldParameters(**{name: Parameter(**p) for name, p in manifest["parameters"].items()}),
        population=Population(
            columns=named("column."),
            vectors=named("vector."),
            deal_affinity=arrays["deal_affinity"],
            pace=arrays["pace"],
            label=manifest["people"],
        ),
        shows_history=manifest.get("shows_history", False),
        calendar=_calendar(manifest.get("calendar")),
        offers=OFFERS if manifest.get("offers") is None else OfferSet([Offer(**told) for told in manifest["offers"]]),
        usual_price_eur=manifest.get("usual_price_eur"),
        rules=_rules(manifest.get("rules", "reference")),
    )


_KNOWN_RULES = {"reference": RULES, "trial": TRIAL_RULES}


def _named(rules: tuple[EligibilityRule, ...]) -> str | None:
    return next((name for name, known in _KNOWN_RULES.items() if rules == known), None)


def _rules(told: str | list[dict[str, Any]]) -> tuple[EligibilityRule, ...]:
    if isinstance(told, str):
        return _KNOWN_RULES[told]
    return tuple(rule_from_json(rule) for rule in told)


def _calendar(told: dict[str, Any] | None) -> Calendar | None:
    if told is None:
        return None
    return Calendar(
        **{
            **told,
            "weekday_log_odds": tuple(told["weekday_log_odds"]),
            "shocks": tuple(Shock(**{**shock, "offers": tuple(shock["offers"])}) for shock in told["shocks"]),
            "offered": {offer: (days[0], days[1]) for offer, days in told["offered"].items()},
        }
    )
