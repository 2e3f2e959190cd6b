"""Machines are answered and never counted; an apprentice answers with the baseline and learns from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest, OutcomeRequest, RewardRequest
from engine.experiments.records import Experiment
from engine.experiments.results import experiment_results
from engine.learner.audit import audit
from engine.learner.learner import Learner
from engine.store.changes import Change
from policies.allocation import Variant
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import FixedOrder
from policies.linear import LinUCB
from policies.records import DecisionTable
from tests.engine.service_world import SECRET, START, Clock, exported, open_shop, shop


def test_a_machine_is_answered_logged_and_counted_nowhere(tmp_path: Path) -> None:
    """Baseline offer, certain, logged as a bot's; no exposure, assignment, stock, export or attribution, even if it activates."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=[shop(explore_share=0.9, baseline=("b",))]) as service:
        variants = (Variant("control", 5000, "baseline"), Variant("other", 5000, "baseline"))
        draft = service.experiments.create(Experiment("trial", "shop", variants), change=Change(START))
        service.experiments.start("trial", revision=draft.revision, change=Change(START))
        service.refresh()
        for i in range(10):
            made = service.decide(DecisionRequest("shop", f"crawler-{i}", id=f"bot{i}", role="bot")).decision
            assert (made.offer, made.propensity, made.rung, made.policy.name) == ("b", 1.0, "bot", "bot")
            assert (made.experiment, made.activated, made.recorded) == (None, False, True)
        person = service.decide(DecisionRequest("shop", "u1", id="d1")).decision
        service.activate("bot0")
        service.reward(RewardRequest("bot0", "subscribed"))
        assert service.outcome(OutcomeRequest("crawler-0", "subscribed", id="o1")).attributed_to == ()
        status = service.status("shop")
        assert (status.n_decisions, status.n_bot_decisions) == (11, 10)
        assert experiment_results(service.database, "trial", as_of=clock.now).subjects.tolist() == ["u1"]
        batch = exported(service.database, "shop", as_of=clock.forward(days=31))
        assert batch.decision_ids is not None
        assert batch.decision_ids.tolist() == [person.id]
        found = audit(service.database, service.policies, secret=SECRET)
        assert (found.n_recomputed, found.largest_difference, found.n_other_choice) == (11, 0.0, 0)


def test_the_names_of_the_last_rungs_are_reserved(tmp_path: Path) -> None:
    """Nobody registers a policy under a name that readers leave out."""
    with open_shop(tmp_path) as service:
        for name in ("bot", "baseline"):
            with pytest.raises(InvalidInputError, match="choose another name"):
                service.policies.register(FixedOrder(("a",)).to_artifact(), name=name, at=START)


def test_an_apprentice_shows_the_baseline_and_learns_from_it(tmp_path: Path) -> None:
    """Every answer is the baseline's with probability 1, and the policy has learned from all of them when their windows close."""
    clock = Clock()
    placement = shop(explore_share=0.9, baseline=("c",))
    with open_shop(tmp_path, clock=clock, placements=[placement]) as service:
        table = DecisionTable(placement.offer_set, np.ones((4, 3), dtype=np.bool_), {"visits": np.arange(4.0)})
        ref = str(service.policies.register(LinUCB(FeatureSpace.fit(table)).to_artifact(), name="p", at=START))
        service.put_placement(shop(explore_share=0.9, baseline=("c",), policy=ref))
        service.refresh()
        for i in range(8):
            made = service.decide(DecisionRequest("shop", f"u{i}", {"visits": 1.0}, id=f"d{i}", role="apprentice"))
            assert (made.decision.offer, made.decision.propensity, made.decision.rung) == ("c", 1.0, "apprentice")
            assert str(made.decision.policy) == ref
            service.reward(RewardRequest(f"d{i}", "subscribed"))
        clock.forward(days=31)
        learner = Learner(
            service.database,
            service.policies,
            placement="shop",
            definition=placement.reward,
            ref=ref,
            clock=clock,
        )
        assert learner.tick() == 8
        assert learner.publish() == 1
        found = audit(service.database, service.policies, secret=SECRET)
        assert (found.n_recomputed, found.largest_difference, found.n_other_choice) == (8, 0.0, 0)
        assert (found.n_snapshots, found.n_other_snapshots) == (1, 0)
