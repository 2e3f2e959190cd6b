"""The one writer of the ledger: acknowledged means on disk.

Whoever has facts submits them and gets a future. While one commit runs, what arrives piles up and becomes the next
batch (no timer, no minimum): one ``fsync`` serves all that waited for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import Protocol

from engine.store.facts import FactRow, Receipt
from policies.errors import InvalidInputError, OverloadedError, StoreUnavailableError

DEFAULT_QUEUE_LIMIT = 10_000
MAX_BATCH = 5_000


class Backend(Protocol):
    """Where batches are committed; used by one thread."""

    def append(self, rows: Sequence[FactRow]) -> list[Receipt]:
        """Write all rows in one transaction and return when it is on disk.

        Raises
        ------
        StoreUnavailableError
            If nothing was written because the store cannot be; the next call tries afresh.
        InvalidInputError
            If nothing was written because a row cannot be stored by any store.
        """
        ...

    def close(self) -> None:
        """Let go of the store."""
        ...


class Writer(Protocol):
    """Takes facts and says when they are on disk."""

    @property
    def is_healthy(self) -> bool:
        """Whether the last commit succeeded."""
        ...

    def submit(self, rows: Sequence[FactRow]) -> Future[list[Receipt]]:
        """Queue rows that are committed together; the future has one receipt per row or the error.

        Raises
        ------
        OverloadedError
            If too much waits already.
        """
        ...

    def submit_in_loop(self, rows: Sequence[FactRow]) -> asyncio.Future[list[Receipt]]:
        """``submit`` inside a running event loop, whose future it is."""
        ...

    def close(self) -> None:
        """Commit what waits, then stop."""
        ...


AnyFuture = Future[list[Receipt]] | asyncio.Future[list[Receipt]]
Outcome = list[Receipt] | BaseException
Submission = tuple[Sequence[FactRow], AnyFuture]


def append_each(backend: Backend, submissions: Sequence[Sequence[FactRow]]) -> list[Outcome]:
    """Commit submissions together; return the receipts of each, or why it alone, or all from it on, could not be stored.

    Where one holds something that no store takes, each is committed by itself, so that it alone fails. After a
    ``StoreUnavailableError`` nothing more is tried: the caller opens the store afresh.
    """
    try:
        receipts = iter(backend.append([row for rows in submissions for row in rows]))
        return [list(islice(receipts, len(rows))) for rows in submissions]
    except StoreUnavailableError as error:
        return [error] * len(submissions)
    except InvalidInputError as error:
        if len(submissions) == 1:
            return [error]
    outcomes: list[Outcome] = []
    for rows in submissions:
        if not is_unavailable(outcomes):
            outcomes += append_each(backend, [rows])
        else:
            outcomes.append(outcomes[-1])
    return outcomes


def is_unavailable(outcomes: Sequence[Outcome]) -> bool:
    """Whether the store went away before the last of these."""
    return bool(outcomes) and isinstance(outcomes[-1], StoreUnavailableError)


def settle(heard: Sequence[tuple[AnyFuture, Outcome]]) -> None:
    """Give each future what became of its rows; those of an event loop inside it, with one wake-up for all of them."""
    running = asyncio._get_running_loop()
    elsewhere: dict[asyncio.AbstractEventLoop, list[tuple[AnyFuture, Outcome]]] = {}
    for future, outcome in heard:
        loop = future.get_loop() if isinstance(future, asyncio.Future) else running
        if loop is running:
            _resolve(future, outcome)
        elif loop is not None:
            elsewhere.setdefault(loop, []).append((future, outcome))
    for loop, waiting in elsewhere.items():
        with suppress(RuntimeError):  # a closed loop: nobody waits there any more
            loop.call_soon_threadsafe(settle, waiting)


def _resolve(future: AnyFuture, outcome: Outcome) -> None:
    if future.done():  # whoever asked has stopped waiting
        return
    if isinstance(outcome, BaseException):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class ThreadWriter:
    """The writer as a thread of this process.

    Parameters
    ----------
    open_backend
        Called in the thread, when it starts and after each failure.
    queue_limit
        Rows that may wait before callers are turned away.
    """

    def __init__(self, open_backend: Callable[[], Backend], *, queue_limit: int = DEFAULT_QUEUE_LIMIT) -> None:
        self._open_backend = open_backend
        self._queue_limit = queue_limit
        self._waiting: deque[Submission] = deque()
        self._n_waiting = 0
        self._wake = threading.Condition()
        self._is_closing = False
        self._is_healthy = True
        self._thread = threading.Thread(target=self._run, name="ledger-writer", daemon=True)
        self._thread.start()

    @property
    def is_healthy(self) -> bool:
        """Whether the last commit succeeded."""
        return self._is_healthy

    def submit(self, rows: Sequence[FactRow]) -> Future[list[Receipt]]:
        """Queue rows that are committed together."""
        future: Future[list[Receipt]] = Future()
        self._put(rows, future)
        return future

    def submit_in_loop(self, rows: Sequence[FactRow]) -> asyncio.Future[list[Receipt]]:
        """``submit`` inside a running event loop."""
        future: asyncio.Future[list[Receipt]] = asyncio.get_running_loop().create_future()
        self._put(rows, future)
        return future

    def close(self) -> None:
        """Commit what waits, then stop."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()

    def _put(self, rows: Sequence[FactRow], future: AnyFuture) -> None:
        with self._wake:
            if self._is_closing:
                raise StoreUnavailableError("the writer is closed; open the service again")
            if self._n_waiting + len(rows) > self._queue_limit and self._waiting:
                raise OverloadedError(self._n_waiting)
            self._waiting.append((rows, future))
            self._n_waiting += len(rows)
            self._wake.notify()

    def _run(self) -> None:
        backend: Backend | None = None
        while batch := self._next_batch():
            try:
                if backend is None:
                    backend = self._open_backend()
                outcomes = append_each(backend, [rows for rows, _ in batch])
            except StoreUnavailableError as error:
                outcomes = [error] * len(batch)
            except BaseException as error:
                # A fault of ours: nobody may wait forever for a thread that has died.
                self._is_healthy = False
                self._fail_all(batch, error)
                raise
            self._is_healthy = not is_unavailable(outcomes)
            settle([(future, outcome) for (_, future), outcome in zip(batch, outcomes, strict=True)])
            if backend is not None and not self._is_healthy:
                backend.close()
                backend = None
        if backend is not None:
            backend.close()

    def _next_batch(self) -> list[Submission]:
        with self._wake:
            while not self._waiting and not self._is_closing:
                self._wake.wait()
            batch: list[Submission] = []
            n_rows = 0
            while self._waiting and (not batch or n_rows + len(self._waiting[0][0]) <= MAX_BATCH):
                item = self._waiting.popleft()
                n_rows += len(item[0])
                batch.append(item)
            self._n_waiting -= n_rows
            return batch

    def _fail_all(self, batch: Sequence[Submission], error: BaseException) -> None:
        with self._wake:
            self._is_closing = True
            rest, self._waiting = list(self._waiting), deque()
        failure = StoreUnavailableError(f"the writer stopped ({error!r}); restart the service")
        settle([(future, failure) for _, future in [*batch, *rest]])
