"""What a business asks of offers beyond rules: how often one person sees them, what must be shown, what may be given away.

Pure functions over what was read; ``engine.offers.counts`` reads it. Like rules, limits act before any policy, form the eligible
set that is logged, and leave their id as the reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from policies.eligibility import Condition, EligibilityRule
from policies.errors import InvalidInputError
from policies.records import Features, OfferId, OfferSet


@dataclass(frozen=True, slots=True)
class View:
    """An offer that was shown to the person before."""

    offer: str
    at: datetime


@dataclass(frozen=True, slots=True)
class FrequencyCap:
    """A person sees an offer at most ``most`` times within ``days``; a cap of one is a cool-down.

    Parameters
    ----------
    id
        Logged as the reason.
    offers
        Which offers it speaks of; empty: all. One who cannot do without any offer keeps one uncapped.
    together
        Whether views of all those offers count as one, instead of each for itself.
    """

    id: str
    most: int
    days: float
    offers: tuple[Condition, ...] = ()
    together: bool = False

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 < self.days <= 3660:
            raise InvalidInputError(
                f"cap {self.id!r} allows {self.most} views in {self.days} days; expected at least 1, in 0 to 3660"
            )


@dataclass(frozen=True, slots=True)
class Mandatory:
    """Where it applies and one of its offers may be shown, only its offers may be.

    Parameters
    ----------
    requires
        Conditions on the context under which it applies; empty: always.
    """

    id: str
    offers: tuple[Condition, ...]
    requires: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class MarginFloor:
    """Offers whose contribution, an offer feature, is below a floor are not shown; an offer without the feature is."""

    id: str
    least: float
    feature: str = "margin_eur"
    requires: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be given away in a period, spread over it.

    Parameters
    ----------
    cost
        Offer feature that says what one costs; offers without it, or at nought, are free and never held back.
    total
        In the unit of that feature.
    starts_at, ends_at
        Aware; outside of them offers that cost are not held back.
    counts
        Kind of reward that spends (``subscribed``); None: every showing does.
    head_start
        Share of the total that may be spent at once; the rest is released evenly over the period. One: no pacing.
    """

    id: str
    cost: str
    total: float
    starts_at: datetime
    ends_at: datetime
    counts: str | None = None
    head_start: float = 0.1

    def __post_init__(self) -> None:
        if self.starts_at.tzinfo is None or self.ends_at.tzinfo is None or self.starts_at >= self.ends_at:
            raise InvalidInputError(
                f"budget {self.id!r} lasts from {self.starts_at} to {self.ends_at}; expected two aware times in order"
            )
        if not (math.isfinite(self.total) and self.total >= 0 and 0 <= self.head_start <= 1):
            raise InvalidInputError(
                f"budget {self.id!r} has total {self.total} and head start {self.head_start}; expected at least 0, and a share"
            )

    def released(self, at: datetime) -> float:
        """How much may have been spent by a moment."""
        elapsed = (at - self.starts_at) / (self.ends_at - self.starts_at)
        return self.total * (self.head_start + (1.0 - self.head_start) * min(1.0, max(0.0, elapsed)))


@dataclass(frozen=True, slots=True)
class Diversity:
    """At most ``most`` offers of one page share a value of a feature (a family, a car class)."""

    id: str
    feature: str
    most: int = 1

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InvalidInputError(f"diversity rule {self.id!r} allows {self.most} offers alike; expected at least 1")


