"""Three lives of one site through a shock in week three: with the loop, without it, and with a policy that knew it beforehand.

The loop is that of ``engine.retrain`` without its store: each night candidates are fitted on the last days, judged by the gate on
held-out time, and what passes gets half of the visitors until an interval that holds at all times says better or worse. The same
visitors, the same luck in all three.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from engine.gate.records import conclude
from engine.retrain.fitting import fit_candidates
from engine.retrain.judging import judge
from engine.retrain.records import RetrainConfig
from engine.retrain.split import by_time
from engine.store.facts import from_us
from offline_eval.abtest.confidence_sequence import sequence_interval
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import Uniform
from policies.greedy import greedy
from policies.protocols import Policy
from policies.records import FloatArray, IntArray, InteractionBatch
from policies.sampling import decide
from policies.stacking import concatenate
from simulator.calendar import Calendar, Shock
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.streams import Purpose, uniforms

Life = Literal["loop", "frozen", "knew"]
DEALS = ("city_deal", "compact_deal", "suv_deal")
_FIRST_POLICY_DAY = 7
_CANARY_DAYS = 4
# Visitors at which the canary's interval is narrowest: two days of them.
_PLANNED = 3_000


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Size of a life.

    Parameters
    ----------
    shock_day, log_odds
        From that day on discounts lose so much of the log-odds of a click and a contract, as if a competitor undercut them.
    per_day
        Visitors that arrive a day.
    """

    n_days: int = 28
    shock_day: int = 15
    log_odds: float = -2.0
    per_day: int = 800
    explore_share: float = 0.3
    config: RetrainConfig = field(
        default_factory=lambda: RetrainConfig(
            "loop", candidates=("greedy_lightgbm",), memories_days=(2.0, 0.0), window_days=5.0, held_out_share=0.4
        )
    )


@dataclass(frozen=True, slots=True, eq=False)
class Lived:
    """One life, by day, each of shape ``(n_days,)``.

    Attributes
    ----------
    clicked
        Share of decisions that were clicked.
    nights
        Nights on which a candidate went live.
    """

    clicked: FloatArray
    n_decisions: IntArray
    nights: tuple[int, ...]
    n_refused: int


def shocked(settings: LoopSettings, *, from_day: int | None = None) -> Scenario:
    """The site with its shock."""
    day = settings.shock_day if from_day is None else from_day
    return replace(reference(), name="shock", calendar=Calendar(shocks=(Shock(day, 10_000, settings.log_odds, DEALS),)))


def knowing_policy(settings: LoopSettings, *, seed: int) -> Policy:
    """What the same model learns from a long log of the site after its shock: as far as the loop can come."""
    run = rollout(
        shocked(settings, from_day=0), Uniform(), n_subjects=6_000, visit_days=14, seed=seed + 77, explore_share=1.0
    )
    return _fit(run.interactions("clicked"), settings)


def live(life: Life, settings: LoopSettings, *, seed: int) -> Lived:
    """Let a site live day by day; rotation for a week, then a policy, then a shock."""
    site = shocked(settings).open(n_subjects=settings.per_day * settings.n_days, visit_days=settings.n_days, seed=seed)
    policy: Policy = Uniform()
    canary: _Canary | None = None
    log: list[InteractionBatch] = []
    clicked, n_decisions = np.zeros(settings.n_days), np.zeros(settings.n_days, dtype=np.int64)
    nights: list[int] = []
    n_refused = 0
    for day in range(settings.n_days):
        if life == "knew" and day == settings.shock_day:
            policy = knowing_policy(settings, seed=seed)
        visits = site.visits(day)
        u = uniforms(seed, site.ids[visits.rows], Purpose.DRAW, visits.visit_number)
        draws = decide(policy, visits.table, uniforms=u, explore_share=settings.explore_share)
        chosen, p = draws.chosen, draws.probabilities
        in_canary = np.zeros(len(visits), dtype=np.bool_)
        if canary is not None:
            in_canary = canary.takes(site.ids[visits.rows])
            own = decide(canary.policy, visits.table, uniforms=u, explore_share=settings.explore_share)
            chosen, p = np.where(in_canary, own.chosen, chosen), np.where(in_canary[:, None], own.probabilities, p)
        seen = site.respond(visits, chosen)
        site.end_of_day(day)
        reward = seen.clicked.astype(np.float64)
        log.append(
            InteractionBatch(
                table=visits.table,
                chosen=chosen,
                propensity=p[np.arange(len(chosen)), chosen],
                reward=reward,
                probabilities=p,
            )
        )
        clicked[day], n_decisions[day] = reward.mean(), len(reward)
        if day == _FIRST_POLICY_DAY - 1:
            policy = _fit(concatenate(log), settings)
        elif life == "loop" and day >= _FIRST_POLICY_DAY:
            if canary is not None:
                canary.add(in_canary, reward, visits.rows)
                word = canary.word()
                if word == "better":
                    policy = canary.policy
                    nights.append(day)
                canary = canary if word == "go on" else None
            if canary is None:
                found = _night(log, policy, settings, day=day)
                n_refused += found is None
                canary = None if found is None else _Canary(found, salt=day)
    return Lived(clicked, n_decisions, tuple(nights), n_refused)


