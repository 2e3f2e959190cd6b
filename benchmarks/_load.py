"""A load generator for one keep-alive JSON endpoint, and the CPU time and memory of processes.

It shares the machine with what it measures, so it does little: requests are made beforehand, and an answer is only looked at for
its end, its status and two marks.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import uvloop

_BAD = (b'"recorded":false', b'"rung":"baseline"', b'"rung":"last_good"', b'"rung":"fallback"')


@dataclass(frozen=True, slots=True)
class Load:
    """What a round of requests has shown.

    Attributes
    ----------
    failures
        How many were not answered with 200, not recorded, or decided by a lower rung than the policy, by what it was.
    done_at_s
        When each answer came, from the start.
    """

    n: int
    failures: Mapping[str, int]
    wall_s: float
    latencies_ms: np.ndarray
    done_at_s: np.ndarray

    @property
    def n_failed(self) -> int:
        """All failures."""
        return sum(self.failures.values())

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return (self.n - self.n_failed) / self.wall_s

    def percentile(self, q: float) -> float:
        """Latency in milliseconds."""
        return float(np.percentile(self.latencies_ms, q))


def requests_of(path: str, bodies: Sequence[bytes], *, headers: Sequence[str] = ()) -> list[bytes]:
    """Whole HTTP/1.1 requests, made once so that the generator costs little."""
    extra = "".join(f"{h}\r\n" for h in headers)
    return [
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(b)}\r\n\r\n".encode()
        + b
        for b in bodies
    ]


class _Client(asyncio.Protocol):
    """One connection: sends a request, waits for the whole answer, sends the next."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._inbox = b""
        self._sent: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport
        self.next()

    def connection_lost(self, exc: Exception | None) -> None:
        """A request without an answer has failed."""
        if self._sent is not None:
            self._run.done(self._sent, failure="connection lost")

    def next(self) -> None:
        """Send the next request when it is due."""
        run = self._run
        i = next(run.numbers, None)
        if i is None:
            self._sent = None
            self._transport.close()
            return
        self._sent = i
        wait = run.due(i) - time.perf_counter()
        if wait > 0:
            run.loop.call_later(wait, self._send, i)
        else:
            self._send(i)

    def _send(self, i: int) -> None:
        self._transport.write(self._run.requests[i % len(self._run.requests)])  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer."""
        self._inbox = inbox = self._inbox + data if self._inbox else data
        end = inbox.find(b"\r\n\r\n")
        if end < 0:
            return
        at = inbox.find(b"ontent-length: ") + 15
        if len(inbox) < end + 4 + int(inbox[at : inbox.find(b"\r", at)]):
            return
        self._inbox = b""
        assert self._sent is not None
        self._run.done(self._sent, failure=_failure_in(inbox))
        self.next()


def _failure_in(answer: bytes) -> str | None:
    """What is wrong with an answer; None where nothing is."""
    if not answer.startswith(b"HTTP/1.1 200"):
        return answer[9:12].decode()
    return next((bad.decode().replace('"', "") for bad in _BAD if bad in answer), None)


class _Run:
    """All connections of one load."""

    def __init__(self, requests: Sequence[bytes], *, n: int, per_second: float | None) -> None:
        self.requests = requests
        self.loop = asyncio.get_running_loop()
        self.numbers: Iterator[int] = iter(range(n))
        self.started = time.perf_counter()
        self.finished: asyncio.Future[None] = self.loop.create_future()
        self.failures: Counter[str] = Counter()
        self.latencies_s = np.zeros(n)
        self.done_at = np.zeros(n)
        self._began = np.zeros(n)
        self._per_second = per_second
        self._n_left = n

    def due(self, i: int) -> float:
        """When a request should go out; a stall then counts against all who had to wait for it."""
        at = self.started + i / self._per_second if self._per_second else time.perf_counter()
        self._began[i] = at
        return at

    def done(self, i: int, *, failure: str | None) -> None:
        """Note an answer."""
        now = time.perf_counter()
        self.latencies_s[i] = now - self._began[i]
        self.done_at[i] = now - self.started
        if failure is not None:
            self.failures[failure] += 1
        self._n_left -= 1
        if not self._n_left and not self.finished.done():
            self.finished.set_result(None)


async def _drive(port: int, requests: Sequence[bytes], *, n: int, n_connections: int, per_second: float | None) -> Load:
    run = _Run(requests, n=n, per_second=per_second)
    for _ in range(min(n, n_connections)):
        await run.loop.create_connection(lambda: _Client(run), "127.0.0.1", port)
    await asyncio.wait_for(run.finished, 600)
    return Load(n, run.failures, time.perf_counter() - run.started, run.latencies_s * 1e3, run.done_at)


def drive(
    port: int, requests: Sequence[bytes], *, n: int, n_connections: int = 64, per_second: float | None = None
) -> Load:
    """Send n requests over some connections, as fast as they are answered or at a fixed rate."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_drive(port, requests, n=n, n_connections=n_connections, per_second=per_second))


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    out = [pid]
    for at in out:
        for thread in Path(f"/proc/{at}/task").iterdir():  # a child is listed under the thread that started it
            out += [int(c) for c in (thread / "children").read_text().split()]
    return out


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of some processes so far, children that have ended included."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
