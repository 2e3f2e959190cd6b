"""The Python client against a real server, and against everything that can go wrong with one."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.api.process import ServerProcess, start_server

FALLBACK = {"offer_page": [{"id": "monthly", "payload": {"title": "Local"}}, {"id": "annual", "payload": {}}]}


def load_client() -> ModuleType:
    """Import the file as a user does who copied it: alone."""
    path = Path(__file__).parents[2] / "clients" / "python" / "nextoffer_client.py"
    spec = importlib.util.spec_from_file_location("nextoffer_client", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["nextoffer_client"] = module
    spec.loader.exec_module(module)
    return module


nextoffer_client = load_client()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One sandbox server for the module."""
    started = start_server(tmp_path_factory.mktemp("client") / "home")
    yield started
    started.stop()


def make_client(url: str, key: str = "nxo_x", **options: Any) -> Any:
    """A client that collects its problems."""
    problems: list[Any] = []
    client = nextoffer_client.Nextoffer(
        url, key, **{"fallback": FALLBACK, "timeout_s": 5.0, "on_problem": problems.append, **options}
    )
    client.problems = problems
    _made.append(client)
    return client


_made: list[Any] = []


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    """Close every client that a test made."""
    yield
    while _made:
        _made.pop().close()


def test_decide_reward_outcome_event_and_activate(server: ServerProcess) -> None:
    """The whole conversation works against a real server."""
    with make_client(server.url, server.key) as client:
        client.event("visitor-1", "page_view", "pricing")
        choice = client.decide("offer_page", subject="visitor-1", features={"visits": 3}, activated=False)
        assert (choice.source, choice.recorded, choice.reason) == ("service", True, "")
        assert choice.payload["title"]
        assert client.activate(choice)["first"] is True
        assert client.reward(choice, "subscribed")["joined"] is True
        assert client.reward(choice, "subscribed")["status"] == "repeat"
        assert client.outcome("visitor-1", "subscribed", id="invoice-1")["attributed_to"] == [choice.id]
        assert client.problems == []


def test_the_same_id_gives_the_same_answer(server: ServerProcess) -> None:
    """What makes the retry rule safe: an id asked again is the stored answer."""
    with make_client(server.url, server.key) as client:
        first = client.decide("offer_page", subject="v", id="same-1")
        assert client.decide("offer_page", subject="v", id="same-1") == first


def test_threads_share_a_client_and_connections_are_kept(server: ServerProcess) -> None:
    """Eight threads make 200 distinct recorded decisions over no more than eight connections."""
    with make_client(server.url, server.key) as client, ThreadPoolExecutor(8) as pool:
        choices = list(pool.map(lambda i: client.decide("offer_page", subject=f"v{i}"), range(200)))
        assert {c.source for c in choices} == {"service"}, client.problems
        assert len({c.id for c in choices}) == 200
        assert 1 <= len(client._idle) <= 8


@pytest.mark.parametrize(
    ("placement", "options", "code"),
    [
        ("offer_pge", {}, "unknown_name"),
        ("offer_page", {"features": {"x": float("nan")}}, "bad_request"),
        ("offer_page", {"features": {"x": object()}}, "bad_request"),
        ("offer_page", {"features": {"x": [1]}}, "malformed"),
    ],
)
def test_a_refusal_or_a_wrong_call_falls_back(
    server: ServerProcess, placement: str, options: dict[str, Any], code: str
) -> None:
    """Whatever is wrong with a call, the page gets a choice and the hook hears why."""
    with make_client(server.url, server.key, fallback={placement: FALLBACK["offer_page"]}) as client:
        choice = client.decide(placement, subject="v", **options)
        assert (choice.offer_id, choice.source, choice.recorded) == ("monthly", "fallback", False)
        assert choice.id.startswith("fallback-")
        assert [p.code for p in client.problems] == [code]


def test_a_fallback_choice_is_never_rewarded() -> None:
    """A fallback is no exposure: its reward is answered without a request, and excluded offers are not shown."""
    client = make_client("http://127.0.0.1:9")
    choice = client.decide("offer_page", subject="v", exclude=["monthly"])
    assert choice.offer_id == "annual"
    n_problems = len(client.problems)
    assert client.reward(choice, "subscribed")["status"] == "ignored"
    assert len(client.problems) == n_problems
    assert client.decide("unknown", subject="v").offer_id is None


def test_a_page_has_an_offer_in_every_place_whether_the_service_answers_or_not(server: ServerProcess) -> None:
    """Each place gets an offer of its own and an id of its own; without the service the local list fills them, none twice."""
    with make_client(server.url, server.key) as client:
        page = client.decide_page("offer_page", subject="visitor-9", slots=["hero", "side"])
        assert len({c.offer_id for c in page.values()}) == len({c.id for c in page.values()}) == 2
        assert {c.source for c in page.values()} == {"service"}
        assert client.reward(page["side"], "subscribed")["joined"] is True
        assert client.identify("visitor-9", "customer-9")["person"] == ["customer-9", "visitor-9"]
    dead = make_client("http://127.0.0.1:9").decide_page("offer_page", subject="v", slots=["hero", "side", "foot"])
    assert [c.offer_id for c in dead.values()] == ["monthly", "annual", None]