def _fit(batch: InteractionBatch, settings: LoopSettings) -> Policy:
    from engine.training.reward import fit_reward_model

    space = FeatureSpace.fit(batch.table)
    return greedy(fit_reward_model(batch, kind="lightgbm", seed=settings.config.seed, space=space))


def _night(log: list[InteractionBatch], incumbent: Policy, settings: LoopSettings, *, day: int) -> Policy | None:
    """One retraining: the candidate that the gate passes, if any."""
    batch = concatenate(log[-int(settings.config.window_days) - 1 :])
    config = settings.config
    try:
        learn, held_out = by_time(batch, held_out_share=config.held_out_share, window_days=config.window_days)
        candidates = fit_candidates(batch, learn, config)
    except InvalidInputError:
        return None
    found = judge(
        batch.take(held_out), {}, candidates, incumbent=incumbent, explore_share=settings.explore_share, limits=config.limits,
        seed=config.seed, n_resamples=0,
    )  # fmt: skip
    verdict = conclude(
        found.parts,
        placement="loop",
        policy=found.chosen,
        incumbent="live",
        at=from_us(day * 86_400_000_000),
        inputs=str(day),
    )
    return candidates[found.chosen] if verdict.outcome == "pass" else None


class _Canary:
    """Half of the visitors, by a hash of their ids, and what each half has earned."""

    def __init__(self, policy: Policy, *, salt: int) -> None:
        self.policy = policy
        self._salt = salt
        self._days = 0
        self._sums: dict[tuple[bool, int], list[float]] = {}

    def takes(self, ids: IntArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Who meets the candidate."""
        return np.asarray(uniforms(self._salt, ids, Purpose.DRAW, np.zeros(len(ids), dtype=np.int64)) < 0.5)

    def add(self, in_canary: np.ndarray[tuple[int], np.dtype[np.bool_]], reward: FloatArray, rows: IntArray) -> None:
        """A day's rewards, by subject."""
        self._days += 1
        for side, row, value in zip(in_canary.tolist(), rows.tolist(), reward.tolist(), strict=True):
            cell = self._sums.setdefault((side, row), [0.0, 0.0])
            cell[0] += value
            cell[1] += 1.0

    def word(self) -> str:
        """Better, worse, or go on, by an interval of the difference per decision that holds at all times."""
        means: list[float] = []
        errors: list[float] = []
        n = 0
        for side in (True, False):
            cells = np.asarray([c for (s, _), c in self._sums.items() if s is side])
            if len(cells) < 20:
                return "go on"
            mean = cells[:, 0].sum() / cells[:, 1].sum()
            errors.append(float(np.sqrt(((cells[:, 0] - mean * cells[:, 1]) ** 2).sum()) / cells[:, 1].sum()))
            means.append(float(mean))
            n += len(cells)
        interval = sequence_interval(means[0] - means[1], math.hypot(*errors), n=n, planned=_PLANNED, alpha=0.05)
        if interval.low > 0:
            return "better"
        return "worse" if interval.high < 0 or self._days >= _CANARY_DAYS else "go on"
