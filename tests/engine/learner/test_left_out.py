"""A tick that a policy cannot learn from is left out, and every other one is learned once, however often all begins again."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.learner.audit import audit
from engine.learner.learner import Learner
from engine.learner.ticks import read_tick, read_ticks
from policies.errors import InvalidInputError
from tests.engine.learner.test_learner import Lab
from tests.engine.plug_in import Diary, installed
from tests.engine.service_world import SECRET

ERRORS = [InvalidInputError("no such feature"), ValueError("a fault of the plug-in")]


def learned_by(learner: Learner) -> list[str]:
    """Ids of the decisions in a learner's state."""
    assert isinstance(learner._policy, Diary)
    return learner._policy.learned


def ids_by_tick(lab: Lab) -> list[list[str]]:
    """Ids of the decisions of each tick, as the ledger has them."""
    database, ref = lab.service.database, str(lab.ref)
    out = []
    for tick in read_ticks(database, ref):
        batches, _ = read_tick(database, ref, tick, {})
        out.append([i for b in batches if b.decision_ids is not None for i in b.decision_ids.tolist()])
    return out


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_a_tick_that_fails_when_all_begins_again_is_left_out_alone(tmp_path: Path, error: Exception) -> None:
    """Of four ticks since the start the second cannot be learned again: the state is the first, third and fourth, each once."""
    with installed(tmp_path / "site") as faults:
        lab = Lab(tmp_path, Diary())
        before_the_crash = lab.learner()
        for n in (64, 5, 7, 9):
            lab.traffic(n)
            assert before_the_crash.tick() > 0
        ticks = ids_by_tick(lab)
        assert learned_by(before_the_crash) == [i for ids in ticks for i in ids]
        faults.learning, faults.unlearnable = error, ticks[1][2]
        heir = lab.learner()
        assert learned_by(heir) == [*ticks[0], *ticks[2], *ticks[3]]
        assert [t.is_left_out for t in read_ticks(lab.service.database, str(lab.ref))] == [False, True, False, False]
        assert heir.n_learned == 0
        assert heir.publish() == 4
        assert lab.learner()._policy.to_artifact().digest == heir._policy.to_artifact().digest
        assert audit(lab.service.database, lab.service.policies, secret=SECRET).is_clean
        lab.service.close()


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_what_is_learned_again_is_not_counted_again(tmp_path: Path, error: Exception) -> None:
    """A new tick that fails leaves the state before it, and the count of what was learned stays as it was."""
    with installed(tmp_path / "site") as faults:
        lab = Lab(tmp_path, Diary())
        learner = lab.learner()
        lab.traffic(70)
        n = learner.tick()
        state = list(learned_by(learner))
        assert len(state) == n > 0
        lab.traffic(10)
        faults.learning, faults.unlearnable = error, "d14"
        assert learner.tick() == 0
        assert (learned_by(learner), learner.n_learned) == (state, n)
        lab.traffic(10)
        n += learner.tick()
        assert (len(learned_by(learner)), learner.n_learned) == (n, n)
        lab.service.close()


def test_memory_that_runs_out_costs_no_tick(tmp_path: Path) -> None:
    """That is the machine's trouble: the learner stops, nothing is left out, and the next one learns from everything."""
    with installed(tmp_path / "site") as faults:
        lab = Lab(tmp_path, Diary())
        before_the_crash = lab.learner()
        for n in (64, 5):
            lab.traffic(n)
            assert before_the_crash.tick() > 0
        ticks = ids_by_tick(lab)
        faults.learning, faults.unlearnable = MemoryError(), ticks[1][2]
        with pytest.raises(MemoryError):
            lab.learner()
        assert not any(t.is_left_out for t in read_ticks(lab.service.database, str(lab.ref)))
        faults.learning = None
        assert learned_by(lab.learner()) == [*ticks[0], *ticks[1]]
        lab.service.close()
