"""The reference site: a car subscription with eight offers and three stages of a visitor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from policies.eligibility import Condition, EligibilityRule
from policies.errors import UnknownNameError
from policies.records import FloatArray, Offer, OfferId, OfferSet
from simulator.calendar import Calendar
from simulator.parameters import WorldParameters
from simulator.population import Population

if TYPE_CHECKING:
    from simulator.site import LiveSite

NO_OFFER = OfferId("no_offer")
CAR_CLASSES = ("city", "compact", "suv")
FAMILIES = ("none", "plain", "discount", "perk", "loyalty")
PLACEMENT = "home"


def _offer(
    offer_id: str,
    title: str,
    car: str,
    family: str,
    price: float,
    term: float,
    discount: float,
    perk: float,
    margin: float,
) -> Offer:
    return Offer(
        OfferId(offer_id),
        {
            "car_class": car,
            "family": family,
            "monthly_price_eur": price,
            "term_months": term,
            "discount_pct": discount,
            "perk": perk,
            "margin_eur": margin,
        },
        {"title": title, "price": f"€{price * (1 - discount / 100):.0f} a month", "url": f"/offers/{offer_id}"},
    )


OFFERS = OfferSet(
    [
        _offer(NO_OFFER, "Find your car", "none", "none", 0, 0, 0, 0, 0),
        _offer("city_flex", "City car, cancel any month", "city", "plain", 249, 1, 0, 0, 61),
        _offer("city_deal", "City car, 20 % off for six months", "city", "discount", 249, 6, 20, 0, 19),
        _offer("compact_year", "Compact, one year", "compact", "plain", 329, 12, 0, 0, 88),
        _offer("compact_deal", "Compact, 25 % off for six months", "compact", "discount", 349, 6, 25, 0, 24),
        _offer("suv_care", "SUV with service included", "suv", "perk", 459, 6, 0, 1, 97),
        _offer("suv_deal", "SUV, 15 % off", "suv", "discount", 459, 6, 15, 0, 37),
        _offer("loyal_care", "A free wash and check for you", "none", "loyalty", 0, 0, 0, 1, -2),
    ]
)

RULES = (
    EligibilityRule(
        "subscribers see loyalty offers only",
        offers=(Condition("family", "in", ("plain", "discount", "perk")),),
        requires=(Condition("stage", "!=", "subscriber"),),
    ),
    EligibilityRule(
        "loyalty offers are for subscribers",
        offers=(Condition("family", "==", "loyalty"),),
        requires=(Condition("stage", "==", "subscriber"),),
    ),
)


# Where contracts begin with a trial, whoever is on trial has a car already and is looked after as subscribers are.
TRIAL_RULES = (
    EligibilityRule(
        "who has a car sees loyalty offers only",
        offers=(Condition("family", "in", ("plain", "discount", "perk")),),
        requires=(Condition("stage", "not in", ("subscriber", "trial")),),
    ),
    EligibilityRule(
        "loyalty offers are for who has a car",
        offers=(Condition("family", "==", "loyalty"),),
        requires=(Condition("stage", "in", ("subscriber", "trial")),),
    ),
)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A site: its offers and rules, its people, and the laws it follows.

    Parameters
    ----------
    shows_history
        Whether policies also see how many discounts a visitor has been shown and how long ago the first visit was.
    calendar
        What the date does; None: nothing.
    usual_price_eur
        What visitors hold prices of a car class against; None: the mean list price of each class in ``offers``.
    """

    name: str
    parameters: WorldParameters = field(default_factory=WorldParameters)
    population: Population = field(default_factory=Population.synthetic)
    offers: OfferSet = OFFERS
    rules: tuple[EligibilityRule, ...] = RULES
    shows_history: bool = False
    calendar: Calendar | None = None
    usual_price_eur: Mapping[str, float] | None = None

    def usual_prices(self) -> dict[str, float]:
        """What is usual in each car class of the site, EUR a month."""
        return dict(self.usual_price_eur or usual_prices(self.offers))

    def repriced(self, prices_eur: Mapping[str, float]) -> Self:
        """The same market with other list prices: what is usual stays as it is, so that a dearer offer appeals less to everyone.

        Raises
        ------
        UnknownNameError
            If there is no such offer.
        """
        return replace(self, offers=with_prices(self.offers, prices_eur), usual_price_eur=self.usual_prices())

    def null(self) -> Self:
        """The same site where offers make no difference."""
        return replace(self, name=f"{self.name}-null", parameters=self.parameters.null(), calendar=None)

    def open(self, *, n_subjects: int, visit_days: int, seed: int, first_subject: int = 0) -> LiveSite:
        """A cohort of visitors of this site."""
        from simulator.site import LiveSite  # the site is built on this module

        return LiveSite(self, n_subjects=n_subjects, visit_days=visit_days, seed=seed, first_subject=first_subject)

    def offer_numbers(self, name: str) -> FloatArray:
        """One numeric offer feature as an array, shape ``(k,)``."""
        return np.asarray([float(o.features[name] or 0.0) for o in self.offers], dtype=np.float64)


def usual_prices(offers: OfferSet) -> dict[str, float]:
    """Mean list price of each car class among some offers, EUR a month."""
    by_class: dict[str, list[float]] = {}
    for offer in offers:
        by_class.setdefault(str(offer.features["car_class"]), []).append(
            float(offer.features["monthly_price_eur"] or 0.0)
        )
    return {car: float(np.mean(prices)) for car, prices in by_class.items()}


def with_prices(offers: OfferSet, prices_eur: Mapping[str, float]) -> OfferSet:
    """The same offers at other list prices a month.

    Raises
    ------
    UnknownNameError
        If there is no such offer.
    """
    for name in prices_eur:
        if name not in offers.ids:
            raise UnknownNameError("offer", name, offers.ids)
    return OfferSet(
        [
            replace(o, features={**o.features, "monthly_price_eur": float(prices_eur[o.id])})
            if o.id in prices_eur
            else o
            for o in offers
        ]
    )


def reference(*, population: Population | None = None, parameters: WorldParameters | None = None) -> Scenario:
    """The site every claim is made on."""
    return Scenario(
        "car-subscription",
        parameters=parameters or WorldParameters(),
        population=population or Population.synthetic(),
    )


def tabular(*, parameters: WorldParameters | None = None, name: str = "tabular") -> Scenario:
    """A small world without hidden differences, where the best policy on what the site sees is a recursion (``exact.solve``).

    Three segments the site can see, each with its own deal affinity; no taste, no fatigue, nobody looked after. What else
    moves a visitor, the day in the market and the discounts seen, is shown to policies too.
    """
    none = {
        "taste_spread": 0.0,
        "price_sensitivity_spread": 0.0,
        "return_rate_spread": 0.0,
        "fatigue_per_view": 0.0,
        "cancel_per_fatigue": 0.0,
        "retention_offer_effect": 0.0,
    }
    people = Population(
        columns={"segment": np.asarray(["keen", "plain", "wary"], dtype=np.str_)},
        deal_affinity=np.asarray([1.5, 0.0, -1.5]),
        pace=np.ones(3),
        label="three segments",
    )
    laws = (parameters or WorldParameters()).with_assumed(**none)
    return Scenario(name, parameters=laws, population=people, shows_history=True)
