"""Which backend commits to which store."""

from __future__ import annotations

from collections.abc import Callable

from engine.store.database import Database
from engine.store.writer import Backend


def opener(database: Database) -> Callable[[], Backend]:
    """What opens a backend for a store; called in the thread or process that uses it."""
    if database.is_sqlite:
        from engine.store.sqlite_backend import SqliteBackend

        path = database.sqlite_path
        return lambda: SqliteBackend(path)
    from engine.store.postgres_backend import PostgresBackend

    conninfo = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
    return lambda: PostgresBackend(conninfo)
