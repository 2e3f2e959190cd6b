"""A worker's end of the writer process: a ``Writer`` whose batches are committed by the helper."""

from __future__ import annotations

import asyncio
import itertools
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.store.facts import FactRow, Receipt
from engine.store.frames import Stream
from engine.store.writer import DEFAULT_QUEUE_LIMIT, AnyFuture, Outcome, settle
from policies.errors import InvalidInputError, OverloadedError, StoreUnavailableError

CONNECT_TIMEOUT_S = 10.0
_LOOK_S = 0.1


class SocketWriter:
    """Sends rows to the helper process and hears from it when they are on disk.

    Answers are read by a thread until an event loop takes over (the first ``submit_in_loop``): then the loop reads the
    socket itself, so that a batch wakes nobody else and no other thread asks for the interpreter's lock.

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
        self._pending: dict[int, tuple[int, AnyFuture]] = {}
        self._n_pending = 0
        self._unsent: list[tuple[int, list[tuple[Any, ...]]]] = []
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
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
        self._mind_closed_loop()
        with self._lock:
            self._take(rows, future)
            if not self._send():
                self._go_on_sending()
        return future

    def submit_in_loop(self, rows: Sequence[FactRow]) -> asyncio.Future[list[Receipt]]:
        """``submit`` inside an event loop; what one turn of the loop submits goes out together."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Receipt]] = loop.create_future()
        if self._loop is not loop:
            self._adopt(loop)
        with self._lock:
            is_first = not self._unsent
            self._take(rows, future)
        if is_first:
            loop.call_soon(self._flush)
        return future

    def close(self) -> None:
        """Wait for what was sent, then leave."""
        loop = self._loop
        if loop is None or loop is not asyncio._get_running_loop():  # a loop that waits here cannot read answers
            self._mind_closed_loop()
            deadline = time.monotonic() + CONNECT_TIMEOUT_S
            while self._pending and time.monotonic() < deadline:
                time.sleep(0.002)
        with self._lock:
            self._is_closing = True
        self._leave_loop()
        self._wake()
        self._thread.join()
        if self._stream is not None:
            self._stream.socket.close()
        self._waker.close()
        self._wakee.close()

    def _take(self, rows: Sequence[FactRow], future: AnyFuture) -> None:
        """Note rows as waiting to be sent; under the lock."""
        if self._is_closing:
            raise StoreUnavailableError("the writer is closed; open the service again")
        if self._stream is None:
            raise StoreUnavailableError("the writer process has gone and is being started again; try again")
        if self._n_pending + len(rows) > self._queue_limit and self._pending:
            raise OverloadedError(self._n_pending)
        number = next(self._numbers)
        self._pending[number] = (len(rows), future)
        self._n_pending += len(rows)
        self._unsent.append((number, [tuple(row) for row in rows]))

    def _send(self) -> bool:
        """Send what is noted; False where it does not fit into the socket now. Under the lock."""
        stream, unsent = self._stream, self._unsent
        if stream is None or not unsent:
            return True
        self._unsent = []
        return not stream.send(unsent) or not stream.outbox  # whoever reads will see that the other side has gone

    def _wake(self) -> None:
        self._waker.send(b"!")

    def _connect(self, deadline: float) -> None:
        """Connect, starting a helper if nobody listens; leave the stream None where that does not work out in time."""
        has_started = False
        while not self._is_closing:
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
            self._stream = Stream(connection)
            return

    # The thread

    def _run(self) -> None:
        while not self._is_closing:
            stream, loop = self._stream, self._loop
            if stream is None:
                self._connect(time.monotonic() + CONNECT_TIMEOUT_S)
            elif loop is not None and not loop.is_closed():
                with suppress(RuntimeError):  # closed just now
                    loop.call_soon_threadsafe(self._watch, loop, stream)
                self._wait_for(loop)
            else:
                with selectors.DefaultSelector() as selector:
                    selector.register(self._wakee, selectors.EVENT_READ)
                    selector.register(stream.socket, selectors.EVENT_READ)
                    self._follow(stream, selector)

    def _wait_for(self, loop: asyncio.AbstractEventLoop) -> None:
        """Return when woken, or when the loop is closed: nothing else tells, and other callers may wait for answers."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wakee, selectors.EVENT_READ)
            while not selector.select(timeout=_LOOK_S):
                if loop.is_closed():
                    self._mind_closed_loop()
                    return
        self._wakee.recv(4096)

    def _follow(self, stream: Stream, selector: selectors.BaseSelector) -> None:
        while not self._is_closing and self._loop is None:
            wants = selectors.EVENT_READ | (selectors.EVENT_WRITE if stream.outbox else 0)
            selector.modify(stream.socket, wants)
            frames: list[Any] | None = []
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
            self._hear(frames)

    # The event loop

    def _adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a loop read the answers, unless another one does."""
        with self._lock:
            if self._loop is None or self._loop.is_closed():
                self._loop = loop
                self._wake()

    def _watch(self, loop: asyncio.AbstractEventLoop, stream: Stream) -> None:
        if self._loop is loop and self._stream is stream and not self._is_closing:
            loop.add_reader(stream.socket, self._on_readable, stream)
            self._flush()

    def _on_readable(self, stream: Stream) -> None:
        frames = stream.receive()
        if frames is None:
            self._forget(stream)
            self._lose(stream)
            self._wake()
        else:
            self._hear(frames)

    def _flush(self) -> None:
        with self._lock:
            if not self._send():
                self._go_on_sending()

    def _go_on_sending(self) -> None:
        """Let whoever reads the socket send the rest too. Under the lock."""
        loop, stream = self._loop, self._stream
        if loop is None or stream is None:
            self._wake()
        elif loop is asyncio._get_running_loop():
            loop.add_writer(stream.socket, self._on_writable, stream)
        else:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(loop.add_writer, stream.socket, self._on_writable, stream)

    def _on_writable(self, stream: Stream) -> None:
        with self._lock:
            stream.flush()
            if not stream.outbox and self._loop is not None:
                self._loop.remove_writer(stream.socket)

    def _forget(self, stream: Stream) -> None:
        if self._loop is not None:
            self._loop.remove_reader(stream.socket)
            self._loop.remove_writer(stream.socket)

    def _mind_closed_loop(self) -> None:
        """Give the reading back to the thread where the loop that did it has been closed."""
        if self._loop is not None and self._loop.is_closed():
            with self._lock:
                self._loop = None
                self._send()
            self._wake()

    def _leave_loop(self) -> None:
        """Take the socket out of the loop, inside the loop where it runs in another thread."""
        loop, stream = self._loop, self._stream
        if loop is None or stream is None or loop.is_closed():
            return
        if loop is asyncio._get_running_loop() or not loop.is_running():
            self._forget(stream)
            return
        done = threading.Event()

        def leave() -> None:
            self._forget(stream)
            done.set()

        loop.call_soon_threadsafe(leave)
        done.wait(CONNECT_TIMEOUT_S)

    # Answers

    def _hear(self, frames: list[Any]) -> None:
        heard: list[tuple[AnyFuture, Outcome]] = []
        with self._lock:
            for frame in frames:
                for number, kind, content in frame:
                    n_rows, future = self._pending.pop(number)
                    self._n_pending -= n_rows
                    if kind == "receipts":
                        self._is_healthy = True
                        heard.append((future, [Receipt._make(receipt) for receipt in content]))
                    elif kind == "invalid":
                        heard.append((future, InvalidInputError(content)))
                    else:
                        self._is_healthy = False
                        heard.append((future, StoreUnavailableError(content)))
        settle(heard)

    def _lose(self, stream: Stream) -> None:
        with self._lock:
            self._stream = None
            self._is_healthy = False
            lost, self._pending, self._n_pending, self._unsent = list(self._pending.values()), {}, 0, []
        stream.socket.close()
        error = "the writer process has gone before it could answer; send the same id again"
        settle([(future, StoreUnavailableError(error)) for _, future in lost])
