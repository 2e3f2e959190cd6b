"""When the log or a policy fails, the page still gets an offer and the log stays true."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.ladder import BaselineOrder, Ladder
from engine.decisions.log import BULK
from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.registry.versions import LoadedPolicy, Registry
from engine.store.database import Database, sqlite_url
from engine.store.sqlite_backend import SqliteBackend
from engine.store.writer import ThreadWriter
from policies.errors import NoEligibleOfferError, StoreUnavailableError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, OfferSet, PolicyRef
from tests.engine.service_world import SECRET, Clock, exported, offer, open_shop


def lock(path: Path) -> sqlite3.Connection:
    """Another program that holds the store's write lock."""
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_when_the_log_does_not_answer_the_fallback_does_and_it_recovers_without_a_restart(tmp_path: Path) -> None:
    """A decision that is not on disk says so, is no exposure, and its reward is taken and ignored."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        service.log.commit_timeout_s = 0.3
        other = lock(service.database.sqlite_path)
        answer = service.decide(DecisionRequest("shop", "u1", id="d1"))
        assert not answer.decision.recorded
        assert not answer.decision.activated
        assert (answer.decision.rung, answer.decision.offer) == ("unrecorded", "a")
        assert answer.payload == {"title": "Offer a"}
        with pytest.raises(StoreUnavailableError):
            service.reward(RewardRequest("d1-other", "click", must_join=False))
        other.execute("ROLLBACK")
        other.close()
        assert service.reward(RewardRequest("d1", "subscribed")).status == "ignored"
        deadline = time.monotonic() + 30
        while not service.decide(DecisionRequest("shop", "u2")).decision.recorded:
            assert time.monotonic() < deadline
        service.decide(DecisionRequest("shop", "u3", id="last"))
        clock.forward(days=31)
        service.close()
        with Database(sqlite_url(tmp_path / "nextoffer.db")) as database:
            batch = exported(database, "shop", as_of=clock.now)
        assert batch.decision_ids is not None
        # The row of d1 may have reached the disk after its caller was answered: it is taken back, never learned.
        assert "d1" not in batch.decision_ids
        assert "last" in batch.decision_ids


def test_a_full_disk_is_answered_with_the_fallback(tmp_path: Path) -> None:
    """With no page left for the log, answers go on; recording comes back with the space, without a restart."""
    with open_shop(tmp_path):
        pass
    path = tmp_path / "nextoffer.db"
    is_full = [True]

    def open_backend() -> SqliteBackend:
        backend = SqliteBackend(path)
        if is_full:
            (pages,) = backend._connection.execute("PRAGMA page_count").fetchone()
            backend._connection.execute(f"PRAGMA max_page_count={pages}")
        return backend

    database = Database(sqlite_url(path))
    with DecisionService(
        database, ThreadWriter(open_backend), artifacts=tmp_path / "artifacts", secret=SECRET, clock=Clock()
    ) as service:
        request = DecisionRequest("shop", "u1", {f"f{i}": "x" * 500 for i in range(20)})
        while service.decide(request).decision.recorded:
            assert database.head() < 100
        assert not service.status("shop").is_log_healthy
        with pytest.raises(StoreUnavailableError, match="full"):
            service.reward_many([RewardRequest(f"d{i}", "x" * 60, must_join=False) for i in range(500)])
        is_full.clear()
        assert service.decide(request).decision.recorded
        assert service.status("shop").is_log_healthy


def test_the_memory_of_a_long_outage_leaves_room_for_live_facts(tmp_path: Path) -> None:
    """What an outage left unrecorded is taken back in parts that never fill the queue, without more traffic than one."""
    with open_shop(tmp_path):
        pass
    path = tmp_path / "nextoffer.db"
    database = Database(sqlite_url(path))
    writer = ThreadWriter(lambda: SqliteBackend(path), queue_limit=BULK + 10)
    with DecisionService(database, writer, artifacts=tmp_path / "artifacts", secret=SECRET, clock=Clock()) as service:
        for i in range(5 * BULK):
            service.log.note_unrecorded(f"lost-{i}", Clock().now)
        deadline = time.monotonic() + 30
        while sum(1 for _ in database.rows("SELECT decision FROM voids")) < 5 * BULK:
            assert service.decide(DecisionRequest("shop", "u1")).decision.recorded
            assert time.monotonic() < deadline


class Broken:
    """A policy that fails in the way it is told."""

    name = "broken"
    traits = PolicyTraits()

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Uniform, unless at fault."""
        if self.fault == "raises":
            raise ZeroDivisionError("by design")
        p = table.eligible / table.eligible.sum(axis=1, keepdims=True)
        if self.fault == "nan":
            return np.full_like(p, np.nan)
        if self.fault == "leaks":
            return np.full_like(p, 1.0 / p.shape[1])
        return np.asarray(2.0 * p if self.fault == "too much" else p)


