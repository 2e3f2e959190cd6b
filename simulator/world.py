"""Laws of the simulated site as pure functions over arrays: no state, no clock, no gymnasium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from policies.records import FloatArray, IntArray
from simulator.scenarios.car_subscription import CAR_CLASSES, FAMILIES, Scenario
from simulator.streams import Purpose, normals, uniforms

# Whoever has a car has an odd number. Lapsed is who had one before: such visitors choose again, as all others do.
VISITOR, SUBSCRIBER, LAPSED, TRIAL = 0, 1, 2, 3
STAGES = ("visitor", "subscriber", "lapsed", "trial")
MAX_DELAY_DAYS = 14
# A visitor is in the market for two weeks after the first visit; a subscriber looks in every ten days at most.
MARKET_DAYS = 14
SUBSCRIBER_GAP_DAYS = 10
# Who is on trial looks in more often: the decision to stay is still to come.
TRIAL_GAP_DAYS = 2
# How often a discount can make a visitor more dependent on discounts: a small number keeps exact recursions small.
MAX_DEPENDENCE = 3
MAX_HAZARD = 0.5
# A contract counts as kept so many days after it was signed; a loyalty offer taken protects it for so many.
KEPT_AFTER_DAYS = 30
CARE_DAYS = 14
DEVICES = ("mobile", "desktop")
MOBILE_SHARE = 0.6
CHANNELS = ("search", "direct", "social")
# Chance to come back on a day: whoever comes back more rarely than once in 27 years does not.
MIN_RETURN_RATE, MAX_RETURN_RATE = 1e-4, 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Subjects:
    """What is fixed about each visitor; latent but for ``searched_class``, ``is_lapsed``, ``device``, ``channel``, ``person``.

    Attributes
    ----------
    ids
        Counter-stream ids, shape ``(n,)``.
    person
        Row of the population each was drawn from, shape ``(n,)``.
    taste
        For each car class, shape ``(n, 3)``.
    price_sensitivity, deal_affinity, return_rate
        Shape ``(n,)``.
    searched_class
        Index of the car class the visitor searched for, a noisy sign of taste.
    is_lapsed
        Whether the visitor had a contract once and left it, shape ``(n,)``; shown as the stage.
    """

    ids: IntArray
    person: IntArray
    taste: FloatArray
    price_sensitivity: FloatArray
    deal_affinity: FloatArray
    return_rate: FloatArray
    searched_class: IntArray
    is_lapsed: NDArray[np.bool_]
    device: NDArray[np.str_]
    channel: NDArray[np.str_]

    @classmethod
    def draw(cls, scenario: Scenario, ids: IntArray, *, seed: int) -> Self:
        """Who the visitors with these ids are."""
        p, people = scenario.parameters.values(), scenario.population
        person = (uniforms(seed, ids, Purpose.TRAITS, 0) * len(people)).astype(np.int64)
        shown = np.stack([normals(seed, ids, Purpose.TASTE, c) for c in range(len(CAR_CLASSES))], axis=1)
        hidden = np.stack([normals(seed, ids, Purpose.TASTE, 10 + c) for c in range(len(CAR_CLASSES))], axis=1)
        taste = p["taste_spread"] * (p["taste_shown"] * shown + np.sqrt(1 - p["taste_shown"] ** 2) * hidden)
        sensitivity = p["price_sensitivity"] * np.exp(
            p["price_sensitivity_spread"] * normals(seed, ids, Purpose.TRAITS, 1)
        )
        pace = people.pace[person] * np.exp(p["return_rate_spread"] * normals(seed, ids, Purpose.RETURN, 1_000_000))
        return cls(
            ids=ids,
            person=person,
            taste=taste,
            price_sensitivity=sensitivity,
            deal_affinity=people.deal_affinity[person],
            return_rate=np.clip(p["return_rate_per_day"] * pace, MIN_RETURN_RATE, MAX_RETURN_RATE),
            searched_class=np.argmax(shown, axis=1),
            is_lapsed=uniforms(seed, ids, Purpose.TRAITS, 7) < p["lapsed_share"],
            device=device_of(uniforms(seed, ids, Purpose.TRAITS, 5)),
            channel=channel_of(uniforms(seed, ids, Purpose.TRAITS, 6)),
        )


def device_of(u: FloatArray) -> NDArray[np.str_]:
    """What visitors come with, shape ``(n,)``."""
    return np.where(u < MOBILE_SHARE, *DEVICES).astype(np.str_)


def channel_of(u: FloatArray) -> NDArray[np.str_]:
    """Where visitors come from, each channel as often as the others, shape ``(n,)``."""
    return np.asarray(CHANNELS, dtype=np.str_)[(u * len(CHANNELS)).astype(np.int64)]


@dataclass(frozen=True, slots=True, eq=False)
class OfferNumbers:
    """Offer features as the laws read them, each of shape ``(k,)``."""

    car_class: IntArray
    family: IntArray
    price: FloatArray
    discount: FloatArray
    term: FloatArray
    perk: FloatArray
    margin: FloatArray
    reference: FloatArray
    is_contract: NDArray[np.bool_]

    @property
    def is_discounted(self) -> NDArray[np.bool_]:
        """Which offers make whoever sees them more dependent on discounts."""
        return np.asarray(self.discount > 0, dtype=np.bool_)

    @property
    def is_list_price(self) -> NDArray[np.bool_]:
        """Which contracts cost what the list says: those appeal less to who depends on discounts."""
        return np.asarray(self.is_contract & (self.discount == 0), dtype=np.bool_)

    @classmethod
    def of(cls, scenario: Scenario) -> Self:
        """Read them from a scenario."""
        cars = [str(o.features["car_class"]) for o in scenario.offers]
        return cls(
            car_class=np.asarray([CAR_CLASSES.index(c) if c in CAR_CLASSES else -1 for c in cars], dtype=np.int64),
            family=np.asarray([FAMILIES.index(str(o.features["family"])) for o in scenario.offers], dtype=np.int64),
            price=scenario.offer_numbers("monthly_price_eur"),
            discount=scenario.offer_numbers("discount_pct") / 100.0,
            term=scenario.offer_numbers("term_months"),
            perk=scenario.offer_numbers("perk"),
            margin=_margins(scenario),
            reference=_usual(scenario, cars),
            is_contract=np.asarray([c in CAR_CLASSES for c in cars], dtype=np.bool_),
        )


def _usual(scenario: Scenario, cars: list[str]) -> FloatArray:
    """What is usual in each offer's car class, shape ``(k,)``; an offer of a class of which nothing is known is usual itself."""
    known, price = scenario.usual_prices(), scenario.offer_numbers("monthly_price_eur")
    return np.asarray([known.get(car, own) for car, own in zip(cars, price, strict=True)], dtype=np.float64)


