"""The short way of requests and answers sends what the ASGI way sends."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from api.protocol import Exchange, ExchangeProtocol
from tests.api.conftest import Site

_PATH = "/v1/placements/offer_page/decisions"
_BODY = b'{"id": "d1", "subject": "u1"}'
_HEAD = b"HEAD /healthz HTTP/1.1\r\nhost: a\r\nx-request-id: r0\r\n\r\n"


class _Transport(asyncio.Transport):
    """Keeps what is written, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        """Keep one write."""
        self.writes.append(bytes(data))

    def close(self) -> None:
        """Note it."""
        self.is_closed = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def pause_reading(self) -> None:
        """What is fed here is fed anyway."""

    def resume_reading(self) -> None:
        """What is fed here is fed anyway."""


def _ask(app: Any, kind: type[HttpToolsProtocol], parts: list[bytes], *, n_answers: int = 1) -> _Transport:
    """Feed parts of one connection, with a pause after each, and wait for the answers."""

    async def run() -> _Transport:
        config = uvicorn.Config(app, lifespan="off", access_log=False, log_level="critical", proxy_headers=False)
        config.load()
        state, transport = ServerState(), _Transport()
        state.default_headers = [(b"date", b"today")]
        protocol = kind(config, state, {}, asyncio.get_running_loop())
        protocol.connection_made(transport)
        for part in parts:
            protocol.data_received(part)
            await asyncio.sleep(0.02)
        for _ in range(250):
            if state.total_requests >= n_answers:
                break
            await asyncio.sleep(0.02)
        assert state.total_requests == n_answers
        protocol.connection_lost(None)
        return transport

    return asyncio.run(run())


def _request(site: Site, body: bytes = _BODY, *lines: str, version: str = "1.1", path: str = _PATH) -> bytes:
    head = "".join(f"{line}\r\n" for line in lines)
    key = site.keys["decide"]
    return (
        f"POST {path} HTTP/{version}\r\nhost: a\r\nauthorization: Bearer {key}\r\nx-request-id: r1\r\n{head}"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body


_CASES: dict[str, Callable[[Site], list[bytes]]] = {
    "whole": lambda s: [_request(s)],
    "body comes later": lambda s: [_request(s)[:-9], _request(s)[-9:]],
    "last request": lambda s: [_request(s, _BODY, "connection: close")],
    "HTTP/1.0": lambda s: [_request(s, version="1.0")],
    "client waits to be told": lambda s: [_request(s, _BODY, "expect: 100-continue")],
    "refused": lambda s: [_request(s, b'{"subject": 3}')],
    "too large": lambda s: [_request(s, b'{"subject": "' + b"u" * 70_000 + b'"}')],
    "no such path": lambda s: [_request(s, path="/v1/nowhere")],
    "chunked": lambda s: [
        _request(s).partition(b"content-length")[0]
        + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(_BODY), _BODY)
    ],
}
_CROSSING: dict[str, Callable[[Site], list[bytes]]] = {
    "from a page": lambda s: [_request(s, _BODY, "origin: https://shop.example")],
    "of an operation for pages": lambda s: [_request(s, b'{"decision": "d2", "kind": "seen"}', path="/v1/rewards")],
}


@pytest.mark.parametrize("case", list(_CASES))
def test_both_ways_send_the_same_bytes(make_site: Callable[..., Site], case: str) -> None:
    """However a request comes, its answer is to the byte what uvicorn sends in the ASGI way, and so is the end of the connection."""
    site = make_site()
    parts = _CASES[case](site)
    _ask(site.client.app, HttpToolsProtocol, parts)  # the first call makes the decision, those below repeat its answer
    long, short = (_ask(site.client.app, kind, parts) for kind in (HttpToolsProtocol, ExchangeProtocol))
    assert b"".join(short.writes) == b"".join(long.writes) != b""
    assert short.is_closed == long.is_closed


def test_an_answer_to_head_has_no_body(make_site: Callable[..., Site]) -> None:
    """HEAD gets what uvicorn sends in the ASGI way: a body would be read as the beginning of the next answer on the connection."""
    site = make_site()
    _ask(site.client.app, HttpToolsProtocol, [_request(site)])
    parts = [_HEAD, _request(site)]
    long, short = (_ask(site.client.app, kind, parts, n_answers=2) for kind in (HttpToolsProtocol, ExchangeProtocol))
    assert b"".join(short.writes) == b"".join(long.writes)
    assert b"".join(short.writes).partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("case", list(_CROSSING))
def test_what_pages_of_other_sites_may_read_keeps_its_headers(make_site: Callable[..., Site], case: str) -> None:
    """Where other origins are allowed, an answer that a page may read has the same CORS headers either way."""
    site = make_site(cors_origins=("https://shop.example",))
    parts = _CROSSING[case](site)
    _ask(site.client.app, HttpToolsProtocol, parts)
    long, short = (_ask(site.client.app, kind, parts) for kind in (HttpToolsProtocol, ExchangeProtocol))
    assert b"".join(short.writes) == b"".join(long.writes)
    assert b"vary: " in short.writes[0]


def test_a_whole_answer_is_one_write(make_site: Callable[..., Site]) -> None:
    """Head and body of an operation's answer go out together; requests sent in one go are answered in order, one write each."""
    site = make_site()
    bodies = [b'{"id": "d%d", "subject": "u%d"}' % (i, i) for i in range(3)]
    transport = _ask(
        site.client.app, ExchangeProtocol, [b"".join(_request(site, body) for body in bodies)], n_answers=3
    )
    assert len(transport.writes) == 3
    for i, write in enumerate(transport.writes):
        head, _, body = write.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert b'"id":"d%d"' % i in body


def test_a_slow_reader_is_waited_for(make_site: Callable[..., Site]) -> None:
    """While a client does not read, nothing is written to it past the transport's limit; its answer comes when it reads again."""
    site = make_site()

    async def run() -> list[bytes]:
        config = uvicorn.Config(site.client.app, lifespan="off", access_log=False, log_level="critical")
        config.load()
        transport = _Transport()
        protocol = ExchangeProtocol(config, ServerState(), {}, asyncio.get_running_loop())
        protocol.connection_made(transport)
        protocol.pause_writing()
        protocol.data_received(_request(site))
        await asyncio.sleep(0.2)
        assert transport.writes == []
        protocol.resume_writing()
        await asyncio.sleep(0.2)
        protocol.connection_lost(None)
        return transport.writes

    assert b"".join(asyncio.run(run())).startswith(b"HTTP/1.1 200")


def test_requests_leave_nothing_to_the_garbage_collector(site: Site) -> None:
    """What a request is made of dies with its answer: looks for cycles would be the tail of every decision."""
    requests = [_request(site, b'{"subject": "u%d"}' % i) for i in range(20)]
    gc.collect()
    gc.disable()
    try:
        _ask(site.client.app, ExchangeProtocol, requests, n_answers=len(requests))
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [o for o in gc.garbage if isinstance(o, (Exchange, RequestResponseCycle))]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert len(left) < 3  # the connection itself and its last request