def test_a_reload_within_the_time_to_live_is_the_same_choice(server: ServerProcess) -> None:
    """With ``ttl_s`` two calls are one decision."""
    with make_client(server.url, server.key) as client:
        first = client.decide("offer_page", subject="reloader", ttl_s=600)
        assert client.decide("offer_page", subject="reloader", ttl_s=600, features={"x": 1}) == first


def test_a_dead_service_is_left_alone_for_a_while() -> None:
    """After five failures in a row the fallback comes at once, without a connection being tried."""
    client = make_client("http://127.0.0.1:9")
    for _ in range(5):
        client.decide("offer_page", subject="v")
    assert {p.code for p in client.problems} == {"network"}
    started = time.perf_counter()
    for _ in range(100):
        assert client.decide("offer_page", subject="v").offer_id == "monthly"
    assert time.perf_counter() - started < 5.0
    assert {p.code for p in client.problems[5:]} == {"circuit_open"}


def test_a_wrong_address_is_refused_when_the_client_is_made() -> None:
    """The one thing that raises, at start and not on a page."""
    with pytest.raises(ValueError, match="expected an address"):
        nextoffer_client.Nextoffer("localhost:8000", "k")


Script = Callable[[BaseHTTPRequestHandler, int], None]


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], tuple[str, list[str]]]]:
    """A bare HTTP server that answers as a test says; it records the decision ids that it was asked for."""
    servers: list[ThreadingHTTPServer] = []

    def start(script: Script) -> tuple[str, list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked.append(body["id"])
                try:
                    script(self, len(asked))
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(made)
        return f"http://127.0.0.1:{made.server_address[1]}", asked

    yield start
    for made in servers:
        made.shutdown()
        made.server_close()


ANSWER = json.dumps(
    {
        "id": "d",
        "offer": {"id": "annual", "payload": {}},
        "probability": 0.5,
        "variant": None,
        "recorded": True,
        "new_field": 1,
    }
).encode()


def _send(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_slow_answer_falls_back_in_time(scripted: Any) -> None:
    """A server that hangs, or sends a byte at a time, does not hold the page beyond the timeout."""

    def hang(handler: BaseHTTPRequestHandler, n: int) -> None:
        time.sleep(3.0)

    def drip(handler: BaseHTTPRequestHandler, n: int) -> None:
        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 150\r\n\r\n" + b" " * 150:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)

    for script in (hang, drip):
        url, asked = scripted(script)
        client = make_client(url, timeout_s=0.15)
        started = time.perf_counter()
        choice = client.decide("offer_page", subject="v")
        assert time.perf_counter() - started < 1.5
        assert (choice.source, [p.code for p in client.problems]) == ("fallback", ["timeout"])
        assert len(asked) == 1  # a timeout is not retried: there is no time left


@pytest.mark.parametrize(("status", "n_requests"), [(502, 2), (503, 2), (504, 2), (500, 1), (429, 1), (409, 1)])
def test_the_retry_rule(scripted: Any, status: int, n_requests: int) -> None:
    """502, 503 and 504 are tried once more with the same id; nothing else is."""
    url, asked = scripted(lambda handler, n: _send(handler, status if n == 1 else 200, ANSWER))
    choice = make_client(url).decide("offer_page", subject="v", id="d")
    assert asked == ["d"] * n_requests
    assert choice.source == ("service" if n_requests == 2 else "fallback")


def test_a_kept_connection_that_died_is_replaced(scripted: Any) -> None:
    """A server that closed an idle connection costs a retry and no fallback."""

    def script(handler: BaseHTTPRequestHandler, n: int) -> None:
        _send(handler, 200, ANSWER)
        if n == 1:  # close without having said so
            handler.connection.shutdown(socket.SHUT_RDWR)

    url, _ = scripted(script)
    client = make_client(url)
    assert client.decide("offer_page", subject="v").source == "service"
    time.sleep(0.05)
    assert client.decide("offer_page", subject="v").source == "service"
    assert client.problems == []
    client.close()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"id": "d"}', b"\xff" * 10])
def test_a_strange_answer_falls_back(scripted: Any, body: bytes) -> None:
    """An answer that is not the service's, from a proxy say, never reaches the page as an exception."""
    url, _ = scripted(lambda handler, n: _send(handler, 200, body))
    client = make_client(url)
    assert client.decide("offer_page", subject="v").source == "fallback"
    assert [p.code for p in client.problems] == ["bad_answer"]
    client.close()
