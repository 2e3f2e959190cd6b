"""On a real PostgreSQL: moving a store there and back, partitions, learners' locks, and a migration under load."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, EventRequest
from engine.learner.audit import audit
from engine.store.backends import opener
from engine.store.database import Database, sqlite_url
from engine.store.migrate import current_revision, downgrade, head_revision, upgrade
from engine.store.move import move
from engine.store.ownership import AdvisoryOwnership, ownership_of
from engine.store.partitions import SCHEMA, WIDTH, boundary_after, ensure_partitions
from engine.store.retention import retain
from engine.store.writer import ThreadWriter
from policies.errors import InvalidInputError
from tests.engine.learner.test_learner import Lab
from tests.engine.service_world import SECRET, START, Clock, exported, shop
from tests.engine.store.test_postgres import server, url  # noqa: F401 - fixtures
from tests.engine.store.test_upkeep import LATER, busy

pytestmark = pytest.mark.slow


def test_a_store_moves_to_postgresql_and_back_unchanged(url: str, tmp_path: Path) -> None:  # noqa: F811
    """Counts and digests of every table agree on three stores; the moved one serves, audits and joins the same."""
    lab = Lab(tmp_path / "home")
    for n in (70, 40):
        lab.traffic(n)
        learner = lab.learner()
        learner.tick()
        learner.publish()
    service = lab.service
    service.erase("u3")
    there_and_back = sqlite_url(tmp_path / "back.db")
    with Database(url) as postgres, Database(there_and_back) as back:
        found = move(service.database, postgres)
        assert found.rows["decisions"] == 110
        assert found.n_rows > 300
        with pytest.raises(InvalidInputError, match="holds rows"):
            move(service.database, postgres)
        assert move(postgres, back) == found
        expected = audit(service.database, service.policies, secret=SECRET)
        assert audit(postgres, service.policies, secret=SECRET) == expected
        assert expected.is_clean
        as_of = lab.clock.now + timedelta(days=1)
        for other in (postgres, back):
            batch = exported(other, "shop", as_of=as_of)
            assert batch.reward.tolist() == exported(service.database, "shop", as_of=as_of).reward.tolist()
    with open_service(tmp_path / "home", url=url, secret=SECRET, clock=lab.clock) as moved:
        assert moved.decide(DecisionRequest("shop", "new", {"x": 1.0})).decision.recorded
        moved.put_placement(shop(4))
    service.close()


def test_facts_lie_in_partitions_and_old_ones_go_by_a_drop(url: str, tmp_path: Path) -> None:  # noqa: F811
    """Partitions are made ahead of the head; what found none is moved out of the default one; emptied ones are dropped."""
    clock = Clock()
    with open_service(tmp_path, url=url, secret=SECRET, clock=clock) as service:
        database = service.database
        names = [r[0] for r in database.rows(f"SELECT tablename FROM pg_tables WHERE schemaname = '{SCHEMA}'")]
        assert {"events_first", "events_default", "events_p1"} <= set(names)
        service.put_placement(shop())
        for at in (0, WIDTH + 5, 3 * WIDTH + 7):  # the third has no partition yet
            with database.writing() as connection:
                connection.execute(text("UPDATE ledger_head SET next_offset = greatest(next_offset, :at)"), {"at": at})
            for i in range(4):
                service.event(EventRequest(f"u{i}", "view", at=START, id=f"e{at}-{i}"))
        assert database.rows(f"SELECT count(*) FROM {SCHEMA}.events_default") == [(4,)]
        assert ensure_partitions(database) > 0
        assert ensure_partitions(database) == 0
        assert database.rows(f"SELECT count(*) FROM {SCHEMA}.events_default") == [(0,)]
        assert database.rows(f"SELECT count(*) FROM {SCHEMA}.events_p3") == [(4,)]
        assert len(service.subjects.recent("u1", as_of=clock.forward(days=1))) == 3
        moved = retain(database, what="events", days=1, now=clock.forward(days=9), cold=tmp_path / "cold")
        assert (moved.n_rows, moved.n_partitions) == (12, 1)
        assert service.event(EventRequest("u1", "view", at=START, id="e0-1")).status == "repeat"
    assert boundary_after(1) == boundary_after(WIDTH) == WIDTH
    assert boundary_after(WIDTH + 1) == 2 * WIDTH


def test_a_learner_lock_ends_with_its_session(url: str) -> None:  # noqa: F811
    """One session holds a version; when it is gone, whoever ended it, another gets it."""
    with Database(url) as database:
        one, two = ownership_of(database), ownership_of(database)
        assert isinstance(one, AdvisoryOwnership)
        assert one.claim("vw@1")
        assert not two.claim("vw@1")
        assert two.claim("vw@2")
        assert one.is_held()
        with database.writing() as connection:
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid != pg_backend_pid()"
                )
            )
        assert not one.is_held()
        deadline = time.monotonic() + 30
        two.close()
        while not two.claim("vw@1"):
            assert time.monotonic() < deadline
        one.close()
        two.close()


@pytest.fixture
def before(url: str) -> str:  # noqa: F811
    """A store with the schema that came before the last three changes."""
    with Database(url) as database:
        upgrade(database, "0003")
    return url


def test_the_schema_moves_forward_and_back_under_load(before: str) -> None:
    """A writer and a reader that know the schema before go on while it changes below them: nothing fails, nothing is missing."""
    clock = Clock()
    with Database(before) as other, Database(before) as database:
        writer = ThreadWriter(opener(database))
        stop = threading.Event()
        ids: list[str] = []
        failed: list[str] = []
        longest = [0.0]

        def load() -> None:
            i = 0
            while not stop.is_set():
                started = time.monotonic()
                try:
                    writer.submit([_event_row(f"e{i}", clock)]).result(30)
                    assert database.rows("SELECT count(*) FROM events WHERE id = :i", i=f"e{i}") == [(1,)]
                    ids.append(f"e{i}")
                except Exception as error:  # whatever it is, the test tells
                    failed.append(repr(error))
                longest[0] = max(longest[0], time.monotonic() - started)
                i += 1

        thread = threading.Thread(target=load)
        thread.start()
        for revision in ("0004", "0005", "0006", "head"):
            time.sleep(0.3)
            upgrade(other, revision)
        time.sleep(0.3)
        assert current_revision(other) == head_revision()
        downgrade(other, "0003")
        time.sleep(0.3)
        upgrade(other)
        time.sleep(0.3)
        stop.set()
        thread.join()
        writer.close()
        assert failed == []
        assert len(ids) > 50
        assert other.rows("SELECT count(*) FROM events") == [(len(ids),)]
        assert longest[0] < 20.0


def _event_row(event_id: str, clock: Clock):  # type: ignore[no-untyped-def]  # a row of the writer's own kind
    from engine.store.facts import event_row
    from policies.records import Event, SubjectId

    return event_row(Event(event_id, SubjectId("u1"), "view", "", 0.0, clock.now))


def test_a_busy_shop_on_postgresql_can_be_erased_and_retained(url: str, tmp_path: Path) -> None:  # noqa: F811
    """Erasure and retention do on PostgreSQL what they do on SQLite."""
    clock = Clock()
    home = tmp_path / "lite"
    with busy(home, clock) as service, Database(url) as postgres:
        before = exported(service.database, "shop", as_of=LATER)
        move(service.database, postgres)
    with open_service(home, url=url, secret=SECRET, clock=clock) as moved:
        found = moved.erase("anon-7")
        assert (found.n_ids, found.n_decisions, found.n_events, found.n_outcomes) == (2, 12, 12, 4)
        after = exported(moved.database, "shop", as_of=LATER)
        assert after.reward.tolist() == before.reward.tolist()
        now = clock.forward(days=60)
        assert retain(moved.database, what="events", days=31, now=now, cold=tmp_path / "cold").n_rows == 12
        assert retain(moved.database, what="decisions", days=31, now=now, cold=tmp_path / "cold").n_rows == 24
