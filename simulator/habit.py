"""A second site with other laws: habits, reference prices and word of mouth.

It shares with ``LiveSite`` the interface and what the site sees of a visitor (columns, devices, channels, when keeping counts), and no law.

The world of proofs: nothing that learns or is calibrated on the first family of laws has its functional form. Visits come in
bursts and stop for good after any of them (as buying processes with a drop-out do), acceptance is a probit on gains and losses
against a price the visitor remembers, contracts are kept by habit and tested when the discount ends.
"""

# ruff: noqa: RUF009 - Parameter is a frozen dataclass, which the rule cannot see across modules
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Self

import numpy as np
from scipy.special import ndtr

from policies.eligibility import EligibilityRule, eligible_mask
from policies.errors import UnknownNameError
from policies.records import FloatArray, IntArray, OfferSet
from simulator.parameters import Parameter
from simulator.population import Population
from simulator.scenarios.car_subscription import CAR_CLASSES, OFFERS, RULES, Scenario, usual_prices, with_prices
from simulator.site import DayFacts, Responses, Visits, decision_table, known_columns
from simulator.streams import Purpose, normals, uniforms
from simulator.world import CARE_DAYS, KEPT_AFTER_DAYS, channel_of, device_of

STAGES = ("visitor", "subscriber", "lapsed")
_VISITOR, _SUBSCRIBER, _LAPSED = 0, 1, 2
_MAX_DELAY_DAYS = 14
_MARKET_DAYS = 14


@dataclass(frozen=True, slots=True)
class HabitParameters:
    """Parameters of the habit family; probit units unless the name says otherwise. All assumed: it stands for a world nobody fitted."""

    burst_gap_days: Parameter = Parameter(1.6, "assumed", "mean gap inside a burst of visits")
    pause_gap_days: Parameter = Parameter(4.5, "assumed", "mean gap between bursts")
    pause_share: Parameter = Parameter(0.35, "assumed", "share of gaps that are pauses for a visitor of average pace")
    drop_out: Parameter = Parameter(0.14, "assumed", "chance that a visit is the last one, whatever was shown")
    click_base: Parameter = Parameter(-0.95, "assumed", "threshold of a click on an offer of average appeal")
    sign_base: Parameter = Parameter(-2.05, "assumed", "threshold of signing after a click")
    frequency_gain: Parameter = Parameter(
        0.22, "assumed", "per doubling of visits so far: who comes back is closer to buying"
    )
    recency_loss: Parameter = Parameter(0.05, "assumed", "per day since the last visit: interest cools")
    class_match: Parameter = Parameter(0.55, "assumed", "when the car is of the class that the visitor is really after")
    class_mismatch: Parameter = Parameter(-0.30, "assumed", "when it is of another class")
    search_honesty: Parameter = Parameter(0.75, "assumed", "share of visitors who search for what they are after")
    gain_per_100_eur: Parameter = Parameter(0.45, "assumed", "below the remembered price")
    loss_per_100_eur: Parameter = Parameter(
        0.90, "assumed", "above the remembered price: losses weigh twice as much as gains"
    )
    memory: Parameter = Parameter(0.60, "assumed", "weight of the price remembered against the one just seen")
    affinity_for_deals: Parameter = Parameter(0.28, "assumed", "per unit of deal affinity where there is a discount")
    suspicion_of_deals: Parameter = Parameter(-0.22, "assumed", "where there is a discount: what is cheap looks worse")
    perk: Parameter = Parameter(0.18, "assumed", "where something is included")
    no_offer: Parameter = Parameter(-0.60, "assumed", "where nothing is shown")
    word_of_mouth: Parameter = Parameter(
        0.25, "assumed", "at full adoption; a given curve over days, not made by the cohort itself"
    )
    adoption_days: Parameter = Parameter(20.0, "assumed", "time scale of that curve")
    delay_mean_log_days: Parameter = Parameter(0.2, "assumed", "mean log of the delay of signing, in days, floored")
    delay_spread_log_days: Parameter = Parameter(1.0, "assumed", "its spread")
    leave_base: Parameter = Parameter(-2.25, "assumed", "probit of leaving on a day without habit")
    habit_per_week: Parameter = Parameter(0.10, "assumed", "what each week of use takes off it")
    match_keeps: Parameter = Parameter(0.22, "assumed", "what a car of the right class takes off it")
    perk_keeps: Parameter = Parameter(0.15, "assumed", "what an included service takes off it")
    discount_end_shock: Parameter = Parameter(
        1.10, "assumed", "added on the three days when a full discount would end, for a bargain hunter"
    )
    discount_end_day: Parameter = Parameter(
        21.0, "assumed", "day of the contract on which the customer is told of the full price"
    )
    care_keeps: Parameter = Parameter(0.20, "assumed", "what a loyalty offer taken takes off it for two weeks")

    def values(self) -> dict[str, float]:
        """Plain numbers by name."""
        return {f.name: getattr(self, f.name).value for f in fields(self)}

    def with_values(self, **values: float) -> Self:
        """Return a copy with other values; the reason says that they were drawn.

        Raises
        ------
        UnknownNameError
            If there is no such parameter.
        """
        known = [f.name for f in fields(self)]
        for name in values:
            if name not in known:
                raise UnknownNameError("parameter of the habit family", name, known)
        return replace(self, **{n: Parameter(v, "assumed", "drawn for a sealed world") for n, v in values.items()})

    def null(self) -> Self:
        """Offers make no difference to what visitors do."""
        zero = (
            "class_match", "class_mismatch", "gain_per_100_eur", "loss_per_100_eur", "affinity_for_deals",
            "suspicion_of_deals", "perk", "no_offer", "match_keeps", "perk_keeps", "discount_end_shock", "care_keeps",
        )  # fmt: skip
        return replace(self, **{n: Parameter(0.0, "assumed", "null world: offers make no difference") for n in zero})


