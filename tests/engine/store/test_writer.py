"""The one writer: batches, dedupes, keeps offsets without holes, survives the store's failures."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.store import facts
from engine.store.database import Database, sqlite_url
from engine.store.facts import CONFLICT, NEW, REPEAT, UNKNOWN_DECISION, FactRow, Receipt, void_row
from engine.store.sqlite_backend import SqliteBackend
from engine.store.writer import ThreadWriter, append_each, is_unavailable
from policies.errors import InvalidInputError, OverloadedError, StoreUnavailableError
from policies.records import Event, Reward
from tests.engine.service_world import START


def event(event_id: str, subject: str = "u1", value: float = 1.0) -> FactRow:
    """Row of an event."""
    return facts.event_row(Event(event_id, subject, "view", "item", value, START))  # type: ignore[arg-type]


def reward(reward_id: str, decision: str, *, must_join: bool) -> FactRow:
    """Row of a reward."""
    return facts.reward_row(Reward(reward_id, decision, "click", 1.0, START), must_join=must_join)  # type: ignore[arg-type]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """An empty store."""
    made = Database(sqlite_url(tmp_path / "store.db"))
    made.upgrade()
    return made


def test_a_row_is_on_disk_when_its_future_resolves(database: Database) -> None:
    """Another connection sees a row as soon as it is acknowledged."""
    writer = ThreadWriter(lambda: SqliteBackend(database.sqlite_path))
    (receipt,) = writer.submit([event("e1")]).result(30)
    with sqlite3.connect(database.sqlite_path) as other:
        assert other.execute("SELECT ledger_offset, id FROM events").fetchall() == [(receipt.offset, "e1")]
    writer.close()


@settings(max_examples=15, deadline=None)
@given(ids=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30), cuts=st.lists(st.integers(1, 7), max_size=9))
def test_offsets_have_no_holes_and_repeats_get_the_first_offset(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], cuts: list[int]
) -> None:
    """However rows are cut into batches, distinct ids get 1, 2, 3, … in order of first arrival, and repeats those."""
    path = tmp_path_factory.mktemp("ledger") / "store.db"
    with Database(sqlite_url(path)) as made:
        made.upgrade()
    backend = SqliteBackend(path)
    rows = [event(i) for i in ids]
    receipts: list[Receipt] = []
    for cut in [*cuts, len(rows)]:
        part, rows = rows[:cut], rows[cut:]
        if part:
            receipts += backend.append(part)
    first = {i: n + 1 for n, i in enumerate(dict.fromkeys(ids))}
    assert [r.offset for r in receipts] == [first[i] for i in ids]
    assert [r.status for r in receipts] == [REPEAT if i in ids[:n] else NEW for n, i in enumerate(ids)]
    backend.close()


def test_the_same_id_with_another_content_is_a_conflict(database: Database) -> None:
    """An id names one fact for ever."""
    backend = SqliteBackend(database.sqlite_path)
    backend.append([event("e1", value=1.0)])
    assert backend.append([event("e1", value=2.0)])[0].status == CONFLICT
    backend.close()


def test_a_reward_that_must_join_is_refused_without_its_decision(database: Database) -> None:
    """A reward for an unknown decision is refused or waits, as its sender asked; a refused id stays free."""
    backend = SqliteBackend(database.sqlite_path)
    refused, waits = backend.append([reward("r1", "d1", must_join=True), reward("r2", "d1", must_join=False)])
    assert (refused.status, waits.status, waits.joined) == (UNKNOWN_DECISION, NEW, False)
    assert backend.append([reward("r1", "d1", must_join=False)])[0] == Receipt(NEW, waits.offset + 1, False)
    backend.close()


class FailingBackend:
    """A store that fails as often as told, then works."""

    def __init__(self, failures: list[Exception], path: Path) -> None:
        self.failures = failures
        self.inner = SqliteBackend(path)

    def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
        """Fail or write."""
        if self.failures:
            raise self.failures.pop(0)
        return self.inner.append(rows)

    def close(self) -> None:
        """Let go."""
        self.inner.close()


def test_the_writer_recovers_when_the_store_does(database: Database) -> None:
    """A failed commit fails those who waited for it; the next one opens the store afresh and succeeds."""
    failures: list[Exception] = [StoreUnavailableError("disk full")]
    writer = ThreadWriter(lambda: FailingBackend(failures, database.sqlite_path))
    with pytest.raises(StoreUnavailableError, match="disk full"):
        writer.submit([event("e1")]).result(30)
    assert not writer.is_healthy
    assert writer.submit([event("e1")]).result(30)[0].status == NEW
    was_healthy: bool = writer.is_healthy
    assert was_healthy
    writer.close()


def test_a_row_that_no_store_takes_fails_alone(database: Database) -> None:
    """Half a surrogate pair in one submission fails that one; the others of its batch are written."""
    gate = threading.Event()

    class Slow(FailingBackend):
        def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
            gate.wait(5)
            return super().append(rows)

    writer = ThreadWriter(lambda: Slow([], database.sqlite_path))
    first = writer.submit([event("e0")])
    broken = event("bad")
    bad = writer.submit([broken._replace(values=("bad", "\ud800", *broken.values[2:]))])
    good = writer.submit([event("e1")])
    gate.set()
    assert first.result(30)[0].status == NEW
    assert good.result(30)[0].status == NEW
    with pytest.raises(InvalidInputError, match="well-formed"):
        bad.result(30)
    writer.close()


def test_a_store_that_goes_away_between_single_commits_takes_what_came_before_only(database: Database) -> None:
    """After a bad row each submission is committed alone; from the one at which the store is gone nothing more is tried."""
    inner = SqliteBackend(database.sqlite_path)
    calls: list[int] = []

    class Going:
        def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
            calls.append(len(rows))
            if len(rows) > 1:
                raise InvalidInputError("one of them")
            if rows[0].id == "e2":
                raise StoreUnavailableError("gone")
            return inner.append(rows)

        def close(self) -> None:
            inner.close()

    outcomes = append_each(Going(), [[event("e1")], [event("e2")], [event("e3")]])
    assert calls == [3, 1, 1]
    assert [type(o) for o in outcomes] == [list, StoreUnavailableError, StoreUnavailableError]
    assert is_unavailable(outcomes)
    assert database.rows("SELECT id FROM events") == [("e1",)]
    inner.close()


def test_callers_are_turned_away_before_the_queue_grows_without_bound(database: Database) -> None:
    """More waiting rows than the limit are an ``OverloadedError`` that says when to come back; what waits is written."""
    gate = threading.Event()

    class Stuck(FailingBackend):
        def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
            gate.wait(5)
            return super().append(rows)

    writer = ThreadWriter(lambda: Stuck([], database.sqlite_path), queue_limit=4)
    taken = []
    with pytest.raises(OverloadedError, match="retry after") as caught:  # noqa: PT012 - some one of them is refused
        for i in range(12):
            taken.append(writer.submit([event(f"e{i}")]))
    assert caught.value.retry_after_s > 0
    gate.set()
    assert [f.result(30)[0].status for f in taken] == [NEW] * len(taken)
    writer.close()


def test_close_commits_what_waits(database: Database) -> None:
    """Closing is not losing: everything submitted before is on disk after."""
    writer = ThreadWriter(lambda: SqliteBackend(database.sqlite_path))
    futures = [writer.submit([event(f"e{i}"), void_row(f"d{i}", START)]) for i in range(50)]
    writer.close()
    assert all(f.done() for f in futures)
    assert database.head() == 101
    with pytest.raises(StoreUnavailableError, match="closed"):
        writer.submit([event("late")])


def test_many_threads_get_each_their_own_receipts(database: Database) -> None:
    """Receipts go back to whoever submitted the rows."""
    writer = ThreadWriter(lambda: SqliteBackend(database.sqlite_path))
    found: dict[str, int] = {}

    def submit(name: str) -> None:
        for i in range(20):
            found[f"{name}{i}"] = writer.submit([event(f"{name}{i}")]).result(10)[0].offset

    threads = [threading.Thread(target=submit, args=(name,)) for name in "abcde"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite3.connect(database.sqlite_path) as other:
        assert dict(other.execute("SELECT id, ledger_offset FROM events")) == found
    writer.close()
