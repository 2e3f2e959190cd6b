"""Several processes on one port: supervised, one log, one answer to who counts requests."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.api.process import ServerProcess, start_server


def workers_of(server: ServerProcess) -> list[int]:
    """Process ids of the workers."""
    children: list[int] = []
    for thread in Path(f"/proc/{server.process.pid}/task").iterdir():
        children += [int(c) for c in (thread / "children").read_text().split()]
    return [c for c in children if b"api.workers" in Path(f"/proc/{c}/cmdline").read_bytes()]


def decide(server: ServerProcess, number: int) -> dict[str, object]:
    """One decision on a connection of its own; asked again where a dying worker took the first connection with it."""
    body = {"id": f"d{number}", "subject": f"u{number}"}
    for _ in range(5):
        try:
            answer = httpx.post(
                f"{server.url}/v1/placements/{server.placement}/decisions",
                json=body,
                headers=server.headers,
                timeout=10,
            )
        except httpx.TransportError:
            continue
        answer.raise_for_status()
        found: dict[str, object] = answer.json()
        return found
    raise AssertionError("no worker answered")


@pytest.mark.slow
def test_a_dead_worker_is_started_again_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """Two workers answer on one port; one is killed under traffic, another takes its place, every answer stays in the log."""
    server = start_server(tmp_path / "home", "--workers", "2")
    try:
        before = workers_of(server)
        assert len(before) == 2
        answers = [decide(server, i) for i in range(30)]
        time.sleep(2.1)  # one that dies at once is not started again at once
        os.kill(before[0], signal.SIGKILL)
        answers += [decide(server, i) for i in range(30, 60)]
        deadline = time.monotonic() + 20
        while len(set(workers_of(server)) - {before[0]}) < 2:
            assert time.monotonic() < deadline, "the dead worker was not started again"
            time.sleep(0.05)
        for answer in answers:
            assert answer["recorded"]
            stored = httpx.get(f"{server.url}/v1/decisions/{answer['id']}", headers=server.headers, timeout=10).json()
            assert stored["offer"] == answer["offer"]["id"]  # type: ignore[index]
        time.sleep(1.2)
        for i in range(60, 64):
            decide(server, i)
        text = httpx.get(f"{server.url}/metrics", headers=server.headers, timeout=10).text
        counted = re.findall(r'nextoffer_requests_total\{operation="decide",status="200",worker="(\d)"\} (\S+)', text)
        # The dead one takes with it what it had not yet left for others, at most a second's worth.
        assert {worker for worker, _ in counted} <= {"0", "1"}
        assert sum(float(n) for _, n in counted) >= 30
        assert server.stop() == 0
    finally:
        server.kill()


@pytest.mark.slow
def test_workers_leave_when_their_parent_is_killed(tmp_path: Path) -> None:
    """Nobody goes on answering on the port of a server that is gone."""
    server = start_server(tmp_path / "home", "--workers", "2")
    workers = workers_of(server)
    server.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{w}").exists() for w in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
