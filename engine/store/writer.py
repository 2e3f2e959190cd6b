"""The one writer of the ledger: acknowledged means on disk.

Whoever has facts submits them and gets a future. While one commit runs, what arrives piles up and becomes the next
batch (no timer, no minimum): one ``fsync`` serves all that waited for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from engine.store.facts import FactRow, Receipt
from policies.errors import InvalidInputError, OverloadedError, StoreUnavailableError

DEFAULT_QUEUE_LIMIT = 20_000
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

    def close(self) -> None:
        """Commit what waits, then stop."""
        ...


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
        self._waiting: deque[tuple[Sequence[FactRow], Future[list[Receipt]]]] = deque()
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
        with self._wake:
            if self._is_closing:
                raise StoreUnavailableError("the writer is closed; open the service again")
            if self._n_waiting + len(rows) > self._queue_limit and self._waiting:
                raise OverloadedError(self._n_waiting)
            self._waiting.append((rows, future))
            self._n_waiting += len(rows)
            self._wake.notify()
        return future

    def close(self) -> None:
        """Commit what waits, then stop."""
        with self._wake:
            self._is_closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        backend: Backend | None = None
        while batch := self._next_batch():
            try:
                if backend is None:
                    backend = self._open_backend()
                _append(backend, batch)
                self._is_healthy = True
            except StoreUnavailableError as error:
                self._is_healthy = False
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                if backend is not None:
                    backend.close()
                backend = None
            except BaseException as error:
                # A fault of ours: nobody may wait forever for a thread that has died.
                self._is_healthy = False
                self._fail_all(batch, error)
                raise
        if backend is not None:
            backend.close()

    def _next_batch(self) -> list[tuple[Sequence[FactRow], Future[list[Receipt]]]]:
        with self._wake:
            while not self._waiting and not self._is_closing:
                self._wake.wait()
            batch: list[tuple[Sequence[FactRow], Future[list[Receipt]]]] = []
            n_rows = 0
            while self._waiting and (not batch or n_rows + len(self._waiting[0][0]) <= MAX_BATCH):
                item = self._waiting.popleft()
                n_rows += len(item[0])
                batch.append(item)
            self._n_waiting -= n_rows
            return batch

    def _fail_all(self, batch: Sequence[tuple[Sequence[FactRow], Future[list[Receipt]]]], error: BaseException) -> None:
        with self._wake:
            self._is_closing = True
            rest, self._waiting = list(self._waiting), deque()
        failure = StoreUnavailableError(f"the writer stopped ({error!r}); restart the service")
        for _, future in [*batch, *rest]:
            if not future.done():
                future.set_exception(failure)


def _append(backend: Backend, batch: Sequence[tuple[Sequence[FactRow], Future[list[Receipt]]]]) -> None:
    try:
        receipts = backend.append([row for rows, _ in batch for row in rows])
    except InvalidInputError as error:
        if len(batch) == 1:
            batch[0][1].set_exception(error)
            return
        # One submission holds something no store takes: it alone must fail.
        for item in batch:
            _append(backend, [item])
        return
    at = 0
    for rows, future in batch:
        if not future.done():
            future.set_result(receipts[at : at + len(rows)])
        at += len(rows)
