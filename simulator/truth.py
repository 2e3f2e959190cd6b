"""What a policy is worth in the simulator: the number every estimator is judged against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.errors import InvalidInputError, UnknownNameError
from policies.protocols import Policy, PolicyTraits
from policies.records import DecisionTable, FloatArray, IntArray
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator import world
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import FAMILIES, Scenario
from simulator.site import KEPT_AFTER_DAYS, World

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
    """Per-visitor outcomes of a rollout whose windows are all over."""
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


def visit_odds(scenario: Scenario, subjects: world.Subjects, *, is_cared_for: bool = False) -> VisitOdds:
    """Closed form of one visit of each subject as a visitor without fatigue.

    Parameters
    ----------
    is_cared_for
        Whether hazards are those of a subscriber who is looked after on all 30 days, instead of never.
    """
    p, offers, n = scenario.parameters.values(), world.OfferNumbers.of(scenario), len(subjects.ids)
    rows, k = np.arange(n), len(scenario.offers)
    out = {name: np.zeros((n, k)) for name in VisitOdds.__slots__}
    first = int(np.flatnonzero(offers.is_contract)[0])
    for a in range(k):
        shown = np.full(n, a)
        log_odds = world.appeal(p, subjects, rows, offers, shown, np.zeros(n))
        signed = shown if offers.is_contract[a] else np.full(n, first)
        hazard = world.cancel_hazard(p, subjects, rows, offers, signed, np.full(n, is_cared_for))
        out["click"][:, a] = world.click_probability(p, log_odds)
        out["sign"][:, a] = out["click"][:, a] * world.contract_probability(p, log_odds)
        out["kept"][:, a] = (1.0 - hazard) ** KEPT_AFTER_DAYS
        out["margin_eur"][:, a] = offers.margin[signed]
    return VisitOdds(**out)


def market_value(
    odds: VisitOdds, rate: FloatArray, *, outcome: str, allowed: FloatArray, policy: FloatArray | None = None
) -> FloatArray:
    """Value of a visitor's whole market window by backward recursion over its days, shape ``(n,)``.

    Parameters
    ----------
    rate
        Chance of a visit on each day after the first, shape ``(n,)``.
    allowed
        1 for offers a visitor may be shown, shape ``(k,)``.
    policy
        Probability of each offer in each visit, shape ``(n, k)``; left out: the best offer of each day.

    Notes
    -----
    ``V(t) = max_a q_a r_a + (1 - q_a) W(t + 1)``, ``W(t) = rate V(t) + (1 - rate) W(t + 1)``, ``W(end) = 0``. Exact
    where there is no fatigue and subscribers are not looked after.
    """
    worth = odds.worth(outcome)
    rest = np.zeros(len(rate))
    value = rest
    for _ in range(world.MARKET_DAYS):
        each = odds.sign * worth + (1.0 - odds.sign) * rest[:, None]
        value = np.where(allowed > 0, each, -np.inf).max(axis=1) if policy is None else (policy * each).sum(axis=1)
        rest = rate * value + (1.0 - rate) * rest
    return value


def upper_bound(scenario: Scenario, *, n_subjects: int, seed: int, outcome: str = "kept_30d") -> tuple[float, float]:
    """A value no policy can beat, even one that sees what is latent: mean per visitor and its standard error.

    Every visit meets a rested visitor and the best offer of the day, and every subscriber is looked after without being
    asked. For ``margin_eur`` looking after costs nothing here. In simulation.
    """
    p = scenario.parameters.values()
    if p["fatigue_per_view"] < 0:
        raise InvalidInputError(
            f"fatigue_per_view is {p['fatigue_per_view']}; the bound needs 0 or more: views that please are not covered"
        )
    subjects = world.Subjects.draw(scenario, np.arange(n_subjects, dtype=np.int64), seed=seed)
    odds = visit_odds(scenario, subjects, is_cared_for=p["retention_offer_effect"] < 0)
    allowed = visitor_offers(scenario)
    return _mean(market_value(odds, subjects.return_rate, outcome=outcome, allowed=allowed))


def visitor_offers(scenario: Scenario) -> FloatArray:
    """1 for offers that a visitor may be shown, shape ``(k,)``."""
    from policies.eligibility import excluded_by

    excluded = excluded_by(scenario.rules, scenario.offers, {"stage": world.STAGES[world.VISITOR]})
    return np.asarray([o not in excluded for o in scenario.offers.ids], dtype=np.float64)


class Oracle:
    """A policy that sees what is latent, and shows what is worth most in this one visit; a yardstick, never a candidate.

    Parameters
    ----------
    seed
        Of the rollout it acts in: it recognises the visitors by their names.
    outcome
        What it maximises.
    """

    name = "oracle"
    traits = PolicyTraits()

    def __init__(self, scenario: Scenario, *, seed: int, outcome: str = "kept_30d") -> None:
        self._scenario, self._seed, self._outcome = scenario, seed, outcome

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """One on the offer that is worth most to each visitor."""
        if table.subjects is None:
            raise InvalidInputError("the oracle got a table without subjects; it recognises visitors by name")
        ids: IntArray = np.asarray([int(str(name).lstrip("v")) for name in table.subjects], dtype=np.int64)
        subjects = world.Subjects.draw(self._scenario, ids, seed=self._seed)
        worth = visit_odds(self._scenario, subjects).immediate(self._outcome)
        # A subscriber has signed: the only offer that does something is the one that looks after them.
        is_loyalty = world.OfferNumbers.of(self._scenario).family == FAMILIES.index("loyalty")
        is_subscriber = table.columns["stage"] == world.STAGES[world.SUBSCRIBER]
        worth[is_subscriber] = is_loyalty if self._outcome == "kept_30d" else 0.0
        worth[~table.eligible] = -np.inf
        out = np.zeros(table.eligible.shape)
        out[np.arange(len(table)), worth.argmax(axis=1)] = 1.0
        return out


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