def table(eligible: list[bool]) -> DecisionTable:
    """One decision among as many offers as there are flags."""
    return DecisionTable(OfferSet([offer(f"o{i}") for i in range(len(eligible))]), np.asarray([eligible]))


@pytest.mark.parametrize("fault", ["raises", "nan", "leaks", "too much"])
def test_each_rung_of_the_ladder_gives_a_valid_distribution(tmp_path: Path, fault: str) -> None:
    """A policy that breaks leaves the decision to its last good snapshot; without one, to the baseline order."""
    ref = PolicyRef("p", "1")
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        registry = Registry(database, tmp_path)
        ladder = Ladder(registry)
        registry.publish("p@1", LoadedPolicy(Broken(fault), ref, "s1", ""))

        def draw() -> tuple[str, str, list[float]]:
            rung = ladder.draw(
                "p@1", table([True, False, True, True]), uniform=0.5, explore_share=0.3, order=("o1", "o3")
            )
            return rung.name, rung.loaded.snapshot, rung.probabilities

        name, _, p = draw()
        assert name == "baseline"
        assert p == pytest.approx([0.1, 0.0, 0.1, 0.8])
        registry.publish("p@1", LoadedPolicy(Broken(), ref, "s2", "", 2))
        assert draw()[:2] == ("policy", "s2")
        registry.publish("p@1", LoadedPolicy(Broken(fault), ref, "s3", "", 3))
        name, snapshot, p = draw()
        assert (name, snapshot) == ("last_good", "s2")
        assert p == pytest.approx([1 / 3, 0.0, 1 / 3, 1 / 3])
        assert ladder.n_faults == 2


def test_the_ladder_does_not_hide_that_nothing_may_be_shown(tmp_path: Path) -> None:
    """No rung can answer where no offer is eligible."""
    with Database(sqlite_url(tmp_path / "store.db")) as database, pytest.raises(NoEligibleOfferError):
        Ladder(Registry(database, tmp_path)).draw(
            None, table([False, False, False]), uniform=0.5, explore_share=0.1, order=()
        )


def test_the_baseline_order_ranks_offers_it_does_not_name_last() -> None:
    """Named offers in their order, then the others as the catalogue has them."""
    p = BaselineOrder(["o2"]).probabilities(
        DecisionTable(table([True] * 4).offers, np.asarray([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]], dtype=np.bool_))
    )
    assert p.argmax(axis=1).tolist() == [2, 1, 3]
    assert p.sum(axis=1).tolist() == [1.0, 1.0, 1.0]


TRAFFIC = """
import sys, threading
from pathlib import Path
from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService
from policies.errors import OverloadedError, StoreUnavailableError
from tests.engine.service_world import SECRET

service = open_service(Path(sys.argv[1]), secret=SECRET, writer=sys.argv[3], url=sys.argv[4] or None)
lock = threading.Lock()

def say(line):
    with lock:
        sys.stdout.write(line + chr(10))
        sys.stdout.flush()

def visit(name):
    i = 0
    while True:
        i += 1
        try:
            decision = service.decide(DecisionRequest("shop", f"{name}-{i}", {"x": float(i)})).decision
        except OverloadedError:
            continue
        if decision.recorded:
            say(f"decision {decision.id} {decision.offer}")
        if i % 3 == 0:
            try:
                receipt = service.reward(RewardRequest(decision.id, "subscribed", float(i)))
            except (OverloadedError, StoreUnavailableError):
                continue
            if receipt.status == "recorded":
                say(f"reward {decision.id} {float(i)}")

for name in ("one", "two", "three"):
    threading.Thread(target=visit, args=(name + sys.argv[2],), daemon=True).start()
threading.Event().wait()
"""


