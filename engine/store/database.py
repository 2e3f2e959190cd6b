"""Opening a store, bringing its schema up to date, reading from it, and the rare writes that are not facts."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Engine, create_engine, event, insert, text, update
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from engine.store import tables
from engine.store.changes import Change
from engine.store.facts import to_us
from policies.errors import InvalidInputError, MissingExtraError, StoreUnavailableError

BUSY_TIMEOUT_MS = 5_000
_PARAMETERS = 400


def sqlite_url(path: Path) -> str:
    """URL of a store in one file."""
    return f"sqlite:///{path}"


def tune_sqlite(connection: sqlite3.Connection) -> None:
    """Set what every connection to a SQLite store needs: WAL, and a commit that is on disk before it returns."""
    connection.isolation_level = None
    for pragma in (
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}")


class Database:
    """A store, by URL (``sqlite:///file`` or ``postgresql://…``).

    Facts are written through a ``Writer``; this class reads, and writes configuration.
    """

    def __init__(self, url: str) -> None:
        self.url: URL = _normalised(_parsed(url))
        try:
            self.engine: Engine = create_engine(self.url, **_pool_arguments(self.url))
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or str(error), "postgres") from error
        if self.is_sqlite:
            event.listen(self.engine, "connect", _on_sqlite_connect)
            event.listen(self.engine, "begin", _on_sqlite_begin)
        self._local = threading.local()
        self._quick: list[sqlite3.Connection] = []

    @property
    def is_sqlite(self) -> bool:
        """Whether the store is one SQLite file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def sqlite_path(self) -> Path:
        """The file of a SQLite store."""
        if not self.is_sqlite or not self.url.database:
            raise InvalidInputError(f"{self.url.render_as_string()} is not a SQLite file")
        return Path(self.url.database)

    def upgrade(self, revision: str = "head") -> None:
        """Bring the schema to a revision; ``head`` is what this version of the code expects."""
        from engine.store.migrate import upgrade

        upgrade(self, revision)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Connection that sees one consistent state.

        Raises
        ------
        StoreUnavailableError
            If the database cannot be reached.
        """
        with _translated(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Transaction for configuration; committed at the end, rolled back on an error."""
        with _translated(), self.engine.connect().execution_options(is_writing=True) as connection, connection.begin():
            yield connection

    def rows(self, sql: str, **values: object) -> list[tuple[Any, ...]]:
        """Read a few rows on the path of a decision, with ``:name`` for values.

        On SQLite this goes around SQLAlchemy: a read of one row costs 10 µs instead of 300.
        """
        if not self.is_sqlite:
            with self.reading() as connection:
                return [tuple(row) for row in connection.execute(text(sql), values)]
        try:
            quick: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if quick is None:
                quick = sqlite3.connect(self.sqlite_path, check_same_thread=False)
                tune_sqlite(quick)
                self._local.connection = quick
                self._quick.append(quick)
            return quick.execute(sql, values).fetchall()
        except sqlite3.OperationalError as error:
            raise _unavailable(error) from error

    def config_revision(self) -> int:
        """Number that grows with each change of configuration."""
        return int(self.rows("SELECT config_revision FROM ledger_head")[0][0])

    def head(self) -> int:
        """Offset that the next fact will get."""
        return int(self.rows("SELECT next_offset FROM ledger_head")[0][0])

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()
        while self._quick:
            self._quick.pop().close()
        self._local = threading.local()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def in_parts(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """The values in parts that one statement can hold as parameters."""
    return (values[start : start + _PARAMETERS] for start in range(0, len(values), _PARAMETERS))


def record_change(
    connection: Connection, change: Change, *, action: str, what: str, document: Mapping[str, Any]
) -> None:
    """Write the audit row of a change of configuration and tell all servers to reload; inside the change's transaction.

    The row's document is ``document`` and the reason of the change, where there is one.
    """
    told = {**document, "reason": change.reason} if change.reason else document
    values = {"actor": change.actor, "action": action, "what": what, "document": json.dumps(told, default=str)}
    connection.execute(insert(tables.audit).values(at_us=to_us(change.at), **values))
    tell_servers(connection)


def tell_servers(connection: Connection) -> None:
    """Let all servers read anew what they hold of the store; last in a transaction, for the ledger's writer waits meanwhile."""
    head = tables.ledger_head
    connection.execute(update(head).values(config_revision=head.c.config_revision + 1))


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except DBAPIError as error:
        if error.connection_invalidated or type(error.orig).__name__ in ("OperationalError", "InterfaceError"):
            raise _unavailable(error.orig) from error
        raise


def _unavailable(error: object) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"the store does not answer ({error}); check disk space, permissions and the connection, then try again"
    )


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except ArgumentError as error:
        # What was given may hold a password, so it is not repeated.
        raise InvalidInputError(
            "the store URL cannot be read; expected sqlite:///file.db or postgresql://user@host/name"
        ) from error


def _normalised(url: URL) -> URL:
    name = url.get_backend_name()
    if name == "postgresql" and url.drivername == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if name not in ("sqlite", "postgresql"):
        raise InvalidInputError(
            f"store URL {url.render_as_string()} is for {name}; expected sqlite:///file.db or postgresql://user@host/name"
        )
    return url


def _pool_arguments(url: URL) -> dict[str, Any]:
    if url.get_backend_name() == "sqlite":
        return {"connect_args": {"check_same_thread": False}}
    return {"pool_pre_ping": True, "pool_size": 4, "max_overflow": 8}


def _on_sqlite_connect(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    tune_sqlite(connection)


def _on_sqlite_begin(connection: Connection) -> None:
    if connection.get_execution_options().get("is_writing", False):
        _begin_writing(connection.connection.dbapi_connection)  # type: ignore[arg-type]  # SQLite's own, behind the pool
    else:
        connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: sqlite3.Connection) -> None:
    """Take the write lock in turn with a writer that hardly ever lets go of it.

    Under load the ledger's writer begins its next commit a fraction of a millisecond after the last. SQLite's own waiting sleeps
    up to a tenth of a second between looks and can miss every gap for seconds; looking each millisecond finds one soon.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1_000
    connection.execute("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise _unavailable(error) from error
                time.sleep(random.uniform(0.0003, 0.0015))
    finally:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
