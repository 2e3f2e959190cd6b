"""Opens a service over a folder: the store, brought up to date, its writer, and the secret of its draws."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal

from engine.decisions.ladder import DEADLINE_S
from engine.decisions.log import COMMIT_TIMEOUT_S
from engine.decisions.service import DecisionService, utc_now
from engine.store.backends import opener
from engine.store.database import Database, sqlite_url
from engine.store.writer import ThreadWriter, Writer


def open_service(
    folder: Path,
    *,
    url: str | None = None,
    secret: bytes | None = None,
    secret_version: int = 1,
    clock: Callable[[], datetime] = utc_now,
    commit_timeout_s: float = COMMIT_TIMEOUT_S,
    policy_deadline_s: float = DEADLINE_S,
    writer: Literal["thread", "process"] = "thread",
) -> DecisionService:
    """Open (and first make, or migrate) a store and the service over it.

    Parameters
    ----------
    folder
        Data folder: artefacts, the secret, and the store itself unless ``url`` names another.
    secret
        Key of the draws; by default one is made on the first start and kept in the folder.
    secret_version
        Number logged with each draw: raised with a new secret, so that an audit finds the one a draw was made with.
    writer
        ``process``: a helper that several workers on this host share; ``thread``: this process is the only one that writes facts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    database = Database(url or sqlite_url(folder / "nextoffer.db"))
    database.upgrade()
    return DecisionService(
        database,
        ThreadWriter(opener(database)) if writer == "thread" else _helper(database, folder),
        artifacts=folder / "artifacts",
        secret=secret or _kept_secret(folder / "secret"),
        secret_version=secret_version,
        clock=clock,
        commit_timeout_s=commit_timeout_s,
        policy_deadline_s=policy_deadline_s,
        is_shared=writer == "process" or not database.is_sqlite,
    )


def _helper(database: Database, folder: Path) -> Writer:
    from engine.store.writer_client import SocketWriter
    from engine.store.writer_process import socket_path, start_helper

    url = database.url.render_as_string(hide_password=False)
    path = socket_path(folder)
    return SocketWriter(path, lambda: start_helper(url, path))


def _kept_secret(path: Path) -> bytes:
    """The secret of a folder, made if there is none: whole before it has its name, so that nobody reads, or is left with, half of one."""
    if not path.exists():
        made = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
        try:
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # of two that start at once the first one's counts
                os.link(made, path)
        finally:
            made.unlink(missing_ok=True)
    return path.read_bytes()