@dataclass(frozen=True, slots=True)
class Limits:
    """All limits of a placement."""

    caps: tuple[FrequencyCap, ...] = ()
    mandatory: tuple[Mandatory, ...] = ()
    margin_floors: tuple[MarginFloor, ...] = ()
    budgets: tuple[Budget, ...] = ()
    diversity: tuple[Diversity, ...] = ()

    def __post_init__(self) -> None:
        names = [
            x.id
            for group in (self.caps, self.mandatory, self.margin_floors, self.budgets, self.diversity)
            for x in group
        ]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise InvalidInputError(f"limits share the id {twice[0]!r}; expected one each: it is logged as the reason")

    def __bool__(self) -> bool:
        return bool(self.caps or self.mandatory or self.margin_floors or self.budgets or self.diversity)

    @property
    def memory(self) -> timedelta:
        """How far back views of a person matter."""
        return timedelta(days=max((cap.days for cap in self.caps), default=0.0))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that ``limits_from_json`` reads back to equal limits."""
        return {
            "caps": [
                {"id": c.id, "most": c.most, "days": c.days, "offers": _conditions(c.offers), "together": c.together}
                for c in self.caps
            ],
            "mandatory": [
                {"id": m.id, "offers": _conditions(m.offers), "requires": _conditions(m.requires)} for m in self.mandatory
            ],
            "margin_floors": [
                {"id": f.id, "least": f.least, "feature": f.feature, "requires": _conditions(f.requires)}
                for f in self.margin_floors
            ],
            "budgets": [
                {
                    "id": b.id, "cost": b.cost, "total": b.total, "starts_at": b.starts_at.isoformat(),
                    "ends_at": b.ends_at.isoformat(), "counts": b.counts, "head_start": b.head_start,
                }
                for b in self.budgets
            ],
            "diversity": [{"id": d.id, "feature": d.feature, "most": d.most} for d in self.diversity],
        }  # fmt: skip


def limits_from_json(document: Mapping[str, Any]) -> Limits:
    """Read back what ``to_json`` wrote."""

    def read(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, **{n: _read_conditions(entry[n]) for n in ("offers", "requires") if n in entry}}

    def dated(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, **{n: datetime.fromisoformat(entry[n]) for n in ("starts_at", "ends_at")}}

    return Limits(
        caps=tuple(FrequencyCap(**read(c)) for c in document.get("caps", ())),
        mandatory=tuple(Mandatory(**read(m)) for m in document.get("mandatory", ())),
        margin_floors=tuple(MarginFloor(**read(f)) for f in document.get("margin_floors", ())),
        budgets=tuple(Budget(**dated(b)) for b in document.get("budgets", ())),
        diversity=tuple(Diversity(**d) for d in document.get("diversity", ())),
    )


@dataclass(frozen=True, slots=True)
class Situation:
    """What limits look at besides the offers: one decision's circumstances.

    Parameters
    ----------
    views
        What the person was shown within ``Limits.memory``.
    spent
        By budget id, what was spent since it started.
    placed
        Offers that earlier slots of the page show.
    """

    at: datetime
    features: Features
    views: Sequence[View] = ()
    spent: Mapping[str, float] = field(default_factory=dict)
    placed: tuple[str, ...] = ()


def excluded_by_limits(
    limits: Limits, offers: OfferSet, situation: Situation, already: Mapping[OfferId, str]
) -> dict[OfferId, str]:
    """Which further offers may not be shown, each with the id of the first limit that says so.

    Parameters
    ----------
    already
        What rules, dates and stock excluded: a mandatory offer among them forces nothing.
    """
    out: dict[OfferId, str] = {}
    for floor in limits.margin_floors:
        if all(c.holds(situation.features) for c in floor.requires):
            for offer in offers:
                margin = offer.features.get(floor.feature)
                if isinstance(margin, int | float) and margin < floor.least:
                    out.setdefault(offer.id, floor.id)
    for cap in limits.caps:
        _apply_cap(cap, offers, situation, out)
    for budget in limits.budgets:
        if budget.starts_at <= situation.at < budget.ends_at:
            left = budget.released(situation.at) - situation.spent.get(budget.id, 0.0)
            for offer in offers:
                if cost_of(offer.features, budget) > 0.0 and cost_of(offer.features, budget) > left:
                    out.setdefault(offer.id, budget.id)
    for rule in limits.diversity:
        shown = [offers[offers.index_of(p)].features.get(rule.feature) for p in situation.placed if p in offers.ids]
        for offer in offers:
            value = offer.features.get(rule.feature)
            if value is not None and shown.count(value) >= rule.most:
                out.setdefault(offer.id, rule.id)
    for must in limits.mandatory:
        if all(c.holds(situation.features) for c in must.requires):
            among = EligibilityRule(must.id, offers=must.offers).speaks_of(offers)
            free = [
                o for o, is_one in zip(offers.ids, among, strict=True) if is_one and o not in already and o not in out
            ]
            if free:
                for position in np.flatnonzero(~among):
                    out.setdefault(offers.ids[position], must.id)
    return {offer: reason for offer, reason in out.items() if offer not in already}


def cost_of(features: Features, budget: Budget) -> float:
    """What one of an offer costs a budget."""
    cost = features.get(budget.cost)
    return float(cost) if isinstance(cost, int | float) else 0.0


def _apply_cap(cap: FrequencyCap, offers: OfferSet, situation: Situation, out: dict[OfferId, str]) -> None:
    since = situation.at - timedelta(days=cap.days)
    recent = [view.offer for view in situation.views if since < view.at <= situation.at]
    if not recent:
        return
    speaks_of = EligibilityRule(cap.id, offers=cap.offers).speaks_of(offers)
    mine = [offer for offer, is_one in zip(offers.ids, speaks_of, strict=True) if is_one]
    if cap.together:
        if sum(offer in mine for offer in recent) >= cap.most:
            for offer in mine:
                out.setdefault(offer, cap.id)
        return
    for offer in mine:
        if recent.count(offer) >= cap.most:
            out.setdefault(offer, cap.id)


def _conditions(conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    return [
        {
            "feature": c.feature,
            "operator": c.operator,
            "value": list(c.value) if isinstance(c.value, tuple) else c.value,
        }
        for c in conditions
    ]


def _read_conditions(documents: Sequence[Mapping[str, Any]]) -> tuple[Condition, ...]:
    return tuple(
        Condition(
            d["feature"], d["operator"], tuple(d["value"]) if isinstance(d.get("value"), list) else d.get("value")
        )
        for d in documents
    )