def start_traffic(folder: Path, said: Path, *, name: str, writer: str, url: str = "") -> subprocess.Popen[bytes]:
    """A process that decides and rewards as fast as it can, and says what was acknowledged."""
    with said.open("wb") as sink:
        return subprocess.Popen([sys.executable, "-c", TRAFFIC, str(folder), name, writer, url], stdout=sink)


def wait_for(said: Path, process: subprocess.Popen[bytes], *, n_bytes: int) -> None:
    """Until a process has acknowledged something."""
    deadline = time.monotonic() + 60
    while said.stat().st_size < n_bytes:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def check_log(database: Database, said: list[Path]) -> int:
    """Everything that was said is in the log, and offsets have no holes; returns how much was checked."""
    decisions = dict(database.rows("SELECT id, offer FROM decisions"))
    rewards = dict(database.rows("SELECT decision, value FROM rewards"))
    voided = {decision for (decision,) in database.rows("SELECT decision FROM voids")}
    offsets = [o for t in ("decisions", "rewards", "voids") for (o,) in database.rows(f"SELECT ledger_offset FROM {t}")]
    assert sorted(offsets) == list(range(1, len(offsets) + 1))
    n_checked = 0
    for line in [line for path in said for line in path.read_text().split("\n")[:-1]]:
        kind, decision, value = line.split(" ")
        assert decision not in voided
        assert (decisions[decision] == value) if kind == "decision" else (rewards[decision] == float(value))
        n_checked += 1
    return n_checked


@pytest.mark.slow
def test_killing_the_process_in_the_middle_of_traffic_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Every decision and reward that was acknowledged before SIGKILL is in the log, as it was answered."""
    with open_shop(tmp_path):
        pass
    rng = random.Random(7)
    said = [tmp_path / f"said-{attempt}" for attempt in range(3)]
    for attempt, path in enumerate(said):
        process = start_traffic(tmp_path, path, name=str(attempt), writer="thread")
        wait_for(path, process, n_bytes=4_000)
        time.sleep(rng.uniform(0.05, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    with open_service(tmp_path, secret=SECRET) as service:
        assert check_log(service.database, said) > 100
        assert service.decide(DecisionRequest("shop", "after")).decision.recorded


def helper_of(folder: Path) -> int:
    """Process id of the writer that holds the lock of a data folder."""
    lock = (folder / "writer.lock").stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{lock}"):
            return int(words[4])
    raise AssertionError("no helper holds the lock")


@pytest.mark.slow
def test_killing_the_writer_a_worker_or_all_at_once_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """Two workers share a writer process; whoever dies, what was acknowledged stays, and the others go on by themselves."""
    with open_shop(tmp_path, clock=None):
        pass
    rng = random.Random(11)
    said: list[Path] = []

    def start() -> tuple[subprocess.Popen[bytes], Path]:
        said.append(tmp_path / f"said-{len(said)}")
        return start_traffic(tmp_path, said[-1], name=str(len(said)), writer="process"), said[-1]

    workers = [start(), start()]
    try:
        for victims in ("writer", "worker", "all", "writer"):
            for process, path in workers:
                wait_for(path, process, n_bytes=path.stat().st_size + 2_000)
            time.sleep(rng.uniform(0.05, 0.3))
            if victims in ("writer", "all"):
                os.kill(helper_of(tmp_path), signal.SIGKILL)
            for i in range({"writer": 0, "worker": 1, "all": 2}[victims]):
                workers[i][0].kill()
                workers[i][0].wait()
                workers[i] = start()
        for process, path in workers:
            wait_for(path, process, n_bytes=path.stat().st_size + 2_000)
    finally:
        for process, _ in workers:
            process.kill()
            process.wait()
    with open_service(tmp_path, secret=SECRET) as service:
        assert check_log(service.database, said) > 200
