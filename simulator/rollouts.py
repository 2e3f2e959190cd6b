"""A policy let loose on a cohort, everything logged the way the service logs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.errors import InvalidInputError, UnknownNameError
from policies.protocols import OnlineLearner, Policy
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray, InteractionBatch
from policies.sampling import DEFAULT_EXPLORE_SHARE, decide
from policies.stacking import stack_tables
from simulator.site import Site, Visits, World
from simulator.streams import Purpose, uniforms
from simulator.world import KEPT_AFTER_DAYS, MARKET_DAYS, MAX_DELAY_DAYS

# From the first visit until everything about a visitor is known: the market window, signing, 30 days of keeping.
WINDOW_DAYS = MARKET_DAYS + MAX_DELAY_DAYS + KEPT_AFTER_DAYS

RewardName = Literal["clicked", "subscribed", "kept_30d", "margin_eur"]
REWARDS: tuple[RewardName, ...] = ("clicked", "subscribed", "kept_30d", "margin_eur")
# How many days after a decision its reward may still come.
MAY_COME_DAYS: dict[RewardName, int] = {
    "clicked": 0, "subscribed": MAX_DELAY_DAYS, "kept_30d": MAX_DELAY_DAYS + KEPT_AFTER_DAYS,
    "margin_eur": MAX_DELAY_DAYS + KEPT_AFTER_DAYS,
}  # fmt: skip
# Days from the first visit until nothing more can come of any decision of a visitor; clicks are known at once.
_KNOWN_AFTER_DAYS: dict[RewardName, int] = {
    "clicked": 0, "subscribed": MARKET_DAYS + MAX_DELAY_DAYS, "kept_30d": WINDOW_DAYS, "margin_eur": WINDOW_DAYS,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class SubjectOutcomes:
    """What became of each visitor by the end, each of shape ``(n_subjects,)``.

    Attributes
    ----------
    is_matured
        Whether the visitor's whole window (visits, delay of signing, 30 days) lies inside the rollout.
    signed_day, cancelled_day
        Day of the contract and of its end; -1 where there is none.
    """

    subscribed: BoolArray
    kept_30d: BoolArray
    margin_eur: FloatArray
    n_visits: IntArray
    is_matured: BoolArray
    signed_day: IntArray
    cancelled_day: IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """Decisions in the order they were taken, and what came of the subjects.

    Attributes
    ----------
    row
        Which subject each decision belongs to, shape ``(n_decisions,)``.
    last_day
        Up to which day everything is known.
    """

    table: DecisionTable
    chosen: IntArray
    probabilities: FloatArray
    row: IntArray
    day: IntArray
    rewards: dict[str, FloatArray]
    subjects: SubjectOutcomes
    policy: str
    last_day: int

    def is_known(self, reward: RewardName) -> BoolArray:
        """Whether a reward of each decision is final, shape ``(n_decisions,)``; where it is not, its zero means "not yet".

        It depends on the visitor's first day alone and never on what came, so that what is known is no choice of the lucky.
        """
        if reward not in self.rewards:
            raise UnknownNameError("reward", reward, self.rewards)
        first = np.full(len(self.subjects.n_visits), np.iinfo(np.int64).max)
        np.minimum.at(first, self.row, self.day)
        return np.asarray(first[self.row] + _KNOWN_AFTER_DAYS[reward] <= self.last_day + 1, dtype=np.bool_)

    def interactions(self, reward: RewardName = "subscribed") -> InteractionBatch:
        """The log as estimators and learners read it: decisions of which the reward is final.

        An outcome of a subject is credited to its last decision before the contract, the rule the service declares.
        """
        known = np.flatnonzero(self.is_known(reward))
        n = len(self.chosen)
        batch = InteractionBatch(
            table=self.table,
            chosen=self.chosen,
            propensity=self.probabilities[np.arange(n), self.chosen],
            reward=self.rewards[reward],
            probabilities=self.probabilities,
            policies=np.full(n, self.policy, dtype=np.str_),
        )
        return batch if len(known) == n else batch.take(known)

    def mean(self, outcome: Literal["subscribed", "kept_30d", "margin_eur"]) -> tuple[float, float]:
        """Per matured visitor: mean and standard error."""
        values = np.asarray(getattr(self.subjects, outcome), dtype=np.float64)[self.subjects.is_matured]
        return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def rollout(
    scenario: World,
    policy: Policy,
    *,
    n_subjects: int,
    visit_days: int = 14,
    follow_days: int | None = None,
    as_of: int | None = None,
    seed: int,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
    first_subject: int = 0,
    learn_from: RewardName | None = None,
    uniforms_of: Callable[[Visits], FloatArray] | None = None,
    on_day: Callable[[int, int], None] | None = None,
) -> Rollout:
    """Let a policy choose for a cohort of visitors.

    Parameters
    ----------
    visit_days
        Visitors arrive uniformly over these days.
    follow_days
        Days after the last arrival; default: until every window is over.
    as_of
        Last day that is lived: the log as it stands that evening, with whatever is still open.
    seed
        Of everything; two policies with one seed meet the same visitors with the same luck.
    learn_from
        The policy learns every evening from the decisions whose reward of this name has become final, as it would from a ledger. What one
        visitor does then changes what later ones are shown.
    uniforms_of
        What each visit's offer is drawn with, shape ``(n,)``, such as the numbers a service would draw with; default: the
        subjects' own luck.
    on_day
        Called with (days done, days in all).

    Returns
    -------
    Rollout
        Decisions until each visitor's window for signing ends; rewards of windows cut off by ``follow_days`` are
        marked in ``subjects.is_matured``.

    Raises
    ------
    InvalidInputError
        If there are no visitors, none came by ``as_of``, or the policy is to learn and cannot.
    """
    if learn_from is not None and not isinstance(policy, OnlineLearner):
        raise InvalidInputError(f"policy {policy.name!r} does not learn; expected an online learner, such as lints")
    if n_subjects < 1 or visit_days < 1:
        raise InvalidInputError(
            f"got {n_subjects} visitors who arrive over {visit_days} days; expected at least one of both"
        )
    full = WINDOW_DAYS
    days = visit_days + (full if follow_days is None else follow_days)
    if as_of is not None:
        if as_of < 0:
            raise InvalidInputError(f"as_of is {as_of}; expected a day, 0 or later")
        days = min(days, as_of + 1)
    site = scenario.open(n_subjects=n_subjects, visit_days=visit_days, seed=seed, first_subject=first_subject)
    parts: list[_Part] = []
    signed_on = np.full(n_subjects, -1, dtype=np.int64)
    cancelled_on = np.full(n_subjects, -1, dtype=np.int64)
    for day in range(days):
        visits = site.visits(day)
        if len(visits):
            if uniforms_of is None:
                u = uniforms(seed, site.ids[visits.rows], Purpose.DRAW, visits.visit_number)
            else:
                u = uniforms_of(visits)
            draws = decide(policy, visits.table, uniforms=u, explore_share=explore_share)
            seen = site.respond(visits, draws.chosen)
            parts.append(_Part(visits.table, draws.chosen, draws.probabilities, visits.rows, visits.day, seen.clicked))
        facts = site.end_of_day(day)
        signed_on[facts.subscribed], cancelled_on[facts.cancelled] = day, day
        if learn_from is not None:
            assert isinstance(policy, OnlineLearner)
            _learn(policy, parts, site, signed_on, reward=learn_from, today=day)
        if on_day is not None:
            on_day(day + 1, days)
    if not parts:
        raise InvalidInputError(
            f"none of {n_subjects} visitors came by day {days - 1}; expected one: cut later, or take more visitors"
        )
    row, day_of = np.concatenate([p.row for p in parts]), np.concatenate([p.day for p in parts])
    credited = credit(row, day_of, signed_on)
    outcomes = SubjectOutcomes(
        subscribed=signed_on >= 0,
        kept_30d=site.is_kept,
        margin_eur=site.margin_eur,
        n_visits=site.n_visits,
        is_matured=site.arrival_day + full <= days,
        signed_day=signed_on,
        cancelled_day=cancelled_on,
    )
    rewards = {"clicked": np.concatenate([p.clicked for p in parts]).astype(np.float64)}
    for name in ("subscribed", "kept_30d", "margin_eur"):
        rewards[name] = np.where(credited, np.asarray(getattr(outcomes, name), dtype=np.float64)[row], 0.0)
    return Rollout(
        table=stack_tables([p.table for p in parts]),
        chosen=np.concatenate([p.chosen for p in parts]),
        probabilities=np.concatenate([p.probabilities for p in parts]),
        row=row,
        day=day_of,
        rewards=rewards,
        subjects=outcomes,
        policy=policy.name,
        last_day=days - 1,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The decisions of one day."""

    table: DecisionTable
    chosen: IntArray
    probabilities: FloatArray
    row: IntArray
    day: IntArray
    clicked: BoolArray


