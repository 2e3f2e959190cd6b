"""The writer as a helper process behind a Unix socket: several workers of one host share it.

A worker that finds nobody listening starts the helper; a lock file sees to it that only one lives. It ends by itself a
few seconds after the last worker has gone. It is one loop without threads: read what all workers have sent, commit it
together, answer; what arrives during the commit waits in the sockets and is the next batch.

Frames are a length and ``marshal`` of plain tuples, which is safe between processes of one user: the socket lies in
the data folder, readable by its owner alone.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import itertools
import marshal
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from engine.store.facts import FactRow, Receipt
from engine.store.writer import DEFAULT_QUEUE_LIMIT, MAX_BATCH, Backend
from policies.errors import InvalidInputError, OverloadedError, StoreUnavailableError

_LENGTH = struct.Struct("!I")
_CHUNK = 1 << 20
LINGER_S = 3.0
CONNECT_TIMEOUT_S = 10.0
_MAX_SOCKET_PATH = 100

Frame = tuple[Any, ...]


class _Stream:
    """Frames of one connection, both ways, without ever blocking."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._inbox = bytearray()
        self.outbox = bytearray()

    def receive(self) -> list[Frame] | None:
        """Frames that have arrived whole; None when the other side has gone."""
        try:
            part = self.socket.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not part:
            return None
        self._inbox += part
        frames: list[Frame] = []
        at = 0
        while len(self._inbox) - at >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._inbox, at)
            end = at + _LENGTH.size + size
            if len(self._inbox) < end:
                break
            frames.append(marshal.loads(memoryview(self._inbox)[at + _LENGTH.size : end]))
            at = end
        del self._inbox[:at]
        return frames

    def send(self, frame: Frame) -> bool:
        """Send a frame, or keep what does not fit now; False when the other side has gone."""
        content = marshal.dumps(frame)
        self.outbox += _LENGTH.pack(len(content))
        self.outbox += content
        return self.flush()

    def flush(self) -> bool:
        """Send what was kept; False when the other side has gone."""
        while self.outbox:
            try:
                n = self.socket.send(self.outbox)
            except BlockingIOError:
                return True
            except OSError:
                return False
            del self.outbox[:n]
        return True


