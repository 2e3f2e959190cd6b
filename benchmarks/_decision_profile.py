"""What each step of a decision costs: by itself over fresh requests, and all of them in one pass through the application.

Steps by themselves are warm and add up to less than the whole: in a server each finds its code and data cold.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import uvloop

from api.app import create_app
from api.auth import KeyFile, new_key
from api.bodies import check_depth, parse_body
from api.call import first_headers
from api.decisions.routes import decision_json
from api.decisions.schemas import DecisionBody
from api.edge import authorise
from api.settings import Settings
from benchmarks._noop import app as noop
from benchmarks._servers import Site, prepare
from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionAnswer, DecisionRequest
from engine.decisions.service import DecisionService
from engine.store.database import Database, sqlite_url
from engine.store.facts import NEW, FactRow, Receipt, decision_row
from policies.records import DecisionOfOne
from policies.sampling import decide_one, uniform_for

_N = 2_000
_PATH = "/v1/placements/shop/decisions"


def print_profile(site: Site) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="nextoffer-profile-") as folder:
        home = Path(folder)
        prepare(home, site.features)
        text, kept = new_key("profile", scopes=["decide"], at=datetime.now(UTC))
        KeyFile(home / "keys.json").add(kept)
        with open_service(home, writer="process") as service:
            rows = _steps(service, site.bodies[:_N])
            settings = Settings(home=home)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rows.append(("wait for the disk, one alone (wall)", runner.run(_commit(service, n=200))))
        database = Database(sqlite_url(home / "nextoffer.db"))
        with DecisionService(
            database, _Instant(), artifacts=home / "artifacts", secret=b"s" * 32, policy_deadline_s=60.0
        ) as service:
            service.policies.load(str(service.placement("shop")[0].policy))
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rows += runner.run(_whole(settings, service, text, site.bodies[:_N]))
    for name, us in rows:
        print(f"{name:58s} {us:8.1f} us")


def _read(raw: bytes) -> DecisionBody:
    check_depth(raw, limit=16)
    return parse_body(DecisionBody, raw)


def _steps(service: DecisionService, bodies: Sequence[bytes]) -> list[tuple[str, float]]:
    pipeline = service._pipeline
    live = service._configuration.placement("shop")
    loaded = service.policies.load(str(live.placement.policy))
    parsed = [_read(raw) for raw in bodies]
    requests = [DecisionRequest("shop", body.subject, body.features) for body in parsed]
    service.decide(requests[0])  # the catalogue's offers are then on disk, as they are in a server
    made = [pipeline.prepare(request) for request in requests]
    tables = [DecisionOfOne(live.offers, subject=r.subject, features=r.features, at_us=0) for r in requests]
    answers = [DecisionAnswer(p.decision, p.payload) for p in made]
    told = [decision_json(answer) for answer in answers]
    secret = b"s" * 32
    return [
        ("check the body against its model", _each(_read, bodies)),
        ("make the decision, all of the following", _each(pipeline.prepare, requests)),
        ("  policy: VW's distribution over 20 offers", _each(loaded.policy.probabilities, tables)),
        (
            "  policy's own path for one, explore share and draw",
            _each(lambda t: decide_one(loaded.policy, t, uniform=0.5, explore_share=0.05), tables),
        ),
        ("  uniform from the id", _each(lambda p: uniform_for(secret, "shop", p.decision.id), made)),
        ("  row of the log", _each(lambda p: decision_row(p.decision, digest=b""), made)),
        ("answer as plain values", _each(decision_json, answers)),
        ("answer as JSON", _each(orjson.dumps, told)),
    ]


async def _whole(
    settings: Settings, service: DecisionService, key: str, bodies: Sequence[bytes]
) -> list[tuple[str, float]]:
    ours = create_app(settings, service=service)
    headers = [
        (b"host", b"profile"),
        (b"content-type", b"application/json"),
        (b"authorization", f"Bearer {key}".encode()),
    ]
    async with ours.router.lifespan_context(ours):
        scope = _scope(_PATH, headers)
        keys = ours.state.parts.keys
        rows = [
            ("find the operation", _each(lambda _: ours.outermost.find("POST", _PATH), bodies)),  # type: ignore[attr-defined]
            ("find the key", _each(lambda _: authorise(scope, first_headers(scope), keys, "decide"), bodies)),
        ]
        # One after the other, with no socket and a log that answers at once: what is left to a server is uvicorn and the writer.
        for name, app, path in (("noop endpoint", noop, "/noop"), ("decision", ours, _PATH)):
            taken: list[float] = []
            for body in bodies:
                started = time.process_time()
                await _call(app, path, headers, body)
                taken.append((time.process_time() - started) * 1e6)
            rows.append((f"through the application, all in all: {name}", statistics.median(taken)))
    return rows


class _Instant:
    """A log that says at once that everything is on disk; no decision is answered by it outside this measurement."""

    is_healthy = True

    def __init__(self) -> None:
        self._offset = 0

    def submit(self, rows: Sequence[FactRow]) -> Future[list[Receipt]]:
        """Not used here."""
        raise NotImplementedError

    def submit_in_loop(self, rows: Sequence[FactRow]) -> asyncio.Future[list[Receipt]]:
        """Answer in the loop's next turn."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Receipt]] = loop.create_future()
        self._offset += len(rows)
        loop.call_soon(future.set_result, [Receipt(NEW, self._offset, True) for _ in rows])
        return future

    def close(self) -> None:
        """Nothing waits."""


async def _commit(service: DecisionService, *, n: int) -> float:
    prepared = service._pipeline.prepare(DecisionRequest("shop", "u"))
    taken: list[float] = []
    for i in range(n):
        row = prepared.row._replace(id=f"profile-{i}", values=(f"profile-{i}", *prepared.row.values[1:]))
        started = time.perf_counter()
        await service.log.awaited([row])
        taken.append((time.perf_counter() - started) * 1e6)
    return statistics.median(taken)


async def _call(app: Any, path: str, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            raise RuntimeError(f"answered {message['status']}")

    await app(_scope(path, [*headers, (b"content-length", b"%d" % len(body))]), receive, send)


def _scope(path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "state": {},
    }


def _each(do: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Median time of one call."""
    taken: list[float] = []
    for item in items:
        started = time.perf_counter()
        do(item)
        taken.append((time.perf_counter() - started) * 1e6)
    return statistics.median(taken)
