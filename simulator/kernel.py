"""The laws of the site compiled for speed: many visitors side by side, one visit each a step, float32 arrays inside.

The same laws and the same random streams as ``LiveSite``, which stays the plain form: a test lives the same visitors
through both. Hazards between two visits are summed in closed form instead of day by day, what changes rarely is written
only where it changes, and observations are kept in one buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.eligibility import eligible_mask
from policies.features import FeatureSpace, Numeric
from policies.records import BoolArray, IntArray
from simulator import world
from simulator.scenarios.car_subscription import CAR_CLASSES, FAMILIES, Scenario
from simulator.streams import COUNTER_STEP, Purpose, many_words, normal, offsets, subject_keys, unit, unit32, words
from simulator.world import CARE_DAYS, CHANNELS, DEVICES, KEPT_AFTER_DAYS, MOBILE_SHARE

_LOYALTY = FAMILIES.index("loyalty")
# Numbers that change from visit to visit, and what each is at the first one.
_FIRST_SEEN = {
    "n_visits": 0.0,
    "days_since_last_visit": np.nan,
    "tenure_days": np.nan,
    "discounts_seen": 0.0,
    "days_since_first_visit": 0.0,
}

# Streams of what a person begins with: signs and tastes by class, sensitivity to price and pace (normals), then who it is, device,
# channel, what a subscription survives, and day of arrival.
_FIRST_NUMBERS = offsets(
    *((Purpose.TASTE, c) for c in range(len(CAR_CLASSES))),
    *((Purpose.TASTE, 10 + c) for c in range(len(CAR_CLASSES))),
    (Purpose.TRAITS, 1),
    (Purpose.RETURN, 1_000_000),
    (Purpose.TRAITS, 0),
    (Purpose.TRAITS, 5),
    (Purpose.TRAITS, 6),
    (Purpose.CANCEL, 0),
    (Purpose.ARRIVAL, 0),
)
_N_NORMALS = 2 * len(CAR_CLASSES) + 2

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


def supports(scenario: Scenario) -> bool:
    """Whether eligibility depends on the stage alone, so that it is a small table."""
    return all(condition.feature == "stage" for rule in scenario.rules for condition in rule.requires)


@dataclass(frozen=True, slots=True, eq=False)
class StepParts:
    """What one step brought, each of shape ``(n,)``; ``discount_cost_eur`` is what a month of the contract signed costs below list."""

    shown: IntArray
    clicked: Floats
    subscribed: Floats
    kept_30d: Floats
    margin_eur: Floats
    discount_cost_eur: Floats
    is_over: BoolArray


class VisitKernel:
    """Visitors side by side; ``observation`` holds what the site knows of each at its present visit.

    Parameters
    ----------
    scenario
        A site for which ``supports`` holds.
    space
        Feature space of observations: ``observation`` equals ``concat(mask, space.encode_contexts(table))``.
    n
        Number of slots.
    seed
        Of everything that happens.
    visit_days
        Visitors arrive uniformly over these days of the calendar; without a calendar the date means nothing.
    end_day
        Day of the calendar from which on nothing is seen any more: contracts due then or later are not signed yet, and who is still
        there the day before is neither kept nor gone.
    """

    def __init__(
        self,
        scenario: Scenario,
        space: FeatureSpace,
        *,
        n: int,
        seed: int,
        visit_days: int = 1,
        end_day: int | None = None,
    ) -> None:
        self.scenario, self.seed, self.n, self.visit_days, self.end_day = scenario, seed, n, visit_days, end_day
        self._compile_offers()
        self._compile_observations(space)
        self._compile_calendar()
        k = len(scenario.offers)
        self._rows = np.arange(n, dtype=np.int64)
        self._flat = self._rows * k
        self.ids = np.zeros(n, dtype=np.int64)
        self._keys = np.zeros(n, dtype=np.uint64)  # advanced by one counter step with each visit
        self.person = np.zeros(n, dtype=np.int64)
        self._taste = np.zeros((len(CAR_CLASSES), n), dtype=np.float32)
        self._appeal = np.zeros((n, k), dtype=np.float32)
        self._per_log = np.zeros(n, dtype=np.float32)
        self._budget = np.zeros(n, dtype=np.float32)
        self._fatigue = np.zeros((len(FAMILIES), n), dtype=np.float32)
        self.day = np.zeros(n, dtype=np.int32)
        self._last_day = np.zeros(n, dtype=np.int32)
        self.n_visits = np.zeros(n, dtype=np.int32)
        self.stage = np.zeros(n, dtype=np.int8)
        self.signed_day = np.zeros(n, dtype=np.int32)
        self.signed_offer = np.zeros(n, dtype=np.int64)
        self._cared_until = np.zeros(n, dtype=np.int32)
        self._discounts_seen = np.zeros(n, dtype=np.int32)
        self._exposure = np.zeros(n, dtype=np.float32)
        self._hazard = np.zeros((2, n), dtype=np.float32)
        self._trial_end_hazard = np.zeros((2, n), dtype=np.float32)
        self._arrival = np.zeros(n, dtype=np.int32)
        self._views = np.zeros((len(self._limited), n), dtype=np.int32)
        self._rule = np.zeros(n, dtype=np.int64)
        self._eligible = np.ones((n if self._is_mask_moving else 0, k), dtype=np.bool_)
        self.observation = np.zeros((n, self._width), dtype=np.float32)

    def _compile_offers(self) -> None:
        p = self._p = self.scenario.parameters.values()
        o = self._offers = world.OfferNumbers.of(self.scenario)
        contract = o.is_contract.astype(np.float64)
        effective = o.price * (1.0 - o.discount)
        self._per_sensitivity = (-contract * (effective - o.reference) / 100.0).astype(np.float32)
        self._per_affinity = (p["deal_affinity_weight"] * o.discount).astype(np.float32)
        self._constant = (
            p["discount_appeal"] * o.discount
            + p["perk_appeal"] * o.perk
            - p["term_dislike"] * o.term
            + np.where(o.family == 0, p["no_offer_penalty"], 0.0)
        ).astype(np.float32)
        self._tires = np.where(o.family == 0, 0.0, p["fatigue_per_view"]).astype(np.float32)
        self._decay = (p["fatigue_decay_per_day"] ** np.arange(64)).astype(np.float32)
        self._family_at = o.family * self.n
        self._margin = o.margin.astype(np.float32)
        self._discount_cost = (o.price * o.discount).astype(np.float32)
        self._log_hazard = (
            p["cancel_per_discount"] * o.discount + p["cancel_per_term"] * o.term + p["cancel_per_perk"] * o.perk
        ).astype(np.float32)
        # What a world leaves at zero costs nothing here.
        self._is_history_kept = self.scenario.shows_history or bool(
            p["appeal_per_dependence"] or p["discount_wear"] or p["cancel_per_dependence"]
        )
        by_visits = p["engagement_gain"] * world.engagement(np.arange(256))
        self._by_visits: Floats | None = by_visits.astype(np.float32) if p["engagement_gain"] else None
        spoils = p["appeal_per_dependence"] * o.is_list_price + p["discount_wear"] * o.is_discounted
        self._spoils = spoils.astype(np.float32)
        self._is_discounted = o.is_discounted.astype(np.int32)
        self._contracts = np.flatnonzero(o.is_contract)
        self._first_contract = int(self._contracts[0])

    def _compile_calendar(self) -> None:
        """Tables of the calendar, None where it changes nothing."""
        calendar, offers = self.scenario.calendar, self.scenario.offers
        self._by_day: Floats | None = None
        self._limited: list[tuple[int, int]] = []
        self._is_mask_moving = False
        if calendar is not None:
            by_day, is_offered = calendar.log_odds(offers), calendar.is_offered(offers)
            self._by_day = by_day.astype(np.float32) if by_day.any() else None
            limits = calendar.view_limits(offers)
            self._limited = [] if limits is None else [(a, int(v)) for a, v in enumerate(limits) if np.isfinite(v)]
            # Few days differ in what is offered: a row's mask changes only where its stage or its pattern does.
            patterns, self._pattern = np.unique(is_offered, axis=0, return_inverse=True)
            self._pattern = self._pattern.ravel() * len(self._mask)
            self._masks = (patterns[:, None, :] & self._mask[None, :, :]).reshape(-1, len(offers))
            self._is_mask_moving = not is_offered.all() or bool(self._limited)
        self._trial_days = int(self._p["trial_days"])
        self._least_gap = np.full(len(world.STAGES), world.SUBSCRIBER_GAP_DAYS, dtype=np.int32)
        self._least_gap[world.TRIAL] = world.TRIAL_GAP_DAYS

    def _compile_observations(self, space: FeatureSpace) -> None:
        people, k = self.scenario.population, len(self.scenario.offers)
        stages = np.asarray(world.STAGES, dtype=np.str_)
        self._mask = eligible_mask(self.scenario.rules, self.scenario.offers, {"stage": stages}, n=len(stages))
        self._fallback = np.argmax(self._mask, axis=1)
        self._allowed = self._mask.ravel()
        self._width = k + space.context_width
        m, n_combos = len(people), len(CAR_CLASSES) * len(DEVICES) * len(CHANNELS)
        combo = np.arange(n_combos)
        drawn = {
            "searched_class": np.asarray(CAR_CLASSES)[combo // (len(DEVICES) * len(CHANNELS))],
            "device": np.asarray(DEVICES)[combo // len(CHANNELS) % len(DEVICES)],
            "channel": np.asarray(CHANNELS)[combo % len(CHANNELS)],
        }
        self._person_rows = np.zeros((m, self._width), dtype=np.float32)
        self._combo_rows = np.zeros((n_combos, self._width), dtype=np.float32)
        self._stage_rows = np.zeros((len(stages), self._width), dtype=np.float32)
        self._stage_rows[:, :k] = self._mask
        self._numbers: dict[str, tuple[int, Numeric]] = {}
        stage_columns = list(range(k))
        at = k
        for spec in space.context:
            columns = slice(at, at + spec.width)
            if spec.name == "stage":
                spec.encode(stages, self._stage_rows[:, columns])
                stage_columns += range(at, at + spec.width)
            elif spec.name in drawn:
                spec.encode(drawn[spec.name].astype(np.str_), self._combo_rows[:, columns])
            elif spec.name in _FIRST_SEEN and isinstance(spec, Numeric):
                first = _FIRST_SEEN[spec.name]
                spec.encode(np.full(m, first), self._person_rows[:, columns])
                self._numbers[spec.name] = (at, spec)
            else:
                spec.encode(people.columns.get(spec.name), self._person_rows[:, columns])
            at += spec.width
        for block in space.blocks:
            block.encode(people.vectors.get(block.name), self._person_rows[:, at : at + block.width])
            at += block.width
        self._person_rows += self._stage_rows[world.VISITOR]
        self._stage_columns = np.asarray(stage_columns)
        self._lapsed_for_visitor = self._stage_rows[world.LAPSED] - self._stage_rows[world.VISITOR]

    def renew(self, rows: IntArray, ids: IntArray) -> None:
        """Put fresh visitors, who arrive on day 0, into some slots."""
        p, people = self._p, self.scenario.population
        keys = subject_keys(self.seed, ids)
        self.ids[rows], self._keys[rows] = ids, keys
        # One word for each number a person begins with, made together: of few people a call costs more than its numbers.
        bits = many_words(keys, _FIRST_NUMBERS)
        drawn = normal(bits[:_N_NORMALS])
        signs, tastes = drawn[: len(CAR_CLASSES)], drawn[len(CAR_CLASSES) : -2]
        seen = p["taste_shown"]
        tastes *= np.float32(p["taste_spread"] * np.sqrt(1.0 - seen**2))
        tastes += np.float32(p["taste_spread"] * seen) * signs
        self._taste[:, rows] = tastes
        sensitivity, pace = drawn[-2], drawn[-1]
        sensitivity *= np.float32(p["price_sensitivity_spread"])
        np.exp(sensitivity, out=sensitivity)
        sensitivity *= np.float32(p["price_sensitivity"])
        which, is_desktop, channel, budget, arrival = unit(bits[_N_NORMALS:])
        person = (which * len(people)).astype(np.int64)
        pace *= np.float32(p["return_rate_spread"])
        rate = people.pace[person].astype(np.float32) * np.exp(pace) * np.float32(p["return_rate_per_day"])
        np.clip(rate, world.MIN_RETURN_RATE, world.MAX_RETURN_RATE, out=rate)
        combo = np.argmax(signs, axis=0) * len(DEVICES)
        combo += is_desktop >= MOBILE_SHARE
        combo = combo * len(CHANNELS) + (channel * len(CHANNELS)).astype(np.int64)
        affinity = people.deal_affinity[person].astype(np.float32)
        appeal = self._per_sensitivity[:, None] * sensitivity
        appeal += self._per_affinity[:, None] * affinity
        appeal += self._constant[:, None]
        appeal[self._contracts] += tastes[self._offers.car_class[self._contracts]]
        stage = np.full(len(rows), world.VISITOR, dtype=np.int8)
        lapsed = np.zeros(0, dtype=np.int64)
        if p["lapsed_share"]:
            lapsed = np.flatnonzero(unit(words(keys, Purpose.TRAITS, 7)) < p["lapsed_share"])
            stage[lapsed] = world.LAPSED
            appeal[:, lapsed] += np.float32(p["lapsed_appeal"])
        self.person[rows] = person
        self._appeal[rows] = appeal.T
        self._per_log[rows] = 1.0 / np.log1p(-rate)
        self._budget[rows] = -np.log(budget)
        self._fatigue[:, rows] = 0.0
        self._discounts_seen[rows] = 0
        if self.visit_days > 1:
            self._arrival[rows] = (arrival * self.visit_days).astype(np.int32)
        self._exposure[rows] = 0.0
        self.day[rows] = 0
        self._last_day[rows] = 0
        self.n_visits[rows] = 0
        self.stage[rows] = stage
        self.signed_day[rows] = -1
        self._cared_until[rows] = -1
        fresh = self._person_rows.take(person, axis=0)
        fresh += self._combo_rows.take(combo, axis=0)
        fresh[lapsed] += self._lapsed_for_visitor
        if self._is_mask_moving:
            self._views[:, rows] = 0
            fresh[:, : appeal.shape[0]] = self._move_mask(rows, self._rule_of(rows))
        self.observation[rows] = fresh

    def step(self, actions: IntArray) -> StepParts:
        """Show one offer to each and live on until each visitor's next visit or end; what may not be shown falls back."""
        p, k, n = self._p, len(self._constant), self.n
        shown = self._may_be_shown(actions)
        # What the offer adds to the log-odds: fixed appeal less fatigue of its family, which fades day by day.
        idle = self.day - self._last_day
        self._fatigue *= self._decay[np.minimum(idle, 63)]
        family = self._family_at[shown]
        family += self._rows
        tired = self._fatigue.ravel().take(family)
        log_odds = self._appeal.ravel().take(self._flat + shown)
        log_odds -= self._tires[shown] * tired
        if self._is_history_kept:
            log_odds -= self._spoils[shown] * np.minimum(self._discounts_seen, world.MAX_DEPENDENCE)
            self._discounts_seen += self._is_discounted[shown]
        if self._by_day is not None:
            today = np.minimum(self._arrival + self.day, len(self._by_day) - 1)
            log_odds += self._by_day.ravel().take(today * k + shown)
        if self._by_visits is not None:
            log_odds += self._by_visits.take(np.minimum(self.n_visits, len(self._by_visits) - 1))
        for views, (limited, _) in zip(self._views, self._limited, strict=True):
            np.add(views, shown == limited, out=views)
        np.put(self._fatigue.ravel(), family, tired + np.float32(1.0))
        keys = self._keys
        chance = log_odds + np.float32(p["click_base"])
        np.exp(np.negative(chance, out=chance), out=chance)
        chance += np.float32(1.0)
        chance *= unit32(words(keys, Purpose.CLICK, 0))
        clicked = chance < 1.0
        # When the visitor comes back.
        gap = np.log(unit32(words(keys, Purpose.RETURN, 0)))
        gap *= self._per_log
        upcoming = gap.astype(np.int32)  # truncation is floor: the product is positive
        upcoming += 1
        is_visitor = (self.stage & 1) == 0
        upcoming = np.where(is_visitor, upcoming, np.maximum(upcoming, self._least_gap[self.stage]))
        upcoming += self.day
        subscribed = np.zeros(n, dtype=np.float32)
        kept = np.zeros(n, dtype=np.float32)
        margin, cost = np.zeros((2, n), dtype=np.float32)
        signers, signed_day = self._sign(np.flatnonzero(clicked & is_visitor), log_odds)
        cared = np.flatnonzero(clicked & ~is_visitor)
        cared = cared[self._offers.family[shown[cared]] == _LOYALTY]
        self._cared_until[cared] = self.day[cared] + CARE_DAYS
        margin[cared] = self._margin[shown[cared]]
        is_over = is_visitor & (upcoming >= world.MARKET_DAYS)
        if self.end_day is not None:
            # That a visitor is gone is known when the market window is over; who signs after the end is not met before it.
            is_over &= self._arrival + world.MARKET_DAYS <= self.end_day
            is_late = self._arrival[signers] + signed_day >= self.end_day
            late = signers[is_late]
            is_over[late], upcoming[late] = False, signed_day[is_late]
            signers, signed_day = signers[~is_late], signed_day[~is_late]
        subscribers = np.flatnonzero(~is_visitor)
        start = self.day[subscribers]
        if len(signers):
            subscribed[signers] = 1.0
            offer = np.where(self._offers.is_contract[shown[signers]], shown[signers], self._first_contract)
            margin[signers] += self._margin[offer]
            cost[signers] = self._discount_cost[offer]
            self._start_contract(signers, signed_day, offer)
            first_stage = world.TRIAL if self._trial_days else world.SUBSCRIBER
            returns = np.maximum(upcoming[signers] - self.day[signers], self._least_gap[first_stage])
            upcoming[signers] = signed_day + returns
            subscribers = np.concatenate([subscribers, signers])
            start = np.concatenate([start, signed_day + 1])
        if len(subscribers):
            stays, is_kept = self._survive(subscribers, start, upcoming[subscribers])
            kept[subscribers] = is_kept
            is_over[subscribers] = is_kept | ~stays
        self._last_day, self.day = self.day, upcoming
        self.n_visits += 1
        self._keys += COUNTER_STEP
        self._observe(subscribers, signers)
        if self._is_mask_moving:
            rule = self._rule_of(self._rows)
            moved = np.flatnonzero(self._changes(rule, shown))
            self.observation[moved, :k] = self._move_mask(moved, rule[moved])
        return StepParts(shown, clicked.astype(np.float32), subscribed, kept, margin, cost, is_over)

    def calendar_day(self) -> Ints:
        """Date of each slot's present visit, shape ``(n,)``."""
        return np.asarray(self._arrival + self.day, dtype=np.int32)

    def mask(self) -> NDArray[np.int8]:
        """Which offers may be shown at each slot's present visit, shape ``(n, k)``."""
        if self._is_mask_moving:
            return self._eligible.view(np.int8).copy()
        return self._mask.view(np.int8)[self.stage]

    def _may_be_shown(self, actions: IntArray) -> IntArray:
        """The offers asked for, the first eligible one where that may not be shown."""
        k = len(self._constant)
        if self._is_mask_moving:
            may = self._eligible.ravel().take(self._flat + actions)
        else:
            may = self._allowed[self.stage.astype(np.int64) * k + actions]
        if may.all():
            return actions
        shown = actions.copy()
        stopped = np.flatnonzero(~may)
        shown[stopped] = (
            np.argmax(self._eligible[stopped], axis=1) if self._is_mask_moving else self._fallback[self.stage[stopped]]
        )
        return shown

    def _rule_of(self, rows: IntArray) -> IntArray:
        """Which of the masks by date and stage holds for each row."""
        day = np.minimum(self._arrival[rows] + self.day[rows], len(self._pattern) - 1)
        return np.asarray(self._pattern[day] + self.stage[rows], dtype=np.int64)

    def _changes(self, rule: IntArray, shown: IntArray) -> BoolArray:
        """Rows whose mask is another one after this step."""
        changes: BoolArray = rule != self._rule
        for views, (offer, limit) in zip(self._views, self._limited, strict=True):
            changes |= (shown == offer) & (views == limit)
        return changes

    def _move_mask(self, rows: IntArray, rule: IntArray) -> BoolArray:
        """Eligibility of some rows by date, stage and views, shape ``(len(rows), k)``; for the caller to write where it is observed."""
        may: BoolArray = self._masks.take(rule, axis=0)
        for views, (offer, limit) in zip(self._views, self._limited, strict=True):
            may[:, offer] &= views[rows] < limit
        self._rule[rows] = rule
        self._eligible[rows] = may
        return may

    def _sign(self, rows: IntArray, log_odds: Floats) -> tuple[IntArray, Ints]:
        p, keys = self._p, self._keys[rows]
        chance = 1.0 + np.exp(-(log_odds[rows] + np.float32(p["convert_base"])))
        signs = np.flatnonzero(unit32(words(keys, Purpose.CONVERT, 0)) * chance < 1.0)
        delay = world.signing_delay_days(p, unit(words(keys[signs], Purpose.DELAY, 0)))
        rows = rows[signs]
        return rows, self.day[rows] + delay.astype(np.int32)

    def _start_contract(self, rows: IntArray, day: Ints, offer: IntArray) -> None:
        p = self._p
        log_ratio = (
            self._log_hazard[offer]
            + np.float32(p["cancel_per_taste"]) * self._taste[self._offers.car_class[offer], rows]
        )
        if p["cancel_per_dependence"]:
            seen = np.minimum(self._discounts_seen[rows], world.MAX_DEPENDENCE)
            log_ratio += np.float32(p["cancel_per_dependence"]) * seen
        if p["cancel_per_fatigue"]:
            log_ratio += np.float32(p["cancel_per_fatigue"]) * self._fatigue[1:, rows].sum(axis=0)
        if p["cancel_per_lapse"]:
            log_ratio += np.float32(p["cancel_per_lapse"]) * (self.stage[rows] == world.LAPSED)
        for care in (0, 1):
            ratio = np.exp(log_ratio + np.float32(care * p["retention_offer_effect"]))
            hazard = np.clip(p["cancel_per_day"] * ratio, 0.0, world.MAX_HAZARD)
            self._hazard[care, rows] = -np.log1p(-hazard)
            if self._trial_days:
                leave = np.clip(p["trial_leave"] * ratio, 0.0, world.MAX_HAZARD)
                self._trial_end_hazard[care, rows] = -np.log1p(-leave)
        self.stage[rows] = world.SUBSCRIBER
        self.signed_day[rows], self.signed_offer[rows] = day, offer

    def _survive(self, rows: IntArray, start: Ints, upcoming: Ints) -> tuple[BoolArray, BoolArray]:
        """Who is still there at the next visit, and who has been kept for 30 days before it."""
        kept_day = self.signed_day[rows] + KEPT_AFTER_DAYS
        last = np.minimum(upcoming - 1, kept_day)
        if self.end_day is not None:
            last = np.minimum(last, self.end_day - 1 - self._arrival[rows])
        n_days = np.maximum(last - start + 1, 0)
        n_cared = np.clip(self._cared_until[rows] - start + 1, 0, n_days)
        exposure = self._exposure[rows]
        exposure += n_cared * self._hazard[1, rows] + (n_days - n_cared) * self._hazard[0, rows]
        if self._trial_days:
            end = self.signed_day[rows] + self._trial_days
            is_cared = (self._cared_until[rows] >= end).astype(np.int64)
            exposure += ((start <= end) & (end <= last)) * self._trial_end_hazard[is_cared, rows]
        self._exposure[rows] = exposure
        stays = exposure < self._budget[rows]
        return stays, stays & (last == kept_day)

    def _observe(self, subscribers: IntArray, signers: IntArray) -> None:
        obs = self.observation
        if "n_visits" in self._numbers:
            at, spec = self._numbers["n_visits"]
            obs[:, at] = _standard(self.n_visits, spec)
        if "discounts_seen" in self._numbers:
            at, spec = self._numbers["discounts_seen"]
            obs[:, at] = _standard(self._discounts_seen, spec)
        if "days_since_first_visit" in self._numbers:
            at, spec = self._numbers["days_since_first_visit"]
            obs[:, at] = _standard(self.day, spec)
        if "days_since_last_visit" in self._numbers:
            at, spec = self._numbers["days_since_last_visit"]
            obs[:, at] = _standard(self.day - self._last_day, spec)
            if spec.may_be_missing:
                obs[:, at + 1] = 0.0
        if "tenure_days" in self._numbers and len(subscribers):
            at, spec = self._numbers["tenure_days"]
            obs[subscribers, at] = _standard(self.day[subscribers] - self.signed_day[subscribers], spec)
            if spec.may_be_missing:
                obs[subscribers, at + 1] = 0.0
        if self._trial_days and len(subscribers):
            is_trial = self.day[subscribers] < self.signed_day[subscribers] + self._trial_days
            stage = np.where(is_trial, world.TRIAL, world.SUBSCRIBER).astype(np.int8)
            self.stage[subscribers] = stage
            obs[np.ix_(subscribers, self._stage_columns)] = self._stage_rows[stage][:, self._stage_columns]
        elif len(signers):
            obs[np.ix_(signers, self._stage_columns)] = self._stage_rows[world.SUBSCRIBER, self._stage_columns]


def _standard(values: NDArray[Any], spec: Numeric) -> Floats:
    out = values.astype(np.float32)
    out -= np.float32(spec.mean)
    out *= np.float32(1.0 / spec.scale)
    return np.minimum(np.maximum(out, np.float32(-10.0), out=out), np.float32(10.0), out=out)