class SocketWriter:
    """A worker's end: a ``Writer`` whose batches are committed by the helper process.

    Parameters
    ----------
    path
        The helper's socket.
    start
        Starts a helper; called when nobody listens there.
    """

    def __init__(self, path: Path, start: Callable[[], None], *, queue_limit: int = DEFAULT_QUEUE_LIMIT) -> None:
        self._path = path
        self._start = start
        self._queue_limit = queue_limit
        self._numbers = itertools.count()
        self._pending: dict[int, tuple[int, Future[list[Receipt]]]] = {}
        self._n_pending = 0
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._retry_at = 0.0
        self._is_healthy = True
        self._is_closing = False
        self._waker, self._wakee = socket.socketpair()
        self._connect(time.monotonic() + CONNECT_TIMEOUT_S)
        self._thread = threading.Thread(target=self._run, name="ledger-client", daemon=True)
        self._thread.start()

    @property
    def is_healthy(self) -> bool:
        """Whether the last commit succeeded and the helper is there."""
        return self._is_healthy

    def submit(self, rows: Sequence[FactRow]) -> Future[list[Receipt]]:
        """Send rows that are committed together."""
        future: Future[list[Receipt]] = Future()
        with self._lock:
            if self._is_closing:
                raise StoreUnavailableError("the writer is closed; open the service again")
            if self._stream is None:
                self._wake()
                raise StoreUnavailableError("the writer process has gone and is being started again; try again")
            if self._n_pending + len(rows) > self._queue_limit and self._pending:
                raise OverloadedError(self._n_pending)
            number = next(self._numbers)
            self._pending[number] = (len(rows), future)
            self._n_pending += len(rows)
            if not self._stream.send((number, [tuple(row) for row in rows])) or self._stream.outbox:
                self._wake()
        return future

    def close(self) -> None:
        """Wait for what was sent, then leave."""
        with self._lock:
            waiting = [future for _, future in self._pending.values()]
        for future in waiting:
            try:
                future.exception(CONNECT_TIMEOUT_S)
            except TimeoutError:
                break
        with self._lock:
            self._is_closing = True
        self._wake()
        self._thread.join()
        if self._stream is not None:
            self._stream.socket.close()
        self._waker.close()
        self._wakee.close()

    def _wake(self) -> None:
        self._waker.send(b"!")

    def _connect(self, deadline: float) -> None:
        """Connect, starting a helper if nobody listens; leave the stream None where that does not work out in time."""
        has_started = False
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._path))
            except OSError:
                connection.close()
                if not has_started:
                    self._start()
                    has_started = True
                if time.monotonic() > deadline:
                    return
                time.sleep(0.02)
                continue
            self._stream = _Stream(connection)
            return

    def _run(self) -> None:
        while not self._is_closing:
            stream = self._stream
            if stream is None:
                self._connect(time.monotonic() + CONNECT_TIMEOUT_S)
                continue
            with selectors.DefaultSelector() as selector:
                selector.register(self._wakee, selectors.EVENT_READ)
                selector.register(stream.socket, selectors.EVENT_READ)
                self._follow(stream, selector)

    def _follow(self, stream: _Stream, selector: selectors.BaseSelector) -> None:
        while not self._is_closing:
            wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.outbox else 0)
            selector.modify(stream.socket, wants)
            frames: list[Frame] | None = []
            for key, events in selector.select():
                if key.fileobj is self._wakee:
                    self._wakee.recv(4096)
                    continue
                if events & selectors.EVENT_WRITE:
                    with self._lock:
                        if not stream.flush():
                            frames = None
                if events & selectors.EVENT_READ and frames is not None:
                    frames = stream.receive()
            if frames is None:
                self._lose(stream)
                return
            for number, kind, content in frames:
                self._resolve(number, kind, content)

    def _resolve(self, number: int, kind: str, content: Any) -> None:
        with self._lock:
            n_rows, future = self._pending.pop(number)
            self._n_pending -= n_rows
        if kind == "receipts":
            self._is_healthy = True
            future.set_result([Receipt(*r) for r in content])
        elif kind == "invalid":
            future.set_exception(InvalidInputError(content))
        else:
            self._is_healthy = False
            future.set_exception(StoreUnavailableError(content))

    def _lose(self, stream: _Stream) -> None:
        with self._lock:
            self._stream = None
            self._is_healthy = False
            lost, self._pending, self._n_pending = list(self._pending.values()), {}, 0
        stream.socket.close()
        for _, future in lost:
            future.set_exception(
                StoreUnavailableError("the writer process has gone before it could answer; send the same id again")
            )


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
    streams: dict[int, _Stream] = {}
    alone_since = time.monotonic()
    listener.setblocking(False)
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        while not is_stopping and (streams or time.monotonic() - alone_since < linger_s):
            batch: list[tuple[_Stream, int, list[FactRow]]] = []
            n_rows = 0
            for key, events in selector.select(timeout=0.5):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    stream = _Stream(connection)
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
                for number, rows in frames:
                    batch.append((stream, number, [FactRow(*row) for row in rows]))
                    n_rows += len(rows)
            if batch:
                backend = _commit(backend, open_backend, batch)
            for stream in list(streams.values()):
                wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.outbox else 0)
                if selector.get_key(stream.socket).events != wants:
                    selector.modify(stream.socket, wants)
    if backend is not None:
        backend.close()


def _drop(selector: selectors.BaseSelector, streams: dict[int, _Stream], stream: _Stream) -> None:
    selector.unregister(stream.socket)
    del streams[stream.socket.fileno()]
    stream.socket.close()


def _commit(
    backend: Backend | None,
    open_backend: Callable[[], Backend],
    batch: list[tuple[_Stream, int, list[FactRow]]],
) -> Backend | None:
    try:
        if backend is None:
            backend = open_backend()
        receipts = backend.append([row for _, _, rows in batch for row in rows])
    except InvalidInputError as error:
        if len(batch) > 1:  # one submission holds something no store takes: it alone must fail
            for item in batch:
                backend = _commit(backend, open_backend, [item])
            return backend
        batch[0][0].send((batch[0][1], "invalid", str(error)))
        return backend
    except StoreUnavailableError as error:
        for stream, number, _ in batch:
            stream.send((number, "unavailable", str(error)))
        if backend is not None:
            backend.close()
        return None
    at = 0
    for stream, number, rows in batch:
        stream.send((number, "receipts", [tuple(r) for r in receipts[at : at + len(rows)]]))
        at += len(rows)
    return backend


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
            serve(listener, opener(Database(url)))
            # Unlinked under the lock: whoever comes now finds nobody and starts the next one.
            options.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