def _margins(scenario: Scenario) -> FloatArray:
    """Contribution of each offer, drawn towards their mean where ``margin_contrast`` is below one."""
    margin = scenario.offer_numbers("margin_eur")
    contract = np.asarray([str(o.features["car_class"]) in CAR_CLASSES for o in scenario.offers])
    mean = np.where(contract, margin[contract].mean(), 0.0)
    return np.asarray(mean + scenario.parameters.margin_contrast.value * (margin - mean), dtype=np.float64)


def appeal(
    p: dict[str, float],
    subjects: Subjects,
    rows: IntArray,
    offers: OfferNumbers,
    chosen: IntArray,
    fatigue: FloatArray,
    dependence: FloatArray | float = 0.0,
    engagement: FloatArray | float = 0.0,
) -> FloatArray:
    """Log-odds an offer adds to a click, shape ``(n,)``.

    Parameters
    ----------
    rows
        Which subjects visit.
    chosen
        Offer shown to each.
    fatigue
        Recent views of the family of the offer shown, decayed, shape ``(n,)``.
    dependence
        Discounts seen before, at most ``MAX_DEPENDENCE``, shape ``(n,)``.
    engagement
        ``engagement`` of the visits before, shape ``(n,)``.
    """
    contract = offers.is_contract[chosen]
    taste = np.where(contract, subjects.taste[rows, offers.car_class[chosen]], 0.0)
    effective = offers.price[chosen] * (1.0 - offers.discount[chosen])
    # Prices act against what is usual in the class (reference price), so that the base rate keeps its meaning.
    price = np.where(contract, -subjects.price_sensitivity[rows] * (effective - offers.reference[chosen]) / 100.0, 0.0)
    per_discount = p["discount_appeal"] + p["deal_affinity_weight"] * subjects.deal_affinity[rows]
    deal = per_discount * offers.discount[chosen]
    other = p["perk_appeal"] * offers.perk[chosen] - p["term_dislike"] * offers.term[chosen]
    nothing = np.where(offers.family[chosen] == 0, p["no_offer_penalty"], 0.0)
    tired = -p["fatigue_per_view"] * np.where(offers.family[chosen] == 0, 0.0, fatigue)
    total = taste + price + deal + other + nothing + tired
    if p["appeal_per_dependence"] or p["discount_wear"]:
        lost = p["appeal_per_dependence"] * offers.is_list_price + p["discount_wear"] * offers.is_discounted
        total = total - lost[chosen] * dependence
    if p["engagement_gain"]:
        total = total + p["engagement_gain"] * engagement
    if p["lapsed_appeal"]:
        total = total + p["lapsed_appeal"] * subjects.is_lapsed[rows]
    return np.asarray(total, dtype=np.float64)


