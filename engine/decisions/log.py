"""Waiting for the disk: rows go to the one writer, and what could not be recorded is remembered and taken back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from datetime import datetime

from engine.store import facts
from engine.store.facts import FactRow, Receipt
from engine.store.writer import Writer
from policies.errors import ConflictError, OverloadedError, StoreUnavailableError

COMMIT_TIMEOUT_S = 5.0
BULK = 500
_MAX_UNRECORDED = 100_000
_LOOK_S = 0.05
_log = logging.getLogger("nextoffer.decisions")


class DurableLog:
    """What the service knows of its log: how to wait for it, and which decisions it does not hold.

    Parameters
    ----------
    writer
        Takes ownership: ``close`` closes it.
    commit_timeout_s
        How long a fact waits for the disk.
    """

    def __init__(self, writer: Writer, *, commit_timeout_s: float = COMMIT_TIMEOUT_S) -> None:
        self.writer = writer
        self.commit_timeout_s = commit_timeout_s
        self.n_unrecorded = 0
        self._unrecorded: OrderedDict[str, None] = OrderedDict()
        self._to_void: OrderedDict[str, datetime] = OrderedDict()
        self._is_taking_back = False
        self._lock = threading.Lock()
        self._patience: _Patience | None = None

    def submit(self, rows: list[FactRow]) -> Future[list[Receipt]]:
        """Queue rows that are committed together.

        Raises
        ------
        OverloadedError, StoreUnavailableError
            If they cannot wait.
        """
        future = self.writer.submit(rows)
        if self._to_void and self.writer.is_healthy:
            self._take_back()
        return future

    def wait(self, rows: list[FactRow]) -> list[Receipt]:
        """Block until all rows are on disk, in parts of 2,000.

        Raises
        ------
        StoreUnavailableError, OverloadedError
            If a part could not be written: send the same ids again.
        """
        out: list[Receipt] = []
        for start in range(0, len(rows), BULK * 4):
            part = rows[start : start + BULK * 4]
            try:
                out += self.submit(part).result(self.commit_timeout_s)
            except TimeoutError as error:
                raise _too_slow(self.commit_timeout_s) from error
        return out

    def awaited(self, rows: list[FactRow]) -> asyncio.Future[list[Receipt]]:
        """``wait`` for an event loop, all rows in one part."""
        future = self.writer.submit_in_loop(rows)
        patience = self._patience
        if patience is None or patience.loop is not future.get_loop():
            patience = self._patience = _Patience(future.get_loop(), self.commit_timeout_s)
        patience.watch(future)
        if self._to_void and self.writer.is_healthy:
            self._take_back()
        return future

    def note_unrecorded(self, decision_id: str, at: datetime) -> None:
        """Remember a decision that was answered as not recorded.

        Whether its row reached the disk is not known after a timeout: it is taken back when the log answers again.
        """
        with self._lock:
            self.n_unrecorded += 1
            n = self.n_unrecorded
            self._unrecorded[decision_id] = None
            self._to_void[decision_id] = at
            for memory in (self._unrecorded, self._to_void):
                while len(memory) > _MAX_UNRECORDED:
                    memory.popitem(last=False)
        if n.bit_count() == 1:  # 1, 2, 4, 8, …: where the log cannot be written, many come at once
            _log.warning("decision %d that is not recorded", n, extra={"decision": decision_id})

    def is_unrecorded(self, decision_id: str) -> bool:
        """Whether a decision was answered as not recorded, by this process and lately."""
        return decision_id in self._unrecorded

    def _take_back(self) -> None:
        """Void decisions that were answered as not recorded; kept until the log has said that it knows.

        One part at a time: the memory of a long outage, sent at once, would fill the queue that live facts need.
        """
        with self._lock:
            if self._is_taking_back or not self._to_void:
                return
            self._is_taking_back = True
            taken = [self._to_void.popitem(last=False) for _ in range(min(BULK, len(self._to_void)))]

        def done(has_failed: bool) -> None:
            with self._lock:
                self._is_taking_back = False
                if has_failed:
                    self._to_void.update(taken)
            if not has_failed:
                self._take_back()

        rows = [facts.void_row(decision_id, at) for decision_id, at in taken]
        try:
            self.writer.submit(rows).add_done_callback(lambda future: done(future.exception() is not None))
        except (OverloadedError, StoreUnavailableError):
            done(True)

    def close(self) -> None:
        """Commit what waits, then stop."""
        self.writer.close()


class _Patience:
    """Fails the futures of a loop that have waited too long, with one timer for all: a timer each costs as much as the wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self.loop = loop
        self._timeout_s = timeout_s
        self._waiting: deque[tuple[float, asyncio.Future[list[Receipt]]]] = deque()
        self._is_set = False

    def watch(self, future: asyncio.Future[list[Receipt]]) -> None:
        self._waiting.append((self.loop.time() + self._timeout_s, future))
        if not self._is_set:
            self._is_set = True
            self.loop.call_later(min(self._timeout_s, _LOOK_S), self._look)

    def _look(self) -> None:
        now, waiting = self.loop.time(), self._waiting
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, future = waiting.popleft()
            if not future.done():
                future.set_exception(_too_slow(self._timeout_s))
        self._is_set = bool(waiting)
        if waiting:
            self.loop.call_later(min(self._timeout_s, _LOOK_S), self._look)


def conflict(what: str, fact_id: str) -> ConflictError:
    """Error for an id that was used for something else."""
    return ConflictError(
        f"id {fact_id!r} was used before for another {what}; a retry repeats the first request exactly: choose a new id"
    )


def _too_slow(timeout_s: float) -> StoreUnavailableError:
    return StoreUnavailableError(f"the log did not answer within {timeout_s:g} s; send the same id again")
