"""The writer as a helper process behind a Unix socket: several workers of one host share it.

A worker that finds nobody listening starts the helper; a lock file sees to it that only one lives. It ends by itself a
few seconds after the last worker has gone. It is one loop without threads: read what all workers have sent, commit it
together, answer; what arrives during the commit waits in the sockets and is the next batch.

A frame from a worker is a list of ``(number, rows)``, a frame to it a list of ``(number, kind, content)``: all that one
turn of its event loop, and one commit, have brought.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.store.collecting import leave_out_what_is_loaded
from engine.store.facts import FactRow
from engine.store.frames import Stream
from engine.store.writer import MAX_BATCH, Backend, Outcome, append_each, is_unavailable
from policies.errors import InvalidInputError, StoreUnavailableError

LINGER_S = 3.0
_MAX_SOCKET_PATH = 100

Answer = tuple[int, str, Any]


def socket_path(folder: Path) -> Path:
    """Where the helper of a data folder listens; a socket's path may not be longer than about a hundred bytes."""
    path = folder.resolve() / "writer.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()) / f"nextoffer-{os.getuid()}"
    short.mkdir(mode=0o700, exist_ok=True)
    if short.stat().st_uid != os.getuid():
        raise InvalidInputError(f"{short} belongs to someone else; choose a data folder with a shorter path")
    return short / f"{name}.sock"


def start_helper(url: str, path: Path) -> None:
    """Start a helper for a store; it leaves at once if another holds the lock."""
    command = [sys.executable, "-m", "engine.store.writer_process", "--socket", str(path)]
    with path.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    if process.stdin is not None:  # the URL may hold a password, which a command line would show to everyone
        with process.stdin as pipe:
            pipe.write(url.encode())
    # Collected when it ends, so that no zombie stays; it outlives this process on purpose.
    threading.Thread(target=process.wait, daemon=True).start()


def serve(listener: socket.socket, open_backend: Callable[[], Backend], *, linger_s: float = LINGER_S) -> None:
    """Commit what workers send until the last of them has gone for ``linger_s``, or SIGTERM."""
    is_stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: is_stopping.append(True))
    backend: Backend | None = None
    streams: dict[int, Stream] = {}
    alone_since = time.monotonic()
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while not is_stopping and (streams or time.monotonic() - alone_since < linger_s):
            batch: list[tuple[Stream, int, list[FactRow]]] = []
            n_rows = 0
            for key, events in selector.select(timeout=0.5):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    stream = Stream(connection)
                    streams[connection.fileno()] = stream
                    selector.register(connection, selectors.EVENT_READ)
                    continue
                stream = streams[key.fd]
                alive = not events & selectors.EVENT_WRITE or stream.flush()
                frames = stream.receive() if alive and events & selectors.EVENT_READ and n_rows < MAX_BATCH else []
                if not alive or frames is None:
                    _drop(selector, streams, stream)
                    alone_since = time.monotonic()
                    continue
                for frame in frames:
                    for number, rows in frame:
                        batch.append((stream, number, [FactRow._make(row) for row in rows]))
                        n_rows += len(rows)
            if batch:
                answers: dict[Stream, list[Answer]] = {}
                backend = _commit(backend, open_backend, batch, answers)
                for stream, told in answers.items():
                    stream.send(told)
            for stream in list(streams.values()):
                wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.outbox else 0)
                if selector.get_key(stream.socket).events != wants:
                    selector.modify(stream.socket, wants)
    if backend is not None:
        backend.close()


def _drop(selector: selectors.BaseSelector, streams: dict[int, Stream], stream: Stream) -> None:
    selector.unregister(stream.socket)
    del streams[stream.socket.fileno()]
    stream.socket.close()


def _commit(
    backend: Backend | None,
    open_backend: Callable[[], Backend],
    batch: list[tuple[Stream, int, list[FactRow]]],
    answers: dict[Stream, list[Answer]],
) -> Backend | None:
    """Commit a batch and note what to tell whom; return the backend, or None where it has to be opened anew."""
    try:
        if backend is None:
            backend = open_backend()
        outcomes = append_each(backend, [rows for _, _, rows in batch])
    except StoreUnavailableError as error:
        outcomes = [error] * len(batch)
    for (stream, number, _), outcome in zip(batch, outcomes, strict=True):
        answers.setdefault(stream, []).append((number, *_told(outcome)))
    if backend is not None and is_unavailable(outcomes):
        backend.close()
        return None
    return backend


def _told(outcome: Outcome) -> tuple[str, Any]:
    """Kind and content of an answer."""
    if isinstance(outcome, StoreUnavailableError):
        return "unavailable", str(outcome)
    if isinstance(outcome, BaseException):
        return "invalid", str(outcome)
    return "receipts", [tuple(receipt) for receipt in outcome]


def main() -> int:
    """Run one helper; return at once if another lives."""
    from engine.store.backends import opener
    from engine.store.database import Database

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", required=True, type=Path)
    options = parser.parse_args()
    url = sys.stdin.read()
    with options.socket.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        options.socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            mask = os.umask(0o177)
            listener.bind(str(options.socket))
            os.umask(mask)
            listener.listen(64)
            leave_out_what_is_loaded()
            serve(listener, opener(Database(url)))
            # Unlinked under the lock: whoever comes now finds nobody and starts the next one.
            options.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
