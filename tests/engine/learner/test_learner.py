"""The learner: each decision once, when its window closes; a crash changes nothing; an audit recomputes it all."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, OutcomeRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.learner.audit import audit
from engine.learner.learner import Learner
from engine.learner.snapshots import load_state
from engine.learner.ticks import learned_in, read_ticks
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from policies.errors import NextofferError, StateError
from policies.features import FeatureSpace
from policies.fixed import Uniform
from policies.linear import LinTS
from policies.protocols import SaveablePolicy
from policies.records import Context, DecisionTable, PolicyRef, SubjectId
from tests.engine.service_world import SECRET, START, Clock, open_shop, shop

HOUR = RewardDefinition((RewardTerm("click"), RewardTerm("subscribed", 5.0)), window_s=3_600.0)


def untaught() -> LinTS:
    """A linear Thompson policy that has seen nothing."""
    contexts = [Context(SubjectId("u"), {"x": x}) for x in (-1.0, 0.0, 2.0, 3.0)]
    return LinTS(FeatureSpace.fit(DecisionTable.from_contexts(shop().offer_set, contexts)))


class Lab:
    """A shop whose policy learns."""

    def __init__(self, folder: Path, policy: SaveablePolicy | None = None) -> None:
        policy = policy or untaught()
        self.clock = Clock()
        self.service: DecisionService = open_shop(folder, clock=self.clock)
        self.ref: PolicyRef = self.service.policies.register(policy.to_artifact(), name=policy.name, at=START)
        self.service.put_placement(shop(policy=str(self.ref), reward=HOUR))
        self.n = 0

    def learner(self) -> Learner:
        """Start a learner, as after a crash."""
        s = self.service
        return Learner(s.database, s.policies, placement="shop", definition=HOUR, ref=str(self.ref), clock=self.clock)

    def traffic(self, n: int) -> None:
        """Visitors, some of whom click now or subscribe within the hour."""
        for _ in range(n):
            self.n += 1
            self.clock.forward(minutes=1)
            name = f"u{self.n % 17}"
            decision = self.service.decide(
                DecisionRequest(
                    "shop", name, {"x": float(self.n % 5) - 2}, id=f"d{self.n}", is_activated=self.n % 6 > 0
                )
            ).decision
            if self.n % 12 == 0:
                self.service.activate(decision.id)
            if decision.offer == "b" and self.n % 3:
                self.service.reward(RewardRequest(decision.id, "click"))
            if self.n % 7 == 0:
                self.service.outcome(OutcomeRequest(name, "subscribed", at=self.clock.now + timedelta(minutes=20)))


@pytest.mark.slow
def test_every_seen_decision_is_learned_once_when_its_window_closes(tmp_path: Path) -> None:
    """However ticks fall, what was learned is the export of closed windows, and the numbers are its numbers."""
    lab = Lab(tmp_path)
    learner = lab.learner()
    assert learner.tick() == 0
    for n in (40, 3, 55, 1, 80):
        lab.traffic(n)
        learner.tick()
        closed = (
            export_interactions(lab.service.database, "shop", definition=HOUR, as_of=lab.clock.now)
            if lab.n > 70
            else ()
        )
        assert learner.n_learned == len(closed)
    lab.clock.forward(hours=2)
    learner.tick()
    everything = export_interactions(lab.service.database, "shop", definition=HOUR, as_of=lab.clock.now)
    assert learner.n_learned == len(everything) > 100
    assert everything.reward.sum() > 0
    lab.service.close()


@pytest.mark.slow
def test_after_a_crash_snapshot_and_ticks_give_the_same_state_to_the_bit(tmp_path: Path) -> None:
    """A learner that dies anywhere and one that lives publish the same snapshots."""
    lab = Lab(tmp_path)
    survivor = lab.learner()
    for n in (70, 30):
        lab.traffic(n)
        survivor.tick()
    assert survivor.publish() == len(read_ticks(lab.service.database, str(lab.ref)))
    lab.traffic(60)
    survivor.tick()  # dies before publishing
    lab.service.reward(RewardRequest("d1", "subscribed"))  # late truth comes while it is down
    heir = lab.learner()
    assert heir.publish() == survivor.publish()
    state = survivor._policy.to_artifact()
    assert heir._policy.to_artifact().digest == state.digest
    again = load_state(lab.service.policies, str(lab.ref), len(read_ticks(lab.service.database, str(lab.ref))))
    assert again.to_artifact().digest == state.digest
    assert state.digest != untaught().to_artifact().digest
    lab.service.close()


def test_servers_swap_in_a_snapshot_and_the_log_names_it(tmp_path: Path) -> None:
    """After a publish decisions come from the new snapshot; a reward can be told in which it was learned."""
    lab = Lab(tmp_path)
    lab.traffic(70)
    learner = lab.learner()
    assert lab.service.get_decision("d70").snapshot == lab.ref.version
    offset = lab.service.database.rows("SELECT ledger_offset FROM decisions WHERE id = 'd1'")[0][0]
    assert learned_in(lab.service.database, str(lab.ref), offset) is None
    learner.tick()
    number = learner.publish()
    assert number is not None
    assert learned_in(lab.service.database, str(lab.ref), offset) == number
    lab.service.policies.follow()
    lab.traffic(1)
    assert lab.service.get_decision("d71").snapshot == str(number)
    assert learner.publish() is None
    lab.service.close()


@pytest.mark.slow
def test_an_audit_recomputes_every_draw_and_every_snapshot(tmp_path: Path) -> None:
    """The largest difference is 0.0; a changed byte in the log is found."""
    lab = Lab(tmp_path)
    learner = lab.learner()
    for n in (70, 40, 50):
        lab.traffic(n)
        learner.tick()
        learner.publish()
        lab.service.policies.follow()
    service = lab.service
    found = audit(service.database, service.policies, secret=SECRET)
    assert (found.n_decisions, found.n_recomputed, found.largest_difference) == (160, 160, 0.0)
    assert (found.n_other_choice, found.n_snapshots, found.n_other_snapshots) == (0, 3, 0)
    assert found.is_clean
    with service.database.writing() as connection:
        connection.exec_driver_sql(
            "UPDATE decisions SET body = CAST(replace(CAST(body AS TEXT), '\"x\":1.0', '\"x\":1.5') AS BLOB) WHERE id = 'd158'"
        )
        connection.exec_driver_sql(
            "UPDATE rewards SET value = 3 WHERE ledger_offset = (SELECT min(ledger_offset) FROM rewards)"
        )
    spoilt = audit(service.database, service.policies, secret=SECRET)
    assert spoilt.largest_difference > 0.0
    assert spoilt.n_other_snapshots > 0
    other_secret = audit(service.database, service.policies, secret={1: b"not the secret it was drawn with"})
    assert other_secret.n_other_choice == 160
    service.close()


def test_a_rotated_secret_is_audited_by_its_version(tmp_path: Path) -> None:
    """Each draw says which secret it was made with; without that secret the audit names it and checks no uniform."""
    newer = b"the secret after a rotation"
    with open_shop(tmp_path, clock=Clock()) as service:
        service.put_placement(shop())
        service.decide(DecisionRequest("shop", "u1", id="before"))
    with open_service(tmp_path, secret=newer, secret_version=2, clock=Clock()) as service:
        service.decide(DecisionRequest("shop", "u1", id="after"))
        assert [service.get_decision(i).secret_version for i in ("before", "after")] == [1, 2]
        assert audit(service.database, service.policies, secret={1: SECRET, 2: newer}).is_clean
        found = audit(service.database, service.policies, secret={2: newer})
        assert found.n_other_choice == 0
        assert found.not_recomputed == {"uniform of a draw: secret version 1 was not given": 1}


def test_a_state_that_has_gone_bad_is_not_published(tmp_path: Path) -> None:
    """A snapshot must answer the last decisions with distributions."""
    lab = Lab(tmp_path)
    lab.traffic(80)
    learner = lab.learner()
    learner.tick()
    artifact = learner._policy.to_artifact()
    good = learner._policy

    class Spoilt:
        name = good.name
        traits = good.traits

        def to_artifact(self) -> object:
            arrays = {k: np.full_like(v, np.nan) if v.dtype.kind == "f" else v for k, v in artifact.arrays.items()}
            return type(artifact)(artifact.kind, artifact.manifest, arrays, artifact.blobs)

    learner._policy = Spoilt()  # type: ignore[assignment]
    try:
        assert learner.publish() is None
    except (NextofferError, FloatingPointError, np.linalg.LinAlgError):
        pytest.fail("a spoilt state must be refused, not raise")
    assert learner.n_refused == 1
    assert [t.is_left_out for t in read_ticks(lab.service.database, str(lab.ref))] == [True]
    lab.traffic(80)
    assert learner.tick() > 0
    assert learner.publish() == 2
    heir = lab.learner()
    assert heir._policy.to_artifact().digest == learner._policy.to_artifact().digest
    assert audit(lab.service.database, lab.service.policies, secret=SECRET).is_clean
    lab.service.close()


def test_a_policy_that_does_not_learn_is_refused(tmp_path: Path) -> None:
    """A fixed policy has no learner."""
    with open_shop(tmp_path) as service:
        ref = service.policies.register(Uniform().to_artifact(), name="even", at=START)
        with pytest.raises(StateError, match="does not learn online"):
            Learner(service.database, service.policies, placement="shop", definition=HOUR, ref=str(ref), clock=Clock())
