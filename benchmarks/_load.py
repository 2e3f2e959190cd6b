"""A load generator for one keep-alive JSON endpoint, and the CPU time of a process with its descendants."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, slots=True)
class Load:
    """What a round of requests has shown."""

    n: int
    n_failed: int
    wall_s: float
    latencies_ms: np.ndarray

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


async def _one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bool:
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    body = await reader.readexactly(length)
    return head.startswith(b"HTTP/1.1 200") and b'"recorded":false' not in body


async def _run(port: int, requests: Sequence[bytes], *, n: int, n_connections: int, per_second: float | None) -> Load:
    latencies = np.zeros(n)
    failed = 0
    taken = iter(range(n))
    connections = [await asyncio.open_connection("127.0.0.1", port) for _ in range(n_connections)]
    started = time.perf_counter()

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal failed
        for i in taken:
            due = started + i / per_second if per_second else time.perf_counter()
            wait = due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            # From when it was due, so that a stall counts against all who had to wait for it.
            ok = await _one(reader, writer, requests[i % len(requests)])
            latencies[i] = (time.perf_counter() - due) * 1e3
            failed += not ok

    await asyncio.gather(*(work(r, w) for r, w in connections))
    wall_s = time.perf_counter() - started
    for _, writer in connections:
        writer.close()
    return Load(n, failed, wall_s, latencies)


def drive(
    port: int, requests: Sequence[bytes], *, n: int, n_connections: int = 32, per_second: float | None = None
) -> Load:
    """Send n requests over some connections, as fast as they are answered or at a fixed rate."""
    return asyncio.run(_run(port, requests, n=n, n_connections=n_connections, per_second=per_second))


def cpu_s(pids: Sequence[int]) -> float:
    """User and system time of some processes so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