def engagement(n_visits: IntArray | FloatArray) -> FloatArray:
    """How often the number of visits so far has doubled, shape ``(n,)``."""
    return np.asarray(np.log2(1.0 + n_visits), dtype=np.float64)


def click_probability(p: dict[str, float], appeal_log_odds: FloatArray) -> FloatArray:
    """Probability of a click on the offer (or of a look at the catalogue), shape ``(n,)``."""
    return sigmoid(p["click_base"] + appeal_log_odds)


def contract_probability(p: dict[str, float], appeal_log_odds: FloatArray) -> FloatArray:
    """Probability that a click leads to a contract within two weeks, shape ``(n,)``."""
    return sigmoid(p["convert_base"] + appeal_log_odds)


def signing_delay_days(p: dict[str, float], u: FloatArray) -> IntArray:
    """Days from click to contract: zero-inflated geometric, cut at ``MAX_DELAY_DAYS``, shape ``(n,)``."""
    share = p["delay_zero_share"]
    rest = np.clip((u - share) / (1.0 - share), 0.0, 1.0 - 1e-12)
    stop = 1.0 / p["delay_mean_days"]
    days = 1 + np.floor(np.log1p(-rest) / np.log1p(-stop))
    return np.where(u < share, 0, np.minimum(days, MAX_DELAY_DAYS)).astype(np.int64)


def cancel_hazard(
    p: dict[str, float],
    subjects: Subjects,
    rows: IntArray,
    offers: OfferNumbers,
    signed: IntArray,
    is_cared_for: NDArray[np.bool_],
    dependence: FloatArray | float = 0.0,
    fatigue: FloatArray | float = 0.0,
    base: str = "cancel_per_day",
) -> FloatArray:
    """Probability that a subscriber cancels today, shape ``(n,)``.

    Parameters
    ----------
    rows
        Which subjects.
    signed
        Offer each has signed.
    is_cared_for
        Whether a loyalty offer was taken in the last two weeks.
    dependence, fatigue
        Discounts seen up to signing, at most ``MAX_DEPENDENCE``, and tiring views left over then, shape ``(n,)``.
    base
        Parameter that the ratio multiplies; ``trial_leave`` on the day on which a trial ends.
    """
    contract = offers.is_contract[signed]
    taste = np.where(contract, subjects.taste[rows, offers.car_class[signed]], 0.0)
    log_ratio = (
        p["cancel_per_discount"] * offers.discount[signed]
        + p["cancel_per_term"] * offers.term[signed]
        + p["cancel_per_perk"] * offers.perk[signed]
        + p["cancel_per_taste"] * taste
        + p["retention_offer_effect"] * is_cared_for
        + p["cancel_per_dependence"] * dependence
        + p["cancel_per_fatigue"] * fatigue
        + p["cancel_per_lapse"] * subjects.is_lapsed[rows]
    )
    return np.asarray(np.clip(p[base] * np.exp(log_ratio), 0.0, MAX_HAZARD), dtype=np.float64)


def next_gap_days(return_rate: FloatArray, u: FloatArray) -> IntArray:
    """Days to the next visit, geometric with the subject's rate, at least 1, shape ``(n,)``."""
    return np.asarray(1 + np.floor(np.log(u) / np.log1p(-return_rate)), dtype=np.int64)


def sigmoid(x: FloatArray) -> FloatArray:
    """Logistic function without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)), dtype=np.float64)