@dataclass(frozen=True, slots=True)
class HabitScenario:
    """The same offers, rules and people under the habit laws."""

    name: str = "habit"
    parameters: HabitParameters = field(default_factory=HabitParameters)
    population: Population = field(default_factory=Population.synthetic)
    offers: OfferSet = OFFERS
    rules: tuple[EligibilityRule, ...] = RULES
    margin_contrast: float = 1.0
    usual_price_eur: Mapping[str, float] | None = None

    def repriced(self, prices_eur: Mapping[str, float]) -> Self:
        """The same market with other list prices: what visitors remember when they come stays as it is.

        Raises
        ------
        UnknownNameError
            If there is no such offer.
        """
        usual = self.usual_price_eur or usual_prices(self.offers)
        return replace(self, offers=with_prices(self.offers, prices_eur), usual_price_eur=usual)

    def null(self) -> Self:
        """The same site where offers make no difference, margins included."""
        return replace(self, name=f"{self.name}-null", parameters=self.parameters.null(), margin_contrast=0.0)

    def person_of(self, ids: IntArray, *, seed: int) -> IntArray:
        """Row of the population behind each id, shape ``(n,)``; nothing a site or policy could know."""
        place = uniforms(seed + _OWN_STREAM, ids, Purpose.TRAITS, 0) * len(self.population)
        return np.asarray(place.astype(np.int64), dtype=np.int64)

    def open(self, *, n_subjects: int, visit_days: int, seed: int, first_subject: int = 0) -> HabitSite:
        """A cohort of visitors of this site."""
        return HabitSite(self, n_subjects=n_subjects, visit_days=visit_days, seed=seed, first_subject=first_subject)


# A world of either family.
AnyWorld = Scenario | HabitScenario

# Streams of this family are its own: the same seed gives other people than in the first family.
_OWN_STREAM = 7_919


