"""Who writes rarely gets a turn beside a writer that commits all the time."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import text

from engine.store import database as module
from engine.store.database import Database, sqlite_url, tune_sqlite
from policies.errors import StoreUnavailableError


def test_a_rare_writer_is_not_starved_by_a_busy_one(tmp_path: Path) -> None:
    """Twenty transactions get in while another connection begins its next commit as soon as the last is done."""
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        database.upgrade()
        stop = threading.Event()

        def busy() -> None:
            connection = sqlite3.connect(database.sqlite_path)
            tune_sqlite(connection)
            while not stop.is_set():
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE ledger_head SET next_offset = next_offset + 1")
                connection.execute("COMMIT")
            connection.close()

        thread = threading.Thread(target=busy)
        thread.start()
        try:
            longest = 0.0
            for _ in range(20):
                started = time.monotonic()
                with database.writing() as connection:
                    connection.execute(text("UPDATE ledger_head SET config_revision = config_revision + 1"))
                longest = max(longest, time.monotonic() - started)
        finally:
            stop.set()
            thread.join()
        assert database.config_revision() >= 20
        assert longest < 3.0


def test_a_lock_that_is_never_let_go_of_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the waiting time the caller is told what does not answer."""
    monkeypatch.setattr(module, "BUSY_TIMEOUT_MS", 50)
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        database.upgrade()
        other = sqlite3.connect(database.sqlite_path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="does not answer"), database.writing():
            pass
        other.execute("ROLLBACK")
        other.close()
        with database.writing() as connection:
            connection.execute(text("UPDATE ledger_head SET config_revision = 7"))
        assert database.config_revision() == 7
