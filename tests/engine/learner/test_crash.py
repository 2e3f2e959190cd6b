"""A learner's process is killed again and again: what it has learned in the end is what learning once would have given."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.learner.audit import audit
from engine.learner.snapshots import load_state
from engine.learner.ticks import read_ticks
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from policies.features import FeatureSpace
from policies.records import Context, DecisionTable, SubjectId
from policies.registry import load_policy
from policies.vw import VowpalWabbit
from tests.engine.service_world import SECRET, shop

pytestmark = pytest.mark.slow
SOON = RewardDefinition((RewardTerm("click"),), window_s=0.2)


def traffic(service: DecisionService, first: int, n: int) -> None:
    """Decisions of many visitors, some of whom click."""
    service.decide_many(
        [DecisionRequest("shop", f"u{i % 97}", {"x": float(i % 7)}, id=f"d{i}") for i in range(first, first + n)]
    )
    service.reward_many([RewardRequest(f"d{i}", "click") for i in range(first, first + n, 5)])


def learner(home: Path) -> subprocess.Popen[bytes]:
    """Start a learner as an operator does."""
    command = [sys.executable, "-m", "api.cli", "learn", "--all", "--home", str(home)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)


def ticks_of(service: DecisionService, ref: str, *, beyond: int, process: subprocess.Popen[bytes]) -> int:
    """Wait for a tick beyond a number, and return the newest."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "the learner ended by itself"
        ticks = read_ticks(service.database, ref)
        if ticks and ticks[-1].number > beyond:
            return ticks[-1].number
        time.sleep(0.005)
    raise AssertionError("the learner did not go on")


def test_a_learner_killed_anywhere_goes_on_to_the_bit(tmp_path: Path) -> None:
    """SIGKILL right after a tick was written, three times; the last snapshot is what VW learns from the log at once."""
    pytest.importorskip("vowpal_wabbit_next", reason="missing tool: vowpal-wabbit-next; pip install 'nextoffer[serve]'")
    home = tmp_path / "home"
    contexts = [Context(SubjectId("u"), {"x": float(x)}) for x in range(7)]
    untaught = VowpalWabbit(FeatureSpace.fit(DecisionTable.from_contexts(shop().offer_set, contexts)))
    with open_service(home, secret=SECRET) as service:
        ref = str(service.policies.register(untaught.to_artifact(), name="vw", at=datetime.now(UTC)))
        service.put_placement(shop(policy=ref, reward=SOON))
        newest, made = 0, 0
        for _ in range(3):
            process = learner(home)
            traffic(service, made, 400)
            made += 400
            newest = ticks_of(service, ref, beyond=newest, process=process)
            process.kill()
            process.wait()
        process = learner(home)
        traffic(service, made, 100)
        head = service.database.head()
        deadline = time.monotonic() + 60
        while True:
            ticks = read_ticks(service.database, ref)
            if ticks[-1].stretch.end_offset >= head - 20 and ticks[-1].is_published:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        assert process.wait(30) == 0
        last = read_ticks(service.database, ref)[-1]
        assert last.is_published
        later = datetime.now(UTC) + timedelta(seconds=5)
        policy = load_policy(service.policies.artifact(ref))
        assert isinstance(policy, VowpalWabbit)
        policy.learn(export_interactions(service.database, "shop", definition=SOON, as_of=later))
        learned = load_state(service.policies, ref, last.number)
        assert learned.to_artifact().digest == load_policy(policy.to_artifact()).to_artifact().digest  # type: ignore[attr-defined]
        found = audit(service.database, service.policies, secret=SECRET)
        assert found.is_clean
        assert not found.not_recomputed
        assert found.n_snapshots >= 1
