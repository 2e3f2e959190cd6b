"""Several workers over one store: one writer process, one truth."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, EventRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.offers.placement import CatalogueOffer, Placement
from engine.store.writer_process import socket_path
from policies.errors import ConflictError
from tests.engine.service_world import SECRET, Clock, offer, open_shop, shop


def worker(folder: Path) -> DecisionService:
    """A service that shares its writer."""
    return open_service(folder, secret=SECRET, clock=Clock(), writer="process")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with a shop."""
    with open_shop(tmp_path):
        pass
    return tmp_path


def test_two_workers_see_each_others_ids(folder: Path) -> None:
    """A retry that lands on another worker gets the first one's answer; another request a conflict."""
    with worker(folder) as one, worker(folder) as two:
        first = one.decide(DecisionRequest("shop", "u1", id="d1")).decision
        again = two.decide(DecisionRequest("shop", "u1", id="d1"))
        assert (again.decision, again.is_repeat) == (first, True)
        with pytest.raises(ConflictError):
            two.decide(DecisionRequest("shop", "u2", id="d1"))
        assert two.reward(RewardRequest("d1", "subscribed")).joined


def test_the_log_does_not_depend_on_where_the_writer_lives(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Thread or process: the same requests give the same decisions at the same offsets."""
    other = tmp_path_factory.mktemp("thread")
    requests = [DecisionRequest("shop", f"u{i}", {"x": float(i)}, id=f"d{i}") for i in range(700)]
    with worker(folder) as shared, open_shop(other) as alone:
        assert [a.decision for a in shared.decide_many(requests)] == [a.decision for a in alone.decide_many(requests)]
        sql = "SELECT ledger_offset, id, body FROM decisions ORDER BY ledger_offset"
        assert shared.database.rows(sql) == alone.database.rows(sql)


def test_racing_workers_record_an_id_once(folder: Path) -> None:
    """Eight threads over two workers ask for the same ids: each id has one row, and all got the same answer."""
    found: list[tuple[str, str]] = []
    with worker(folder) as one, worker(folder) as two:

        def ask(service: DecisionService) -> None:
            for i in range(15):
                found.append((f"d{i}", service.decide(DecisionRequest("shop", "u1", id=f"d{i}")).decision.offer))

        threads = [threading.Thread(target=ask, args=(s,)) for s in (one, two) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 * 15
        assert len(set(found)) == 15
        assert one.database.head() == 16


def test_events_taken_in_by_another_worker_are_seen_soon(folder: Path) -> None:
    """What is cached of a subject follows the ledger within a fraction of a second."""
    later = Clock().forward(seconds=5)
    with worker(folder) as one, worker(folder) as two:
        assert one.subjects.recent("u1", as_of=later) == []
        two.event(EventRequest("u1", "view", "p1", id="e1"))
        deadline = time.monotonic() + 30
        while not one.subjects.recent("u1", as_of=later):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_stock_is_counted_over_all_workers(folder: Path) -> None:
    """What one worker has shown is missing from the other's stock."""
    place = Placement("p", (CatalogueOffer(offer("rare"), stock=2), CatalogueOffer(offer("common"))), explore_share=0.0)
    with worker(folder) as one, worker(folder) as two:
        one.put_placement(place)
        two.refresh()
        assert [one.decide(DecisionRequest("p", f"u{i}")).decision.offer for i in range(3)] == [
            "rare",
            "rare",
            "common",
        ]
        two.refresh()
        assert two.decide(DecisionRequest("p", "u9")).decision.offer == "common"


@pytest.mark.slow
def test_the_helper_leaves_when_the_last_worker_has(folder: Path) -> None:
    """No process stays behind; the next worker starts another."""
    with worker(folder) as one:
        one.decide(DecisionRequest("shop", "u1"))
        assert socket_path(folder).exists()
    deadline = time.monotonic() + 15
    while socket_path(folder).exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with worker(folder) as two:
        assert two.decide(DecisionRequest("shop", "u2")).decision.recorded


def test_a_long_data_folder_still_has_a_socket(tmp_path: Path) -> None:
    """A path longer than a socket may have is replaced by a short private one."""
    deep = tmp_path / ("x" * 120)
    with open_service(deep, secret=SECRET, writer="process") as service:
        service.put_placement(shop())
        assert service.decide(DecisionRequest("shop", "u1")).decision.recorded
