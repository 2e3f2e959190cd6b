"""Who does a piece of work over a store, such as to learn a version: at most one process, and another one soon after it has died.

On PostgreSQL an advisory lock of a session, on SQLite (one host) a lock on a file: both are let go by the system when
their holder dies. What the store refuses is the fence behind them: of two learners that both believe to own a version,
the second to write a tick of some number is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Protocol

from engine.store.database import Database
from policies.errors import StoreUnavailableError


class Ownership(Protocol):
    """Claims of one process on what it alone does; each has a name, such as the version that it learns."""

    def claim(self, name: str) -> bool:
        """Become the owner; False where another process is."""
        ...

    def is_held(self) -> bool:
        """Whether what was claimed is still ours."""
        ...

    def release(self, name: str) -> None:
        """Let another process be it."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


def ownership_of(database: Database) -> Ownership:
    """Claims that hold among all processes over a store."""
    if database.is_sqlite:
        return FileOwnership(database.sqlite_path.parent / "learner-locks")
    return AdvisoryOwnership(database.url.set(drivername="postgresql").render_as_string(hide_password=False))


class FileOwnership:
    """A locked file for each claim, in a folder beside the store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, int] = {}

    def claim(self, name: str) -> bool:
        """Lock the claim's file without waiting."""
        if name in self._held:
            return True
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder / f"{_digest(name).hex()}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()} {name}\n".encode())  # for a person who looks
        self._held[name] = descriptor
        return True

    def is_held(self) -> bool:
        """A file lock lasts as long as its process."""
        return True

    def release(self, name: str) -> None:
        """Unlock the claim's file."""
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        """Unlock all."""
        for name in list(self._held):
            self.release(name)


class AdvisoryOwnership:
    """Advisory locks of one session; when the session ends, whoever ends it, they are free."""

    def __init__(self, conninfo: str) -> None:
        import psycopg

        self._conninfo = conninfo
        self._error = psycopg.Error
        self._connection: psycopg.Connection[tuple[object, ...]] | None = None
        self._connect = psycopg.connect

    def claim(self, name: str) -> bool:
        """Take the claim's lock without waiting."""
        try:
            if self._connection is None or self._connection.closed:
                # Keepalives: a server that has gone must be noticed, for it has given our locks to somebody else.
                self._connection = self._connect(
                    self._conninfo, autocommit=True, connect_timeout=5, keepalives_idle=5, keepalives_interval=2
                )
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (_key(name),)).fetchone()
        except self._error as error:
            raise StoreUnavailableError(f"cannot ask PostgreSQL who does {name} ({error}); trying again") from error
        return bool(row and row[0])

    def is_held(self) -> bool:
        """Whether the session that holds the locks lives."""
        if self._connection is None or self._connection.closed:
            return False
        try:
            self._connection.execute("SELECT 1")
        except self._error:
            return False
        return True

    def release(self, name: str) -> None:
        """Give the claim's lock back; where the server has gone, so has the lock."""
        if self._connection is None or self._connection.closed:
            return
        try:
            self._connection.execute("SELECT pg_advisory_unlock(%s)", (_key(name),))
        except self._error:
            self.close()

    def close(self) -> None:
        """End the session."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _digest(name: str) -> bytes:
    # The prefix is older than claims of others: processes of an earlier version over the same store look for it.
    return hashlib.sha256(f"nextoffer learner {name}".encode()).digest()[:8]


def _key(name: str) -> int:
    return int.from_bytes(_digest(name), "big", signed=True)
