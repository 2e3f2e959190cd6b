"""Exact values where the state is small: a visitor's market window by backward recursion over days and discounts seen.

With hidden traits known the recursion bounds every policy (``truth.upper_bound``). Where nothing is hidden it *is* the value:
``solve`` gives the best policy on what the site can see, ``myopic`` the best choice of each visit alone, and ``crossing`` the
coefficient at which selling most stops keeping most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.eligibility import excluded_by
from policies.errors import InvalidInputError, UnknownNameError
from policies.protocols import PolicyTraits
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray
from simulator import world
from simulator.scenarios.car_subscription import NO_OFFER, Scenario
from simulator.world import KEPT_AFTER_DAYS

N_LEVELS = world.MAX_DEPENDENCE + 1
_HIDDEN = ("taste_spread", "price_sensitivity_spread", "return_rate_spread", "fatigue_per_view", "cancel_per_fatigue",
           "retention_offer_effect", "engagement_gain", "lapsed_share")  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class VisitOdds:
    """What showing each offer to each rested visitor leads to, in closed form; all of shape ``(n, k)``.

    Attributes
    ----------
    click, sign
        Probability of a click, and of a contract, from this visit.
    kept
        Probability that such a contract lives ``KEPT_AFTER_DAYS`` days.
    margin_eur
        First contribution of such a contract.
    """

    click: FloatArray
    sign: FloatArray
    kept: FloatArray
    margin_eur: FloatArray

    def worth(self, outcome: str) -> FloatArray:
        """What a contract is worth in the unit of an outcome, shape ``(n, k)``."""
        known = {"subscribed": np.ones_like(self.sign), "kept_30d": self.kept, "margin_eur": self.margin_eur}
        if outcome not in known:
            raise UnknownNameError("outcome", outcome, known)
        return known[outcome]

    def immediate(self, outcome: str) -> FloatArray:
        """Expected outcome of one visit alone, shape ``(n, k)``."""
        return self.sign * self.worth(outcome)


def visit_odds(
    scenario: Scenario,
    subjects: world.Subjects,
    *,
    is_cared_for: bool = False,
    discounts_seen: int = 0,
    n_visits: int = 0,
    by_date: FloatArray | None = None,
) -> VisitOdds:
    """Closed form of one visit of each subject as a visitor without fatigue.

    Parameters
    ----------
    is_cared_for
        Whether hazards are those of a subscriber who is looked after on all 30 days, instead of never.
    discounts_seen, n_visits
        Before this visit.
    by_date
        What the date of each visit adds to the log-odds of each offer, shape ``(n, k)``.
    """
    p, offers, n = scenario.parameters.values(), world.OfferNumbers.of(scenario), len(subjects.ids)
    rows, k = np.arange(n), len(scenario.offers)
    out = {name: np.zeros((n, k)) for name in VisitOdds.__slots__}
    first = int(np.flatnonzero(offers.is_contract)[0])
    before = float(min(discounts_seen, world.MAX_DEPENDENCE))
    for a in range(k):
        shown = np.full(n, a)
        after = float(min(discounts_seen + int(offers.is_discounted[a]), world.MAX_DEPENDENCE))
        engagement = world.engagement(np.full(n, n_visits))
        log_odds = world.appeal(p, subjects, rows, offers, shown, np.zeros(n), before, engagement)
        if by_date is not None:
            log_odds = log_odds + by_date[:, a]
        signed = shown if offers.is_contract[a] else np.full(n, first)
        hazard = world.cancel_hazard(p, subjects, rows, offers, signed, np.full(n, is_cared_for), after)
        out["click"][:, a] = world.click_probability(p, log_odds)
        out["sign"][:, a] = out["click"][:, a] * world.contract_probability(p, log_odds)
        out["kept"][:, a] = (1.0 - hazard) ** KEPT_AFTER_DAYS
        if 0 < p["trial_days"] <= KEPT_AFTER_DAYS:
            out["kept"][:, a] *= 1.0 - world.cancel_hazard(
                p, subjects, rows, offers, signed, np.full(n, is_cared_for), after, base="trial_leave"
            )
        out["margin_eur"][:, a] = offers.margin[signed]
    return VisitOdds(**out)


@dataclass(frozen=True, slots=True, eq=False)
class Market:
    """The market window of some visitors without fatigue.

    Attributes
    ----------
    odds
        One for each number of discounts seen before, ``N_LEVELS`` of them.
    rate
        Chance of a visit on each day after the first, shape ``(n,)``.
    is_allowed
        What a visitor may be shown, shape ``(k,)``, or ``(n, 1, k)`` where that differs between visitors.
    is_discounted
        What raises the number of discounts seen, shape ``(k,)``.
    n_days
        Length of the window.
    """

    odds: tuple[VisitOdds, ...]
    rate: FloatArray
    is_allowed: BoolArray
    is_discounted: BoolArray
    n_days: int = world.MARKET_DAYS

    @classmethod
    def of(
        cls,
        scenario: Scenario,
        subjects: world.Subjects,
        *,
        is_cared_for: bool = False,
        n_visits: int = 0,
        by_date: FloatArray | None = None,
    ) -> Market:
        """Of the subjects of a site, in each visit as engaged as after ``n_visits``."""
        levels = (
            visit_odds(
                scenario, subjects, is_cared_for=is_cared_for, discounts_seen=d, n_visits=n_visits, by_date=by_date
            )
            for d in range(N_LEVELS)
        )
        return cls(
            odds=tuple(levels),
            rate=subjects.return_rate,
            is_allowed=visitor_offers(scenario),
            is_discounted=world.OfferNumbers.of(scenario).is_discounted,
        )

    def best(
        self, outcome: str, *, among: BoolArray | None = None, on_day: Callable[[int], Market] | None = None
    ) -> tuple[FloatArray, IntArray]:
        """Value of the best policy that sees everything, and its choices.

        Parameters
        ----------
        among
            Offers it may use, shape ``(k,)``; default: all that are allowed.
        on_day
            The market of the same visitors by day since their first visit, where dates change it; default: this one on all days.

        Returns
        -------
        tuple
            Values ``(n,)`` and choices ``(n, n_days, N_LEVELS)`` by day since the first visit and discounts seen.

        Notes
        -----
        ``V(t, d) = max_a q_a r_a + (1 - q_a) W(t + 1, d_a)``, ``W(t, d) = rate V(t, d) + (1 - rate) W(t + 1, d)``,
        ``W(end, d) = 0``; ``d_a`` is one higher after a discount.
        """
        choices = np.zeros((len(self.rate), self.n_days, N_LEVELS), dtype=np.int64)
        value = rest = np.zeros((len(self.rate), N_LEVELS))
        for day in reversed(range(self.n_days)):
            today = self if on_day is None else on_day(day)
            may = today.is_allowed if among is None else today.is_allowed & among
            each = np.where(may, today._each(outcome, rest), -np.inf)
            choices[:, day] = each.argmax(axis=2)
            value = each.max(axis=2)
            rest = self.rate[:, None] * value + (1.0 - self.rate)[:, None] * rest
        return value[:, 0], choices

    def value(self, outcome: str, policy: FloatArray) -> FloatArray:
        """Value of a policy, shape ``(n,)``.

        Parameters
        ----------
        policy
            Probability of each offer, broadcastable to ``(n, n_days, N_LEVELS, k)``.
        """
        k = len(self.is_discounted)
        full = np.broadcast_to(policy, (len(self.rate), self.n_days, N_LEVELS, k))
        value = rest = np.zeros((len(self.rate), N_LEVELS))
        for day in reversed(range(self.n_days)):
            value = (full[:, day] * self._each(outcome, rest)).sum(axis=2)
            rest = self.rate[:, None] * value + (1.0 - self.rate)[:, None] * rest
        return value[:, 0]

    def _each(self, outcome: str, rest: FloatArray) -> FloatArray:
        """Worth of each offer now and what follows it, shape ``(n, N_LEVELS, k)``."""
        out = np.empty((len(self.rate), N_LEVELS, len(self.is_discounted)))
        for d, odds in enumerate(self.odds):
            after = np.minimum(d + self.is_discounted, world.MAX_DEPENDENCE)
            out[:, d] = odds.immediate(outcome) + (1.0 - odds.sign) * rest[:, after]
        return out


def visitor_offers(scenario: Scenario) -> BoolArray:
    """Which offers someone without a contract may be shown, shape ``(k,)``; where some visitors are lapsed, what either may."""
    stages = [world.VISITOR] + [world.LAPSED] * bool(scenario.parameters.lapsed_share.value)
    excluded = [set(excluded_by(scenario.rules, scenario.offers, {"stage": world.STAGES[s]})) for s in stages]
    return np.asarray([any(o not in out for out in excluded) for o in scenario.offers.ids], dtype=np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class StateRule:
    """A policy on a site without hidden differences: one offer for each segment, day in the market and discounts seen.

    Parameters
    ----------
    segments
        Names of the segments, shape ``(m,)``.
    choices
        Position of the offer among those of the scenario, shape ``(m, MARKET_DAYS, N_LEVELS)``.
    """

    name: str
    segments: NDArray[np.str_]
    choices: IntArray
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """One on the offer of the state; subscribers, for whom nothing helps here, get no offer."""
        segment = np.searchsorted(self.segments, table.columns["segment"])
        day = np.minimum(table.columns["days_since_first_visit"], world.MARKET_DAYS - 1).astype(np.int64)
        level = np.minimum(table.columns["discounts_seen"], world.MAX_DEPENDENCE).astype(np.int64)
        wanted = self.choices[segment, day, level]
        is_visitor = table.columns["stage"] == world.STAGES[world.VISITOR]
        out = np.zeros(table.eligible.shape)
        out[np.arange(len(table)), np.where(is_visitor, wanted, table.offers.index_of(NO_OFFER))] = 1.0
        return out

    def table(self, k: int) -> FloatArray:
        """As ``Market.value`` takes it, shape ``(m, MARKET_DAYS, N_LEVELS, k)``."""
        return np.asarray(np.eye(k)[self.choices], dtype=np.float64)


def solve(scenario: Scenario, *, outcome: str = "kept_30d", with_discounts: bool = True) -> tuple[StateRule, float]:
    """The best policy on what the site can see, by dynamic programming, and its value per visitor.

    Parameters
    ----------
    with_discounts
        False: among those that never show a discount.

    Raises
    ------
    InvalidInputError
        If the site hides something that matters: then no recursion this small is exact.
    """
    market, segments = visible_market(scenario)
    among = None if with_discounts else ~market.is_discounted
    values, choices = market.best(outcome, among=among)
    kind = "planned" if with_discounts else "planned at list prices"
    return StateRule(f"{kind} for {outcome}", segments, choices), float(values.mean())


def myopic(scenario: Scenario, *, outcome: str = "subscribed") -> StateRule:
    """The rule that shows what is worth most in each visit alone: for ``subscribed`` the greedy seller."""
    market, segments = visible_market(scenario)
    worth = np.stack([np.where(market.is_allowed, o.immediate(outcome), -np.inf) for o in market.odds], axis=1)
    choices = np.repeat(worth.argmax(axis=2)[:, None, :], world.MARKET_DAYS, axis=1)
    return StateRule(f"greedy for {outcome}", segments, choices)


def value_of(scenario: Scenario, rule: StateRule, *, outcome: str = "kept_30d") -> float:
    """Exact value per visitor of a rule on a site without hidden differences."""
    market, _ = visible_market(scenario)
    return float(market.value(outcome, rule.table(len(scenario.offers))).mean())


def crossing(
    family: Callable[[float], Scenario],
    *,
    first: Callable[[Scenario], StateRule],
    second: Callable[[Scenario], StateRule],
    low: float,
    high: float,
    outcome: str = "kept_30d",
) -> float:
    """Coefficient at which two rules, made anew for each world of a family, are worth the same.

    Parameters
    ----------
    low, high
        Where ``first`` is worth more, and where less.

    Raises
    ------
    InvalidInputError
        If the same rule is ahead at both ends.
    """
    from scipy.optimize import brentq

    def lead(coefficient: float) -> float:
        site = family(coefficient)
        return value_of(site, first(site), outcome=outcome) - value_of(site, second(site), outcome=outcome)

    at_low, at_high = lead(low), lead(high)
    if not at_low > 0 > at_high:
        raise InvalidInputError(
            f"the first rule leads by {at_low:.4g} at {low} and by {at_high:.4g} at {high}; expected a lead that turns: widen "
            "the range"
        )
    return float(brentq(lead, low, high, xtol=1e-6))


def greedy_crossing(family: Callable[[float], Scenario], *, low: float = 0.0, high: float = 3.0) -> float:
    """Where the greedy seller stops keeping more subscribers than the best rule without discounts."""
    return crossing(family, first=myopic, second=lambda s: solve(s, with_discounts=False)[0], low=low, high=high)


def visible_market(scenario: Scenario) -> tuple[Market, NDArray[np.str_]]:
    """One visitor of each segment, in the order of their names."""
    p, people = scenario.parameters.values(), scenario.population
    hidden = [name for name in _HIDDEN if p[name] != 0.0]
    segment = people.columns.get("segment")
    is_one_each = segment is not None and len(np.unique(segment)) == len(segment) == len(people)
    if hidden or not is_one_each or not scenario.shows_history:
        raise InvalidInputError(
            f"site {scenario.name!r} hides what matters ({', '.join(hidden) or 'people or history'}); expected none of it and "
            "one person a segment: use scenarios.car_subscription.tabular, or rollouts"
        )
    assert segment is not None
    if scenario.calendar is not None:
        raise InvalidInputError(
            f"site {scenario.name!r} has dates, which policies do not see; expected none: take off its calendar, or use rollouts"
        )
    order = np.argsort(segment)
    m = len(people)
    zeros = np.zeros(m)
    rate = np.clip(p["return_rate_per_day"] * people.pace[order], world.MIN_RETURN_RATE, world.MAX_RETURN_RATE)
    subjects = world.Subjects(
        ids=np.arange(m, dtype=np.int64),
        person=order.astype(np.int64),
        taste=np.zeros((m, 3)),
        price_sensitivity=np.full(m, p["price_sensitivity"]),
        deal_affinity=people.deal_affinity[order],
        return_rate=rate,
        searched_class=zeros.astype(np.int64),
        is_lapsed=zeros.astype(np.bool_),
        device=np.full(m, "mobile"),
        channel=np.full(m, "search"),
    )
    return Market.of(scenario, subjects), np.asarray(segment[order], dtype=np.str_)
