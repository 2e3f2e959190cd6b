"""What monitoring says: one check an alarm, and all of them as the health of a placement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from engine.monitoring.alarms import ALARMS, INTEGRITY, Alarm, alarm_of

# ``explained``: it would ring, but another one does that explains it. ``unknown``: too little to tell. ``off``: nothing of the kind here.
State = Literal["ok", "ringing", "explained", "unknown", "off"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number.

    Parameters
    ----------
    name
        Of the metric, without the prefix of the product.
    labels
        What it belongs to, besides the placement.
    """

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class Check:
    """One alarm as of a moment.

    Parameters
    ----------
    value, limit
        What is looked at and from where it rings, in the unit that the sentence names; None where there is nothing to measure.
    sentence
        What was found.
    where
        The places that are worst, one line each.
    explained_by
        Alarm that rings and explains this one, and the reason.
    """

    alarm: str
    state: State
    sentence: str
    value: float | None = None
    limit: float | None = None
    where: tuple[str, ...] = ()
    explained_by: str = ""

    @property
    def definition(self) -> Alarm:
        """The alarm."""
        return alarm_of(self.alarm)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "alarm": self.alarm,
            "title": self.definition.title,
            "family": self.definition.family,
            "is_warning": self.definition.is_warning,
            "state": self.state,
            "sentence": self.sentence,
            "value": self.value,
            "limit": self.limit,
            "where": list(self.where),
            "explained_by": self.explained_by,
        }


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The health of a placement as of a moment: one check an alarm, in the order of ``ALARMS``."""

    placement: str
    as_of: datetime
    checks: tuple[Check, ...]
    n_decisions: int = 0
    figures: tuple[Figure, ...] = ()

    @property
    def ringing(self) -> tuple[Check, ...]:
        """What rings."""
        return tuple(c for c in self.checks if c.state == "ringing")

    @property
    def is_integrity_broken(self) -> bool:
        """Whether the log is not what was shown and drawn: nothing that is learned or judged from it can be believed."""
        return any(c.alarm in INTEGRITY for c in self.ringing)

    def check(self, alarm: str) -> Check:
        """The check of an alarm."""
        alarm_of(alarm)
        return next(c for c in self.checks if c.alarm == alarm)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "placement": self.placement,
            "as_of": self.as_of.isoformat(),
            "n_decisions": self.n_decisions,
            "is_integrity_broken": self.is_integrity_broken,
            "ringing": [c.alarm for c in self.ringing],
            "checks": [c.to_json() for c in self.checks],
        }


def ordered_and_explained(checks: Iterable[Check]) -> tuple[Check, ...]:
    """All alarms in their order, those that another one explains marked as such; what was not looked at is ``off``."""
    found = {c.alarm: c for c in checks}
    rings = {name for name, c in found.items() if c.state == "ringing"}
    out: list[Check] = []
    for alarm in ALARMS:
        check = found.get(alarm.name, Check(alarm.name, "off", "Not looked at here."))
        causes: Sequence[str] = [c for c in alarm.explained_by if c in rings]
        if check.state == "ringing" and causes:
            check = replace(check, state="explained", explained_by=f"{causes[0]}: {alarm.explained_by[causes[0]]}")
        out.append(check)
    return tuple(out)
