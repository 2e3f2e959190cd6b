"""Studies in the manner of bsuite: a world or a family of them, its settings, an outcome, and a score with a stated baseline.

References
----------
Osband et al. (2020), "Behaviour suite for reinforcement learning".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from policies.errors import InvalidInputError, UnknownNameError
from simulator.calendar import Calendar, Shock
from simulator.habit import AnyWorld
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.scenarios.files import load_scenario
from simulator.scenarios.named import WORLDS, bargain_trap, retention, retention_tabular


@dataclass(frozen=True, slots=True)
class Study:
    """What is asked, in which worlds.

    Parameters
    ----------
    setting
        What is swept, in words; empty for a single world.
    settings
        Its values; a single world has one, 0.
    outcome
        What is scored.
    baseline
        Policy whose score is 0; 1 is the exact optimum or the bound no policy can beat, where the world has one.
    """

    name: str
    about: str
    make: Callable[[float], AnyWorld]
    setting: str = ""
    settings: tuple[float, ...] = (0.0,)
    outcome: str = "kept_30d"
    baseline: str = "uniform"

    def setting_of(self, value: float) -> float:
        """A value of the setting.

        Raises
        ------
        InvalidInputError
            If there is nothing to set, or it is no finite number.
        """
        if not self.setting:
            swept = ", ".join(s.name for s in STUDIES.values() if s.setting)
            raise InvalidInputError(f"scenario {self.name!r} has no setting; scenarios with one: {swept}")
        if not math.isfinite(value):
            raise InvalidInputError(f"{self.setting} is {value}; expected a finite number")
        return float(value)


def _after_shock(log_odds: float) -> Scenario:
    deals = ("city_deal", "compact_deal", "suv_deal")
    calendar = Calendar(shocks=(Shock(15, 10_000, log_odds, deals),))
    return replace(reference(), name=f"shock{log_odds:g}", calendar=calendar)


def _drifting(step: float) -> Scenario:
    return replace(reference(), name=f"drift-{step:g}", calendar=Calendar(drift_per_day=step))


_SWEPT = (
    Study(
        "retention", "what discounts do to later visits and to staying, from nothing to much",
        lambda c: retention(discount_dependence=c), "dependence on discounts", (0.0, 0.3, 0.6, 0.9, 1.2, 1.5),
    ),
    Study(
        "retention-tabular", "what discounts do to later visits and to staying, in three visible segments where the best policy is exact",
        lambda c: retention_tabular(discount_dependence=c), "dependence on discounts", (0.0, 0.3, 0.6, 0.9, 1.2, 1.5),
    ),
    Study(
        "bargain-trap", "how fast contracts with a discount are left",
        lambda c: bargain_trap(cancel_per_discount=c), "log-hazard of a full discount", (0.0, 2.5, 5.0, 7.5, 10.0),
    ),
    Study(
        "shock", "discounts lose their appeal in week three",
        _after_shock, "change of log-odds", (0.0, -0.5, -1.0, -2.0),
    ),
    Study(
        "drift", "appeal walks at random from day to day", _drifting, "daily step of log-odds", (0.0, 0.03, 0.06, 0.12),
    ),
)  # fmt: skip

STUDIES: dict[str, Study] = {
    **{name: Study(name, world.about, lambda _, w=world: w.make(None)) for name, world in WORLDS.items()},  # type: ignore[misc]
    **{study.name: study for study in _SWEPT},
}


def study_named(name: str) -> Study:
    """A study by its name, or of the single world saved in a folder.

    Raises
    ------
    UnknownNameError
        If there is none of that name and no such folder.
    """
    if Path(name).is_dir():
        site = load_scenario(Path(name))
        return Study(site.name, f"the site saved in {Path(name).name}", lambda _: site)
    if name not in STUDIES:
        raise UnknownNameError("scenario", name, STUDIES)
    return STUDIES[name]


def site_named(name: str, setting: float | None = None) -> AnyWorld:
    """One site: a study's at a value of its setting, or the world of that name.

    Raises
    ------
    UnknownNameError
        If there is none of that name.
    InvalidInputError
        If a setting is given where there is none to set.
    """
    study = study_named(name)
    if setting is not None:
        return study.make(study.setting_of(setting))
    # A family of the same name as a world begins where its effect is off; who names the world means its own value.
    return WORLDS[name].make(None) if name in WORLDS else study.make(study.settings[0])


def first_family(name: str) -> Scenario:
    """The world of that name, where it follows the laws that fits and environments know.

    Raises
    ------
    UnknownNameError, InvalidInputError
        If there is none of that name, or it is of the other family.
    """
    site = site_named(name)
    if not isinstance(site, Scenario):
        raise InvalidInputError(
            f"world {name!r} follows other laws; expected one of the first family, such as reference"
        )
    return site
