"""What a policy is worth in the simulator: the number every estimator is judged against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policies.errors import InvalidInputError
from policies.protocols import Policy, PolicyTraits
from policies.records import DecisionTable, FloatArray, IntArray
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator import world
from simulator.exact import Market, visit_odds
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import FAMILIES, Scenario
from simulator.site import World
from simulator.streams import Purpose, uniforms

OUTCOMES = ("subscribed", "kept_30d", "margin_eur")


@dataclass(frozen=True, slots=True, eq=False)
class PolicyTruth:
    """Per-visitor outcomes of one policy on one cohort, in simulation.

    Attributes
    ----------
    per_visitor
        For each outcome, shape ``(n_subjects,)``; rows of two policies with one seed are the same visitors.
    """

    policy: str
    per_visitor: dict[str, FloatArray]

    def value(self, outcome: str) -> tuple[float, float]:
        """Mean per visitor and its standard error."""
        return _mean(self.per_visitor[outcome])

    def difference(self, other: PolicyTruth, outcome: str) -> tuple[float, float]:
        """Mean paired difference to another policy on the same visitors, and its standard error."""
        return _mean(self.per_visitor[outcome] - other.per_visitor[outcome])

    def to_json(self) -> dict[str, Any]:
        """Plain values, labelled as what they are."""
        return {
            "policy": self.policy,
            "in_simulation": True,
            **{name: dict(zip(("mean", "standard_error"), self.value(name), strict=True)) for name in OUTCOMES},
        }


def true_value(
    scenario: World, policy: Policy, *, n_subjects: int, seed: int, explore_share: float = DEFAULT_EXPLORE_SHARE
) -> PolicyTruth:
    """Value of a policy as it would be served, by letting it choose for a cohort until every window is over."""
    return truth_of(rollout(scenario, policy, n_subjects=n_subjects, seed=seed, explore_share=explore_share))


def truth_of(run: Rollout) -> PolicyTruth:
    """Per-visitor outcomes of a rollout whose windows are all over.

    Raises
    ------
    InvalidInputError
        If it was cut before: then nobody knows yet.
    """
    n_open = int((~run.subjects.is_matured).sum())
    if n_open:
        raise InvalidInputError(
            f"{n_open} visitors of the rollout have open windows; expected none: let it live to its end"
        )
    return PolicyTruth(
        policy=run.policy,
        per_visitor={name: np.asarray(getattr(run.subjects, name), dtype=np.float64) for name in OUTCOMES},
    )


def mean_per_decision(run: Rollout, reward: FloatArray) -> tuple[float, float]:
    """Mean of a per-decision reward over a rollout, and its standard error clustered by subject."""
    n_subjects = len(run.subjects.n_visits)
    totals = np.bincount(run.row, weights=reward, minlength=n_subjects)
    counts = np.bincount(run.row, minlength=n_subjects)
    mean = totals.sum() / counts.sum()
    return float(mean), float(np.sqrt(((totals - mean * counts) ** 2).sum()) / counts.sum())


def upper_bound(
    scenario: Scenario, *, n_subjects: int, seed: int, outcome: str = "kept_30d", visit_days: int = 14
) -> tuple[float, float]:
    """A value no policy can beat, even one that sees what is latent: mean per visitor and its standard error.

    Every visit meets a rested visitor and the best offer of the day, dates foreseen and without limits of views, and every subscriber is
    looked after without being asked. For ``margin_eur`` looking after costs nothing here. In simulation.

    Parameters
    ----------
    visit_days
        Over which visitors arrive; without a calendar it makes no difference.

    Raises
    ------
    InvalidInputError
        If views please: then no visitor is best met rested.
    """
    p = scenario.parameters.values()
    for name in ("fatigue_per_view", "cancel_per_fatigue"):
        if p[name] < 0:
            raise InvalidInputError(
                f"{name} is {p[name]}; the bound needs 0 or more: views that please are not covered"
            )
    subjects = world.Subjects.draw(scenario, np.arange(n_subjects, dtype=np.int64), seed=seed)
    # As engaged as anyone can be, where engagement helps.
    n_visits = world.MARKET_DAYS if p["engagement_gain"] > 0 else 0
    is_cared_for = p["retention_offer_effect"] < 0
    market = Market.of(scenario, subjects, is_cared_for=is_cared_for, n_visits=n_visits)
    if scenario.calendar is None:
        return _mean(market.best(outcome)[0])
    arrival = (uniforms(seed, subjects.ids, Purpose.ARRIVAL, 0) * visit_days).astype(np.int64)
    by_day, is_offered = scenario.calendar.log_odds(scenario.offers), scenario.calendar.is_offered(scenario.offers)

    def on_day(day: int) -> Market:
        date = np.minimum(arrival + day, len(by_day) - 1)
        today = Market.of(scenario, subjects, is_cared_for=is_cared_for, n_visits=n_visits, by_date=by_day[date])
        return replace(today, is_allowed=(today.is_allowed & is_offered[date])[:, None, :])

    return _mean(market.best(outcome, on_day=on_day)[0])


class Oracle:
    """A policy that sees what is latent, and shows what is worth most in this one visit; a yardstick, never a candidate.

    Parameters
    ----------
    seed
        Of the rollout it acts in: it recognises the visitors by their names.
    outcome
        What it maximises.
    cost_per_contract
        Taken off for every contract, in the unit of the outcome: between 0 and 1 it gives contracts away for those that last.
    """

    name = "oracle"
    traits = PolicyTraits()

    def __init__(
        self, scenario: Scenario, *, seed: int, outcome: str = "kept_30d", cost_per_contract: float = 0.0
    ) -> None:
        self._scenario, self._seed, self._outcome, self._cost = scenario, seed, outcome, cost_per_contract

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """One on the offer that is worth most to each visitor."""
        if table.subjects is None:
            raise InvalidInputError("the oracle got a table without subjects; it recognises visitors by name")
        ids: IntArray = np.asarray([int(str(name).lstrip("v")) for name in table.subjects], dtype=np.int64)
        subjects = world.Subjects.draw(self._scenario, ids, seed=self._seed)
        odds = visit_odds(self._scenario, subjects)
        worth = odds.immediate(self._outcome)
        if self._cost:
            worth = worth - self._cost * odds.immediate("subscribed")
        # A subscriber has signed: the only offer that does something is the one that looks after them.
        is_loyalty = world.OfferNumbers.of(self._scenario).family == FAMILIES.index("loyalty")
        is_subscriber = np.isin(table.columns["stage"], (world.STAGES[world.SUBSCRIBER], world.STAGES[world.TRIAL]))
        worth[is_subscriber] = is_loyalty if self._outcome == "kept_30d" else 0.0
        worth[~table.eligible] = -np.inf
        out = np.zeros(table.eligible.shape)
        out[np.arange(len(table)), worth.argmax(axis=1)] = 1.0
        return out


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
