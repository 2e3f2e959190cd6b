"""The door over HTTP: a server as a process of its own, and simulated visitors who ask it through the product's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.decisions.requests import DecisionRequest, EventRequest
from engine.simulation.traffic import Fact, TrafficError

_HTTP_THREADS = 6


class OverHttp:
    """The pipeline over HTTP through the product's own client, a few connections side by side."""

    def __init__(self, url: str, key: str, *, threads: int = _HTTP_THREADS) -> None:
        from nextoffer_client import Nextoffer

        # A page would give up after 80 ms; here each visitor has to be served, or the experiment has a hole.
        self._client = Nextoffer(url, key, timeout_s=10.0, report_timeout_s=10.0)
        self._pool = ThreadPoolExecutor(threads)
        self.n_requests = 0

    def events(self, requests: Sequence[EventRequest]) -> None:
        """Report behaviour; a subject's events in order."""

        def send(e: EventRequest) -> object:
            return self._client.event(e.subject, e.kind, e.item, e.value, id=e.id, headers=_time(e.at))

        self._all(send, requests)

    def decide(self, requests: Sequence[DecisionRequest]) -> list[str]:
        """Offer id of each decision."""

        def send(r: DecisionRequest) -> str | None:
            choice = self._client.decide(
                r.placement, subject=r.subject, features=r.features, id=r.id, headers=_time(r.at)
            )
            return choice.offer_id if choice.recorded else None

        return self._all(send, requests)

    def rewards(self, facts: Sequence[Fact]) -> None:
        """Report what came of decisions."""
        self._all(lambda f: self._client.reward(f.about, f.kind, f.value, id=f.id, headers=_time(f.at)), facts)

    def outcomes(self, facts: Sequence[Fact]) -> None:
        """Report what became of subjects."""
        self._all(lambda f: self._client.outcome(f.about, f.kind, f.value, id=f.id, headers=_time(f.at)), facts)

    def close(self) -> None:
        """Let go of the connections."""
        self._pool.shutdown()
        self._client.close()

    def _all(self, send: Callable[[Any], Any], requests: Sequence[Any]) -> list[Any]:
        answers = list(self._pool.map(send, requests))
        self.n_requests += len(requests)
        failed = sum(a is None for a in answers)
        if failed:
            raise TrafficError(f"the service did not take {failed} of {len(answers)} requests; look into its log")
        return answers


def _time(at: datetime | None) -> dict[str, str]:
    return {} if at is None else {"Nextoffer-Time": at.isoformat()}


@contextmanager
def running_server(home: Path, *, log: Path, settings: Mapping[str, str] | None = None) -> Iterator[tuple[str, str]]:
    """Run ``nextoffer serve`` as a process of its own on a free port; yields its address and sandbox key.

    Parameters
    ----------
    settings
        Of the server, as environment variables, beside those of this process.

    Raises
    ------
    TrafficError
        If it does not start; the text ends with its last words.
    """
    command = [
        str(Path(sys.executable).with_name("nextoffer")),
        "serve",
        "--port",
        "0",
        "--home",
        str(home),
        "--sandbox",
        "--json",
    ]
    with log.open("wb") as errors:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env={**os.environ, **(settings or {})}, text=True
        )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if not line:
            server.wait(timeout=10)
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise TrafficError(f"the server did not start (exit code {server.returncode}); its last words:\n{tail}")
        ready = json.loads(line)
        yield str(ready["url"]), str(ready["key"])
    finally:
        server.terminate()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        if server.stdout is not None:
            server.stdout.close()
