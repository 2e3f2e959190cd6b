"""The site day by day: who visits, how they answer to what they are shown, what becomes of them.

One form serves rollouts (thousands of visits at once, in memory) and real traffic over HTTP (the same
visits, one request each): a subject's fate depends on the seed and on what it was shown, and on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.eligibility import eligible_mask
from policies.records import DecisionTable, FloatArray, IntArray, OfferSet
from simulator import world
from simulator.population import Population
from simulator.scenarios.car_subscription import CAR_CLASSES, FAMILIES, Scenario
from simulator.streams import Purpose, subject_keys, uniforms, unit, words

DAY = np.timedelta64(1, "D")
START = np.datetime64("2026-03-02T00:00:00", "us")
_LOYALTY = FAMILIES.index("loyalty")


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """Visits that are being decided on.

    Attributes
    ----------
    rows
        Position of each visiting subject among all, shape ``(n,)``.
    day
        Day of each visit, shape ``(n,)``.
    visit_number
        How many visits the subject had before, shape ``(n,)``: with the subject it identifies the decision.
    table
        What the site knows before it chooses, n rows.
    """

    rows: IntArray
    day: IntArray
    visit_number: IntArray
    table: DecisionTable

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Responses:
    """What the visitors of one day did at once, each of shape ``(n,)``."""

    clicked: NDArray[np.bool_]
    at: NDArray[np.datetime64]


@dataclass(frozen=True, slots=True, eq=False)
class DayFacts:
    """What became known of subjects at the end of a day (billing speaks of customers, not of decisions).

    Attributes
    ----------
    subscribed, cancelled, kept
        Rows of the subjects who signed, left, or were still active ``world.KEPT_AFTER_DAYS`` days after signing.
    margin_eur
        First month's contribution of each new contract, shape of ``subscribed``.
    """

    subscribed: IntArray
    margin_eur: FloatArray
    cancelled: IntArray
    kept: IntArray


class Site(Protocol):
    """A cohort of visitors living through days, whatever the laws.

    ``margin_eur`` is what each visitor brought until it was known whether the contract was kept; nothing after that changes it.
    """

    ids: IntArray
    arrival_day: IntArray
    n_visits: IntArray
    margin_eur: FloatArray
    is_kept: NDArray[np.bool_]

    def visits(self, day: int) -> Visits:
        """Who visits on a day, and what the site knows of each."""
        ...

    def respond(self, visits: Visits, chosen: IntArray) -> Responses:
        """Let visitors answer to what each was shown."""
        ...

    def end_of_day(self, day: int) -> DayFacts:
        """What became known at the end of a day; called once for each day, in order."""
        ...


class World(Protocol):
    """A site that can be opened again and again with other visitors: what rollouts take."""

    @property
    def name(self) -> str:
        """Name for reports."""
        ...

    @property
    def offers(self) -> OfferSet:
        """What may be shown."""
        ...

    def open(self, *, n_subjects: int, visit_days: int, seed: int, first_subject: int = 0) -> Site:
        """A cohort of visitors."""
        ...


class Cohort(Protocol):
    """What the site knows of its visitors, whatever the laws: both families keep it under these names."""

    seed: int
    ids: IntArray
    names: NDArray[np.str_]
    person: IntArray
    device: NDArray[np.str_]
    channel: NDArray[np.str_]
    n_visits: IntArray
    last_visit: IntArray
    signed_day: IntArray


def known_columns(
    cohort: Cohort,
    people: Population,
    rows: IntArray,
    day: IntArray,
    *,
    stage: NDArray[np.str_],
    searched_class: NDArray[np.str_],
    has_car: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """Columns of a decision that every site shows to policies, each of shape ``(n,)``.

    Parameters
    ----------
    stage, searched_class, has_car
        Of the visiting rows: how the stage is called, what was searched for, and whether there is a contract.
    """
    person = cohort.person[rows]
    since = np.where(cohort.last_visit[rows] < 0, np.nan, day - cohort.last_visit[rows])
    tenure = np.where(has_car, day - cohort.signed_day[rows], np.nan)
    return {
        "stage": stage,
        "searched_class": searched_class,
        "device": cohort.device[rows],
        "channel": cohort.channel[rows],
        "n_visits": cohort.n_visits[rows].astype(np.float64),
        "days_since_last_visit": since.astype(np.float64),
        "tenure_days": tenure.astype(np.float64),
        **{name: column[person] for name, column in people.columns.items()},
    }


def decision_table(
    cohort: Cohort,
    people: Population,
    rows: IntArray,
    day: IntArray,
    *,
    offers: OfferSet,
    columns: dict[str, NDArray[Any]],
    eligible: NDArray[np.bool_],
) -> DecisionTable:
    """The decisions of visits, each at its second of the day."""
    seconds = (uniforms(cohort.seed, cohort.ids[rows], Purpose.TIME_OF_DAY, day) * 86_000).astype(np.int64)
    return DecisionTable(
        offers=offers,
        eligible=eligible,
        columns=columns,
        vectors={name: block[cohort.person[rows]] for name, block in people.vectors.items()},
        subjects=cohort.names[rows],
        at=START + day.astype("timedelta64[D]") + seconds.astype("timedelta64[s]"),
    )


class LiveSite:
    """A cohort of visitors living through days under the first family of laws, in their plain form (``kernel`` is the fast one).

    Parameters
    ----------
    n_subjects
        Size of the cohort.
    visit_days
        Visitors arrive uniformly over these days.
    seed
        Of everything that happens.
    first_subject
        Id of the first one: cohorts with disjoint ids are independent parts of one big cohort.
    """

    def __init__(
        self, scenario: Scenario, *, n_subjects: int, visit_days: int, seed: int, first_subject: int = 0
    ) -> None:
        self.scenario, self.seed, self.visit_days = scenario, seed, visit_days
        self.parameters = scenario.parameters.values()
        self.offers = world.OfferNumbers.of(scenario)
        self._is_on_trial = self.parameters["trial_days"] > 0
        calendar = scenario.calendar
        self._by_day = None if calendar is None else calendar.log_odds(scenario.offers)
        self._is_offered = None if calendar is None else calendar.is_offered(scenario.offers)
        self._view_limits = None if calendar is None else calendar.view_limits(scenario.offers)
        self._populate(np.arange(first_subject, first_subject + n_subjects, dtype=np.int64))

    def _populate(self, ids: IntArray) -> None:
        scenario, seed, n = self.scenario, self.seed, len(ids)
        self.ids, self._keys = ids, subject_keys(seed, ids)
        self.subjects = world.Subjects.draw(scenario, self.ids, seed=seed)
        self.person, self.device, self.channel = self.subjects.person, self.subjects.device, self.subjects.channel
        self.names = np.char.add("v", np.char.zfill(self.ids.astype(np.str_), 8)).astype(np.str_)
        self.arrival_day = (uniforms(seed, self.ids, Purpose.ARRIVAL, 0) * self.visit_days).astype(np.int64)
        self.next_visit = self.arrival_day.copy()
        self.last_visit = np.full(n, -1, dtype=np.int64)
        self.n_visits = np.zeros(n, dtype=np.int64)
        self.stage = np.where(self.subjects.is_lapsed, world.LAPSED, world.VISITOR)
        self.fatigue = np.zeros((n, len(FAMILIES)), dtype=np.float64)
        self.views = np.zeros((n if self._view_limits is not None else 0, len(scenario.offers)), dtype=np.int64)
        self.discounts_seen = np.zeros(n, dtype=np.int64)
        self.dependence_at_signing = np.zeros(n, dtype=np.float64)
        self.fatigue_at_signing = np.zeros(n, dtype=np.float64)
        self.signing_day = np.full(n, -1, dtype=np.int64)
        self.signing_offer = np.full(n, -1, dtype=np.int64)
        self.signed_day = np.full(n, -1, dtype=np.int64)
        self.signed_offer = np.full(n, -1, dtype=np.int64)
        self.cancelled_day = np.full(n, -1, dtype=np.int64)
        self.cared_until = np.full(n, -1, dtype=np.int64)
        # A subject leaves on the day its summed hazard passes a budget drawn once: the same law as a coin a day, in closed
        # form over any number of days, and luck that two policies share.
        self.budget = -np.log(uniforms(seed, self.ids, Purpose.CANCEL, 0))
        self.exposure = np.zeros(n, dtype=np.float64)
        self.margin_eur = np.zeros(n, dtype=np.float64)
        self.is_kept = np.zeros(n, dtype=np.bool_)

    def visits(self, day: int) -> Visits:
        """Who visits on a day, and what the site knows of each."""
        rows = np.flatnonzero(self.next_visit == day)
        days = np.full(len(rows), day, dtype=np.int64)
        people = self.scenario.population
        columns = known_columns(
            self,
            people,
            rows,
            days,
            stage=np.asarray(world.STAGES, dtype=np.str_)[self._stage_shown(rows, days)],
            searched_class=np.asarray(CAR_CLASSES, dtype=np.str_)[self.subjects.searched_class[rows]],
            has_car=self.stage[rows] == world.SUBSCRIBER,
        )
        if self.scenario.shows_history:
            columns["discounts_seen"] = self.discounts_seen[rows].astype(np.float64)
            columns["days_since_first_visit"] = (day - self.arrival_day[rows]).astype(np.float64)
        table = decision_table(
            self,
            people,
            rows,
            days,
            offers=self.scenario.offers,
            columns=columns,
            eligible=self._eligible(rows, day, columns),
        )
        return Visits(rows, days, self.n_visits[rows].copy(), table)

    def _stage_shown(self, rows: IntArray, day: IntArray) -> IntArray:
        if not self._is_on_trial:
            return self.stage[rows]
        is_young = day < self.signed_day[rows] + self.parameters["trial_days"]
        is_trial = (self.stage[rows] == world.SUBSCRIBER) & is_young
        return np.where(is_trial, world.TRIAL, self.stage[rows])

    def _eligible(self, rows: IntArray, day: int, columns: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
        out = eligible_mask(self.scenario.rules, self.scenario.offers, columns, n=len(rows))
        if self._is_offered is not None:
            out = out & self._is_offered[min(day, len(self._is_offered) - 1)]
        if self._view_limits is not None:
            out = out & (self.views[rows] < self._view_limits)
        return out

    def respond(self, visits: Visits, chosen: IntArray) -> Responses:
        """Let visitors answer to what each was shown."""
        rows, day, p = visits.rows, visits.day, self.parameters
        keys = self._keys[rows]
        family = self.offers.family[chosen]

        def luck(purpose: Purpose, of: NDArray[np.bool_] | slice = slice(None)) -> FloatArray:
            return unit(words(keys[of], purpose, visits.visit_number[of]))

        idle = np.where(self.last_visit[rows] < 0, 0, day - self.last_visit[rows])
        self.fatigue[rows] *= p["fatigue_decay_per_day"] ** idle[:, None]
        dependence = np.minimum(self.discounts_seen[rows], world.MAX_DEPENDENCE).astype(np.float64)
        log_odds = world.appeal(
            p,
            self.subjects,
            rows,
            self.offers,
            chosen,
            self.fatigue[rows, family],
            dependence,
            world.engagement(visits.visit_number),
        )
        if self._by_day is not None:
            log_odds = log_odds + self._by_day[np.minimum(day, len(self._by_day) - 1), chosen]
        clicked = luck(Purpose.CLICK) < world.click_probability(p, log_odds)
        may_sign = clicked & (self.stage[rows] != world.SUBSCRIBER) & (self.signing_day[rows] < 0)
        signs = may_sign & (luck(Purpose.CONVERT) < world.contract_probability(p, log_odds))
        delay = np.zeros(len(rows), dtype=np.int64)
        delay[signs] = world.signing_delay_days(p, luck(Purpose.DELAY, signs))
        self.signing_day[rows[signs]] = (day + delay)[signs]
        self.signing_offer[rows[signs]] = chosen[signs]
        cared = clicked & (family == _LOYALTY)
        self.cared_until[rows[cared]] = day[cared] + world.CARE_DAYS
        self._charge(rows[cared], self.offers.margin[chosen[cared]])
        self.fatigue[rows, family] += 1.0
        if self._view_limits is not None:
            self.views[rows, chosen] += 1
        self.discounts_seen[rows] += self.offers.is_discounted[chosen]
        signers = rows[signs]
        self.dependence_at_signing[signers] = np.minimum(self.discounts_seen[signers], world.MAX_DEPENDENCE)
        self.fatigue_at_signing[signers] = self.fatigue[signers, 1:].sum(axis=1)
        self.last_visit[rows] = day
        self.n_visits[rows] += 1
        gap = world.next_gap_days(self.subjects.return_rate[rows], luck(Purpose.RETURN))
        # Someone who has decided does not browse until the contract is signed, and then comes back now and then;
        # someone who has not decided within the market window bought elsewhere or not at all.
        first_gap = world.TRIAL_GAP_DAYS if self._is_on_trial else world.SUBSCRIBER_GAP_DAYS
        upcoming = np.where(signs, day + delay + np.maximum(gap, first_gap), day + gap)
        is_subscriber = self.stage[rows] == world.SUBSCRIBER
        is_trial = self._stage_shown(rows, day) == world.TRIAL
        least = np.where(is_trial, world.TRIAL_GAP_DAYS, world.SUBSCRIBER_GAP_DAYS)
        upcoming = np.where(is_subscriber, day + np.maximum(gap, least), upcoming)
        is_gone = ~is_subscriber & ~signs & (upcoming >= self.arrival_day[rows] + world.MARKET_DAYS)
        self.next_visit[rows] = np.where(is_gone, -1, upcoming)
        assert visits.table.at is not None
        return Responses(clicked, visits.table.at)

    def _charge(self, rows: IntArray, margin: FloatArray) -> None:
        """Loyalty offers taken in the month that counts: what a visitor is worth is final when keeping is known."""
        counts = ~self.is_kept[rows]
        self.margin_eur[rows[counts]] += margin[counts]

    def end_of_day(self, day: int) -> DayFacts:
        """Contracts due today, cancellations, and who is still there 30 days after signing."""
        signed = np.flatnonzero(self.signing_day == day)
        # A click without a car is a look through the catalogue, which leads to the plain first car in it.
        offer = self.signing_offer[signed]
        fallback = int(np.flatnonzero(self.offers.is_contract)[0])
        offer = np.where(self.offers.is_contract[offer], offer, fallback)
        self.stage[signed] = world.SUBSCRIBER
        self.signed_day[signed], self.signed_offer[signed] = day, offer
        self.signing_day[signed] = -1
        margin = self.offers.margin[offer]
        self.margin_eur[signed] += margin
        active = np.flatnonzero((self.stage == world.SUBSCRIBER) & (self.signed_day < day))
        self.exposure[active] -= np.log1p(-self._hazard(active, day, "cancel_per_day"))
        if self._is_on_trial:
            ending = active[self.signed_day[active] + self.parameters["trial_days"] == day]
            self.exposure[ending] -= np.log1p(-self._hazard(ending, day, "trial_leave"))
        leaves = active[self.exposure[active] >= self.budget[active]]
        self.stage[leaves] = world.LAPSED
        self.cancelled_day[leaves] = day
        self.next_visit[leaves] = -1  # who leaves comes back, if ever, after the 30 days that are simulated
        is_old = (self.signed_day >= 0) & (self.signed_day == day - world.KEPT_AFTER_DAYS)
        kept = np.flatnonzero((self.stage == world.SUBSCRIBER) & is_old)
        self.is_kept[kept] = True
        return DayFacts(signed, margin, leaves, kept)

    def _hazard(self, rows: IntArray, day: int, base: str) -> FloatArray:
        return world.cancel_hazard(
            self.parameters,
            self.subjects,
            rows,
            self.offers,
            self.signed_offer[rows],
            self.cared_until[rows] >= day,
            self.dependence_at_signing[rows],
            self.fatigue_at_signing[rows],
            base,
        )