def _learn(
    policy: OnlineLearner, parts: list[_Part], site: Site, signed_on: IntArray, *, reward: RewardName, today: int
) -> None:
    """Let a policy learn from the decisions whose reward is final tonight: those of one day."""
    ripe = [part for part in parts if part.day[0] == today - MAY_COME_DAYS[reward]]
    for part in ripe:
        if reward == "clicked":
            earned = part.clicked.astype(np.float64)
        else:
            later = [p for p in parts if p.day[0] >= part.day[0]]
            credited = credit(np.concatenate([p.row for p in later]), np.concatenate([p.day for p in later]), signed_on)
            outcome = {"subscribed": signed_on >= 0, "kept_30d": site.is_kept, "margin_eur": site.margin_eur}[reward]
            earned = np.where(credited[: len(part.row)], np.asarray(outcome, dtype=np.float64)[part.row], 0.0)
        n = len(part.chosen)
        policy.learn(
            InteractionBatch(
                table=part.table,
                chosen=part.chosen,
                propensity=part.probabilities[np.arange(n), part.chosen],
                reward=earned,
                probabilities=part.probabilities,
            )
        )


def credit(row: IntArray, day: IntArray, signed_on: IntArray) -> BoolArray:
    """Which decision each contract is credited to: the subject's last one on or before the day of signing, shape ``(n,)``."""
    before = (signed_on[row] >= 0) & (day <= signed_on[row])
    last = np.full(len(signed_on), -1, dtype=np.int64)
    positions = np.flatnonzero(before)
    last[row[positions]] = positions  # decisions are in order of time, so the last assignment wins
    out = np.zeros(len(row), dtype=np.bool_)
    out[last[last >= 0]] = True
    return out
