"""A healthy site over several days, through the real service with a clock of its own; then the same site with one fault.

What the fault test of the alarms runs on, and what an operator can run with other thresholds before setting them.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, OutcomeRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.learner.learner import Learner
from engine.monitoring.faults import Fact, Fault, Features
from engine.monitoring.health import check_health
from engine.monitoring.records import HealthReport
from engine.monitoring.thresholds import Thresholds
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.store.facts import activation_row
from policies.epsilon import epsilon_greedy
from policies.features import FeatureSpace
from policies.records import Context, DecisionTable, Offer, OfferId, SubjectId
from policies.reward_models import CrossedRidgeRewardModel

PLACEMENT = "shop"
START = datetime(2026, 3, 2, tzinfo=UTC)
_OFFERS = {"monthly": 9.0, "yearly": 7.0, "family": 12.0, "student": 4.0}
_COUNTRIES = {"de": 0.45, "at": 0.25, "ch": 0.2, "li": 0.1}
_SLOTS_A_DAY = 48
_WINDOW_S = 6 * 3_600.0
# Shares of a day's visitors by hour: quiet at night.
_BY_HOUR = 1.2 + np.sin(np.linspace(-np.pi / 2, 1.5 * np.pi, 24))


class Rehearsal:
    """One site and its service.

    Parameters
    ----------
    folder
        Home of the service; made if it is not there.
    seed
        Of everything that visitors do.
    day
        How many days have gone by there.
    """

    def __init__(self, folder: Path, *, seed: int, a_day: int = 700, day: int = 0) -> None:
        self.folder, self.seed, self.a_day, self.day = folder, seed, a_day, day
        self.now = START + timedelta(days=day)
        # A machine that is busy with other things must not look like a site whose policies are slow.
        self.service: DecisionService = open_service(
            folder, secret=b"rehearsal rehearsal", clock=lambda: self.now, policy_deadline_s=60.0, commit_timeout_s=60.0
        )
        if not self.service.placements():
            self._set_up()
        placement, _ = self.service.placement(PLACEMENT)
        assert placement.policy is not None
        self._learner = Learner(
            self.service.database,
            self.service.policies,
            placement=PLACEMENT,
            definition=placement.reward,
            ref=placement.policy,
            clock=lambda: self.now,
        )
        self._due: list[tuple[datetime, Fact]] = []

    def _set_up(self) -> None:
        entries = tuple(CatalogueOffer(Offer(OfferId(o), {"price_eur": p})) for o, p in _OFFERS.items())
        reward = RewardDefinition((RewardTerm("subscribed"), RewardTerm("margin_eur", 0.05)), window_s=_WINDOW_S)
        placement = Placement(PLACEMENT, entries, explore_share=0.2, reward=reward)
        rng = np.random.default_rng([self.seed, 0])
        contexts = [Context(SubjectId(f"v{i}"), self._visitor(rng)) for i in range(200)]
        space = FeatureSpace.fit(DecisionTable.from_contexts(placement.offer_set, contexts))
        policy = epsilon_greedy(CrossedRidgeRewardModel(space, ridge=5.0), epsilon=0.2)
        ref = self.service.policies.register(policy.to_artifact(), name="learner", at=self.now)
        self.service.put_placement(
            Placement(PLACEMENT, entries, policy=str(ref), explore_share=0.2, reward=reward, baseline=("monthly",))
        )

    def copy(self, folder: Path) -> Rehearsal:
        """Another site with the same past; this one has to be closed."""
        shutil.copytree(self.folder, folder)
        return Rehearsal(folder, seed=self.seed, a_day=self.a_day, day=self.day)

    def live(self, days: int = 1, fault: Fault | None = None, *, look_every_h: int = 0) -> list[HealthReport]:
        """Let days go by, in half hours: decisions, views, then what visitors did by then.

        Parameters
        ----------
        look_every_h
            Read the health so often; 0: not.
        """
        broken = fault or Fault()
        reports: list[HealthReport] = []
        for _ in range(days):
            rng = np.random.default_rng([self.seed, 1 + self.day])
            shares = np.repeat(_BY_HOUR, 2)
            counts = rng.multinomial(self.a_day, shares / shares.sum())
            for slot, n in enumerate(counts.tolist()):
                self._slot(START + timedelta(days=self.day, minutes=30 * slot), n, broken, rng)
                # A learner is due all the time; every three hours is enough to keep up here.
                if broken.learns() and slot % 6 == 5:
                    while self._learner.tick():
                        pass
                    self._learner.publish()
                    self.service.policies.follow()
                if look_every_h and (slot + 1) % (2 * look_every_h) == 0:
                    reports.append(self.health())
            self.day += 1
        return reports

    def _slot(self, start: datetime, n: int, fault: Fault, rng: np.random.Generator) -> None:
        self.now = start
        moments = [start + timedelta(seconds=float(s)) for s in np.sort(rng.uniform(0, 1_700, n))]
        requests = [self._request(i, at, fault, rng) for i, at in enumerate(moments)]
        answers = self.service.decide_many(requests)
        self.now = start + timedelta(minutes=29)
        views = []
        for request, answer in zip(requests, answers, strict=True):
            assert request.at is not None
            shown = fault.shown(answer.decision.offer, rng)
            if fault.is_activated(rng):
                views.append(activation_row(answer.decision.id, request.at + timedelta(seconds=2), shown))
            self._due += self._came(answer.decision.id, request, shown, rng)
        self.service.log.wait(views)
        end = start + timedelta(minutes=30)
        told = sorted((f for f in self._due if f[0] < end), key=lambda f: f[0])
        self._due = [f for f in self._due if f[0] >= end]
        facts = fault.facts([f for _, f in told], rng)
        self.service.reward_many([f for f in facts if isinstance(f, RewardRequest)])
        self.service.outcome_many([f for f in facts if isinstance(f, OutcomeRequest)])
        self.now = end

    def _request(self, i: int, at: datetime, fault: Fault, rng: np.random.Generator) -> DecisionRequest:
        features = self._visitor(rng)
        subject = f"v{self.day}-{int(at.timestamp())}-{i}"
        request = DecisionRequest(
            PLACEMENT, subject, features, id=f"d-{subject}", at=at, is_activated=False, exclude=fault.exclude(features)
        )
        preview = ""
        if fault.previews:
            asked = DecisionRequest(PLACEMENT, subject, features, id=request.id, at=at, dry_run=True)
            preview = self.service.decide(asked).decision.offer
        sent = fault.features(features, preview)
        return DecisionRequest(
            PLACEMENT, subject, sent, id=request.id, at=at, is_activated=False, exclude=request.exclude
        )

    @staticmethod
    def _visitor(rng: np.random.Generator) -> Features:
        return {
            "country": str(rng.choice(list(_COUNTRIES), p=list(_COUNTRIES.values()))),
            "device": "phone" if rng.random() < 0.6 else "desktop",
            "visits": float(rng.poisson(4)),
            "age": float(np.round(rng.normal(40, 12))),
        }

    @staticmethod
    def _came(
        decision: str, request: DecisionRequest, shown: str, rng: np.random.Generator
    ) -> list[tuple[datetime, Fact]]:
        features = request.features
        logit = -2.0 + 0.5 * (shown == "yearly") + 0.6 * (features["device"] == "desktop") - 0.3 * (shown == "family")
        at = request.at
        assert at is not None
        subscribes, after_s = rng.random() < 1 / (1 + np.exp(-logit)), float(rng.exponential(1_500)) + 30
        margin, later_s = float(rng.lognormal(1.5, 0.5)), float(rng.exponential(1_800))
        if not subscribes:
            return []
        bought = at + timedelta(seconds=min(after_s, 3 * 3_600))
        billed = bought + timedelta(seconds=60 + min(later_s, 2 * 3_600))
        return [
            (bought, RewardRequest(decision, "subscribed", id=f"s-{decision}", at=bought)),
            (billed, OutcomeRequest(request.subject, "margin_eur", margin, id=f"m-{decision}", at=billed)),
        ]

    def health(self, thresholds: Thresholds | None = None) -> HealthReport:
        """Read it now."""
        return check_health(
            self.service.database, PLACEMENT, self.now, registry=self.service.policies, thresholds=thresholds
        )

    def close(self) -> None:
        """Let go of the service."""
        self.service.close()
