"""Where versions stand, and which of them are kept."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest
from engine.experiments.audit import read_audit
from engine.experiments.records import Experiment
from engine.learner.audit import audit
from engine.registry.keeping import tidy
from engine.registry.states import States
from engine.registry.versions import PolicyVersion, Registry, RemovedVersionError
from engine.store.changes import Change
from policies.allocation import Variant
from policies.artifact import Artifact, save_artifact
from policies.errors import StateError
from policies.fixed import FixedOrder
from tests.engine.service_world import SECRET, START, Clock, open_shop, shop


def test_a_version_moves_step_by_step_and_each_step_is_told(tmp_path: Path) -> None:
    """A move that is none is refused by name; each one keeps who, when, why, before and after."""
    with open_shop(tmp_path) as service:
        states = States(service.database)
        states.enter("shop", "p@1", change=Change(START, "retrain", "judged"))
        assert states.enter("shop", "p@1", change=Change(START)).state == "candidate"
        with pytest.raises(StateError, match="cannot become canary"):
            states.move("shop", "p@1", "canary", change=Change(START, reason="too fast"))
        states.move("shop", "p@1", "shadow", change=Change(START, "ann", "looks good"))
        states.move("shop", "p@1", "canary", change=Change(START, reason="no fault"), experiment="e1")
        moved = states.move("shop", "p@1", "live", change=Change(START, reason="it won"), previous="baseline")
        assert (moved.state, moved.experiment, moved.previous) == ("live", "e1", "baseline")
        rows = read_audit(service.database, what="policy p@1")
        assert [r.action for r in rows] == ["live", "canary", "shadow", "candidate"]
        shadow = rows[2]
        assert (shadow.actor, shadow.at, shadow.reason) == ("ann", START, "looks good")
        assert (shadow.document["before"], shadow.document["after"]) == ({"state": "candidate"}, {"state": "shadow"})


def test_ten_versions_are_kept_and_none_that_an_audit_needs_goes_unsaid(tmp_path: Path) -> None:
    """The eleventh and older go, but for what serves and what logged decisions need; a removed one is named by the replay."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        orders = ["abc", "acb", "bac", "bca", "cab", "cba", "ab", "ba", "ac", "ca", "bc", "cb", "a"]
        refs = [
            str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name="p", at=clock.forward(hours=1)))
            for o in orders
        ]
        service.put_placement(shop(policy=refs[0]))
        service.decide(DecisionRequest("shop", "u1", id="d1"))
        service.put_placement(shop(policy=refs[1]))
        found = tidy(service.database, service.policies, at=clock.now, actor="ann")
        assert found.removed == (refs[2],)
        assert "audit replay of 1 logged decisions needs it" in found.kept[refs[0]]
        assert "policy of placement shop" in found.kept[refs[1]]
        with pytest.raises(RemovedVersionError, match="was removed on"):
            service.policies.load(refs[2])
        with pytest.raises(RemovedVersionError, match="was removed on"):
            service.put_placement(shop(policy=refs[2]))
        two = (Variant("a", 5_000, "baseline"), Variant("b", 5_000, refs[2]))
        with pytest.raises(StateError, match="which decides variant 'b', was removed; register it again"):
            service.experiments.create(Experiment("e1", "shop", two), change=Change(clock.now))
        assert audit(service.database, service.policies, secret=SECRET).is_clean
        assert tidy(service.database, service.policies, at=clock.now).removed == ()
        gone = tidy(service.database, service.policies, at=clock.now, even_audited=True)
        assert gone.removed == (refs[0],)
        assert "1 logged decisions of it cannot be recomputed" in read_audit(service.database)[0].reason
        replayed = audit(service.database, service.policies, secret=SECRET)
        assert replayed.n_recomputed == 0
        assert any("was removed on" in reason for reason in replayed.not_recomputed)
        assert len([v for v in service.policies.versions() if v.removed_at is None]) == 11
        again = service.policies.register(FixedOrder(tuple("bac")).to_artifact(), name="p", at=clock.now)
        assert service.policies.load(str(again)).ref == again


class _RegisteredMeanwhile(Registry):
    """A registry in which somebody registers a version again at the moment when a tidying has marked or listed it as removed."""

    again: list[Artifact]

    def _meanwhile(self) -> None:
        if self.again:
            self.register(self.again.pop(), name="p", at=START)

    def forget(self, ref: str) -> None:
        """Let go of it; the row says removed by now, and the files are still there."""
        super().forget(ref)
        self._meanwhile()

    def versions(self) -> list[PolicyVersion]:
        """All versions, as they were before somebody came in between."""
        found = super().versions()
        if any(v.removed_at is not None for v in found):
            self._meanwhile()
        return found


@pytest.mark.parametrize("moment", ["after the mark", "after the list"])
def test_who_registers_a_version_again_while_it_is_tidied_keeps_its_files(tmp_path: Path, moment: str) -> None:
    """Between the row that says removed and the removal of the files, a registration wins: what its row says is there, is there."""
    old, new = FixedOrder(tuple("abc")).to_artifact(), FixedOrder(tuple("cab")).to_artifact()
    with open_shop(tmp_path) as service:
        registry = _RegisteredMeanwhile(service.database, service.policies.folder)
        registry.again = []
        ref = str(registry.register(old, name="p", at=START))
        registry.register(new, name="p", at=START + timedelta(hours=1))
        if moment == "after the list":
            assert tidy(service.database, registry, at=START, keep=1).removed == (ref,)
            save_artifact(old, registry.folder / registry.find(ref).location)  # as a crash before the removal leaves it
        registry.again.append(old)
        tidy(service.database, registry, at=START, keep=1)
        assert not registry.again
        assert registry.find(ref).removed_at is None
        assert registry.artifact(ref).digest == old.digest
        assert tidy(service.database, registry, at=START, keep=1).removed == (ref,)
        assert not list((registry.folder / "p").glob(f"*{old.digest}*"))