class HabitSite:
    """A cohort living under the habit laws day by day; same interface as ``LiveSite``."""

    def __init__(
        self, scenario: HabitScenario, *, n_subjects: int, visit_days: int, seed: int, first_subject: int = 0
    ) -> None:
        self.scenario, self.seed, self.visit_days, self._p = scenario, seed, visit_days, scenario.parameters.values()
        self._read_offers()
        n, p = n_subjects, self._p
        self.ids = np.arange(first_subject, first_subject + n, dtype=np.int64)
        self.names = np.char.add("v", np.char.zfill(self.ids.astype(np.str_), 8)).astype(np.str_)
        self.person = scenario.person_of(self.ids, seed=seed)
        self.after_class = (self._uniform(Purpose.TASTE, 0) * len(CAR_CLASSES)).astype(np.int64)
        other = (self.after_class + 1 + (self._uniform(Purpose.TASTE, 1) < 0.5)) % len(CAR_CLASSES)
        is_honest = self._uniform(Purpose.TASTE, 2) < p["search_honesty"]
        self.searched_class = np.where(is_honest, self.after_class, other)
        self.device = device_of(self._uniform(Purpose.TRAITS, 5))
        self.channel = channel_of(self._uniform(Purpose.TRAITS, 6))
        self.arrival_day = (self._uniform(Purpose.ARRIVAL, 0) * visit_days).astype(np.int64)
        self.next_visit = self.arrival_day.copy()
        self.last_visit = np.full(n, -1, dtype=np.int64)
        self.n_visits = np.zeros(n, dtype=np.int64)
        self.stage = np.zeros(n, dtype=np.int64)
        # Everyone remembers the list price of each class; what is seen moves it.
        self.remembered = np.repeat(self._list_price[None, :], n, axis=0)
        self.signing_day = np.full(n, -1, dtype=np.int64)
        self.signed_day = np.full(n, -1, dtype=np.int64)
        self.signed_offer = np.full(n, -1, dtype=np.int64)
        self.cancelled_day = np.full(n, -1, dtype=np.int64)
        self.cared_until = np.full(n, -1, dtype=np.int64)
        self.margin_eur = np.zeros(n, dtype=np.float64)
        self.is_kept = np.zeros(n, dtype=np.bool_)

    def _uniform(self, purpose: Purpose, counter: int) -> FloatArray:
        return uniforms(self.seed + _OWN_STREAM, self.ids, purpose, counter)

    def _read_offers(self) -> None:
        features = [o.features for o in self.scenario.offers]

        def numbers(name: str) -> FloatArray:
            return np.asarray([float(f[name] or 0.0) for f in features], dtype=np.float64)

        cars = [str(f["car_class"]) for f in features]
        self._car = np.asarray([CAR_CLASSES.index(c) if c in CAR_CLASSES else -1 for c in cars], dtype=np.int64)
        self._discount = numbers("discount_pct") / 100.0
        self._effective = numbers("monthly_price_eur") * (1.0 - self._discount)
        self._perk = numbers("perk")
        self._is_loyalty = np.asarray([f["family"] == "loyalty" for f in features], dtype=np.bool_)
        self._is_nothing = np.asarray([f["family"] == "none" for f in features], dtype=np.bool_)
        margin, contract = numbers("margin_eur"), self._car >= 0
        mean = np.where(contract, margin[contract].mean(), 0.0)
        self._margin = mean + self.scenario.margin_contrast * (margin - mean)
        usual = self.scenario.usual_price_eur or usual_prices(self.scenario.offers)
        self._list_price = np.asarray([usual[car] for car in CAR_CLASSES])

    def visits(self, day: int) -> Visits:
        """Who visits on a day, and what the site knows of each."""
        rows = np.flatnonzero(self.next_visit == day)
        days = np.full(len(rows), day, dtype=np.int64)
        people, offers = self.scenario.population, self.scenario.offers
        columns = known_columns(
            self,
            people,
            rows,
            days,
            stage=np.asarray(STAGES, dtype=np.str_)[self.stage[rows]],
            searched_class=np.asarray(CAR_CLASSES, dtype=np.str_)[self.searched_class[rows]],
            has_car=self.stage[rows] == _SUBSCRIBER,
        )
        may = eligible_mask(self.scenario.rules, offers, columns, n=len(rows))
        table = decision_table(self, people, rows, days, offers=offers, columns=columns, eligible=may)
        return Visits(rows, days, self.n_visits[rows].copy(), table)

    def appeal(self, rows: IntArray, day: IntArray, chosen: IntArray) -> FloatArray:
        """What an offer adds to the probit index of visitors on a day, shape ``(n,)``."""
        p, car = self._p, self._car[chosen]
        is_contract = car >= 0
        match = np.where(car == self.after_class[rows], p["class_match"], p["class_mismatch"])
        below = (self.remembered[rows, car] - self._effective[chosen]) / 100.0
        price = np.where(below > 0, p["gain_per_100_eur"] * below, p["loss_per_100_eur"] * below)
        affinity = self.scenario.population.deal_affinity[self.person[rows]]
        deal = (self._discount[chosen] > 0) * (p["suspicion_of_deals"] + p["affinity_for_deals"] * affinity)
        told = p["word_of_mouth"] * (1.0 - np.exp(-day / p["adoption_days"]))
        idle = np.where(self.last_visit[rows] < 0, 0, day - self.last_visit[rows])
        rhythm = p["frequency_gain"] * np.log2(1.0 + self.n_visits[rows]) - p["recency_loss"] * idle
        offer = np.where(is_contract, match + price + deal, 0.0) + p["perk"] * self._perk[chosen]
        return np.asarray(offer + told + rhythm + p["no_offer"] * self._is_nothing[chosen], dtype=np.float64)

    def respond(self, visits: Visits, chosen: IntArray) -> Responses:
        """Let visitors answer to what each was shown."""
        p, rows, day, count = self._p, visits.rows, visits.day, visits.visit_number
        ids = self.ids[rows]

        def luck(purpose: Purpose, offset: int = 0) -> FloatArray:
            return uniforms(self.seed + _OWN_STREAM, ids, purpose, count + offset)

        index = self.appeal(rows, day, chosen)
        clicked = luck(Purpose.CLICK) < ndtr(p["click_base"] + index)
        may_sign = clicked & (self.stage[rows] == _VISITOR) & (self.signing_day[rows] < 0)
        signs = may_sign & (luck(Purpose.CONVERT) < ndtr(p["sign_base"] + index))
        log_delay = p["delay_mean_log_days"] + p["delay_spread_log_days"] * normals(
            self.seed + _OWN_STREAM, ids, Purpose.DELAY, count
        )
        delay = np.minimum(np.floor(np.exp(log_delay)), _MAX_DELAY_DAYS).astype(np.int64)
        self.signing_day[rows[signs]] = (day + delay)[signs]
        fallback = int(np.flatnonzero(self._car >= 0)[0])
        self.signed_offer[rows[signs]] = np.where(self._car[chosen] >= 0, chosen, fallback)[signs]
        cared = clicked & self._is_loyalty[chosen]
        self.cared_until[rows[cared]] = day[cared] + CARE_DAYS
        counts = cared & ~self.is_kept[rows]  # what a visitor is worth is final when keeping is known
        self.margin_eur[rows[counts]] += self._margin[chosen[counts]]
        seen = np.flatnonzero(self._car[chosen] >= 0)
        at = (rows[seen], self._car[chosen[seen]])
        self.remembered[at] = p["memory"] * self.remembered[at] + (1 - p["memory"]) * self._effective[chosen[seen]]
        self.last_visit[rows] = day
        self.n_visits[rows] += 1
        pace = self.scenario.population.pace[self.person[rows]]
        is_pause = luck(Purpose.RETURN) < p["pause_share"] / pace
        mean_gap = np.where(is_pause, p["pause_gap_days"], p["burst_gap_days"])
        gap = 1 + np.floor(-np.log(luck(Purpose.RETURN, 100_000)) * (mean_gap - 0.5)).astype(np.int64)
        is_subscriber = self.stage[rows] == _SUBSCRIBER
        upcoming = np.where(signs, day + delay + 9 + gap, day + np.where(is_subscriber, 9 + gap, gap))
        drops = luck(Purpose.RETURN, 200_000) < p["drop_out"]
        is_gone = ~is_subscriber & ~signs & (drops | (upcoming >= self.arrival_day[rows] + _MARKET_DAYS))
        self.next_visit[rows] = np.where(is_gone, -1, upcoming)
        assert visits.table.at is not None
        return Responses(clicked, visits.table.at)

    def end_of_day(self, day: int) -> DayFacts:
        """Contracts due today, cancellations, and who is still there 30 days after signing."""
        p = self._p
        signed = np.flatnonzero(self.signing_day == day)
        self.stage[signed], self.signed_day[signed], self.signing_day[signed] = _SUBSCRIBER, day, -1
        margin = self._margin[self.signed_offer[signed]]
        self.margin_eur[signed] += margin
        active = np.flatnonzero((self.stage == _SUBSCRIBER) & (self.signed_day < day))
        offer, tenure = self.signed_offer[active], day - self.signed_day[active]
        affinity = self.scenario.population.deal_affinity[self.person[active]]
        is_told = np.abs(tenure - p["discount_end_day"]) <= 1
        index = (
            p["leave_base"]
            - p["habit_per_week"] * tenure / 7.0
            - p["match_keeps"] * (self._car[offer] == self.after_class[active])
            - p["perk_keeps"] * self._perk[offer]
            - p["care_keeps"] * (self.cared_until[active] >= day)
            + p["discount_end_shock"] * is_told * self._discount[offer] * 4.0 * ndtr(affinity)
        )
        coin = uniforms(self.seed + _OWN_STREAM, self.ids[active], Purpose.CANCEL, np.asarray(tenure, dtype=np.int64))
        leaves = active[coin < ndtr(index)]
        self.stage[leaves], self.cancelled_day[leaves], self.next_visit[leaves] = _LAPSED, day, -1
        kept = np.flatnonzero((self.stage == _SUBSCRIBER) & (self.signed_day == day - KEPT_AFTER_DAYS))
        self.is_kept[kept] = True
        return DayFacts(signed, margin, leaves, kept)
