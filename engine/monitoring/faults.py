"""Known faults, as a site and its systems make them: what each changes, and the one alarm that has to ring.

A fault overrides what it breaks; everything else stays that of a healthy site (``engine.monitoring.rehearsal``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np

from engine.decisions.requests import OutcomeRequest, RewardRequest
from policies.records import FeatureValue

Features = dict[str, FeatureValue]
Fact = RewardRequest | OutcomeRequest


class Fault:
    """Nothing is broken; the base of what is.

    Attributes
    ----------
    alarm
        What has to ring, and nothing else; "" for nothing.
    """

    name = "none"
    alarm = ""
    previews = False

    def features(self, features: Features, preview: str) -> Features:
        """What the site sends, given what it knows (``preview``: what a dry run of the same id has answered, if it asks for one)."""
        del preview
        return features

    def exclude(self, features: Features) -> tuple[str, ...]:
        """Offers that the site leaves out of a request."""
        del features
        return ()

    def shown(self, offer: str, rng: np.random.Generator) -> str:
        """Offer that the page shows."""
        del rng
        return offer

    def facts(self, facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
        """What is reported of a slot of time."""
        del rng
        return list(facts)

    def is_activated(self, rng: np.random.Generator) -> bool:
        """Whether the page says that the offer was seen."""
        del rng
        return True

    def learns(self) -> bool:
        """Whether the learner runs."""
        return True


class AnotherOfferShown(Fault):
    """A cached page: three in ten visitors see the yearly offer, whatever was chosen."""

    name, alarm = "another offer shown", "shown"

    def shown(self, offer: str, rng: np.random.Generator) -> str:
        """The cached one, for some."""
        return "yearly" if rng.random() < 0.3 else offer


class ExplorationLeaked(Fault):
    """The site asks for a preview of the same decision id and sends what it answered as a feature."""

    name, alarm = "exploration leaked as a feature", "leak"
    previews = True

    def features(self, features: Features, preview: str) -> Features:
        """The drawn offer among what is known before the draw."""
        return features | {"teaser": preview}


class FeatureConstant(Fault):
    """A release of the site sends the same device for everybody."""

    name, alarm = "a feature turned constant", "constant"

    def features(self, features: Features, preview: str) -> Features:
        """One device."""
        del preview
        return features | {"device": "desktop"}


class RewardsDoubled(Fault):
    """A queue delivers every fact twice, each time under a new id."""

    name, alarm = "doubled rewards", "duplicates"

    def facts(self, facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
        """Each one twice."""
        del rng
        return [g for f in facts for g in (f, replace(f, id=f"{f.id}-again"))]


class ClockBehind(Fault):
    """The clock of the system that reports rewards is an hour behind."""

    name, alarm = "a clock an hour behind", "clock"
    shift = timedelta(hours=-1)

    def facts(self, facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
        """At another time than they happened."""
        del rng
        return [f if f.at is None else replace(f, at=f.at + self.shift) for f in facts]


class ClockAhead(ClockBehind):
    """The clock of the system that reports rewards is an hour ahead."""

    name = "a clock an hour ahead"
    shift = timedelta(hours=1)


class OutcomesStopped(Fault):
    """A job died: nothing that visitors do is reported any more."""

    name, alarm = "outcomes that stop", "silence"

    def facts(self, facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
        """None."""
        del facts, rng
        return []


class RewardPoisoned(Fault):
    """Somebody finds the beacon and sends one reward of half a million."""

    name, alarm = "a poisoned reward", "values"

    def __init__(self) -> None:
        self._is_sent = False

    def facts(self, facts: Sequence[Fact], rng: np.random.Generator) -> list[Fact]:
        """One of them, once."""
        del rng
        out = list(facts)
        for i, fact in enumerate(out):
            if not self._is_sent and isinstance(fact, RewardRequest):
                out[i] = replace(fact, value=500_000.0)
                self._is_sent = True
        return out


class LearnerStuck(Fault):
    """The learner's process has died and nobody has started it again."""

    name, alarm = "a stuck learner", "learner"

    def learns(self) -> bool:
        """Not any more."""
        return False


class OfferVanished(Fault):
    """A template no longer knows an offer of the catalogue, so the site excludes it from every request."""

    name, alarm = "an offer that vanishes", "vanished"

    def exclude(self, features: Features) -> tuple[str, ...]:
        """Always the same one."""
        del features
        return ("family",)


class SegmentUnsupported(Fault):
    """Visitors of one country may only be shown one offer."""

    name, alarm = "a segment without support", "support"

    def exclude(self, features: Features) -> tuple[str, ...]:
        """All but one, there."""
        return ("yearly", "family", "student") if features["country"] == "at" else ()


class ViewsLost(Fault):
    """A new page forgets to say that offers were seen: outcomes find no decision that was."""

    name, alarm = "views that are not reported", "unattributed"

    def is_activated(self, rng: np.random.Generator) -> bool:
        """Hardly ever."""
        return rng.random() < 0.02


@dataclass(frozen=True, slots=True)
class Known:
    """A fault by name, made anew for each use because some remember what they did."""

    make: type[Fault]

    @property
    def name(self) -> str:
        """In words."""
        return self.make.name

    @property
    def alarm(self) -> str:
        """What has to ring."""
        return self.make.alarm


FAULTS: tuple[Known, ...] = tuple(
    Known(f)
    for f in (
        AnotherOfferShown,
        ExplorationLeaked,
        FeatureConstant,
        RewardsDoubled,
        ClockBehind,
        ClockAhead,
        OutcomesStopped,
        RewardPoisoned,
        LearnerStuck,
        OfferVanished,
        SegmentUnsupported,
        ViewsLost,
    )
)
