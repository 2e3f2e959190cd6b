"""A documented HTTP operation on a plain Starlette route.

FastAPI's own endpoint machinery costs more than a whole decision does, so operations run as plain routes: the body is
read under a limit, checked by a pydantic model straight from its bytes, handed to a coroutine, and the answer is written
by orjson. ``api/openapi.py`` documents the same objects, so that what runs and what is documented cannot part.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
from pydantic import BaseModel
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from api.auth import Scope as KeyScope
from api.bodies import parse_body
from api.call import Call, Parts, first_headers, request_id_of
from api.edge import answered, authorise, behind_proxy, check_origin, fault_body, own_error
from api.protocol import Exchange, take_exchange

Handler = Callable[[Call, Any], Awaitable[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One method on one path: what it takes, what it gives, who may call it, and the coroutine that does it.

    Parameters
    ----------
    scope
        What the key must allow; None is open to everyone.
    body
        Model of the request body; None where there is none.
    reply
        Model of the answer, for the documentation and the tests; None is an empty answer.
    is_public
        Whether a browser's public key may call it.
    query
        JSON Schema of each optional query parameter.
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    summary: str
    scope: KeyScope | None
    handler: Handler
    body: type[BaseModel] | None = None
    reply: type[BaseModel] | None = None
    status: int = 200
    tag: str = ""
    is_public: bool = False
    is_body_optional: bool = False
    query: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its identifier in the documentation and the metrics."""
        return self.handler.__name__

    def route(self) -> Route:
        """The plain route that runs it."""
        return Route(self.path, self, methods=[self.method], name=self.name, include_in_schema=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run it as an ASGI application whose path has been taken apart by a route."""
        await self.run(scope, receive, send, scope["path_params"])

    async def run(self, scope: Scope, receive: Receive, send: Send, params: Mapping[str, str]) -> None:
        """Read one request, do what it asks, and answer."""
        parts: Parts = scope["app"].state.parts
        started = time.perf_counter()
        headers = first_headers(scope)
        request_id = request_id_of(headers)
        # An answer that a page of another site may read gets CORS headers on its way out.
        may_cross = b"origin" in headers or (self.is_public and parts.settings.cors_origins)
        # To HEAD the ASGI way answers without the body, which a client would take for the beginning of its next answer.
        exchange = take_exchange(scope)
        if may_cross or scope["method"] != self.method:
            exchange = None
        call = Call(scope, receive, parts, None, request_id, params, headers)
        work = self._answer(scope, receive, send, call, exchange)
        answer = await answered(work, call, self.name, on_error=own_error, on_fault=fault_body)
        if isinstance(answer, Response):
            answer.headers["x-request-id"] = request_id
            status = answer.status_code
            await answer(scope, receive, send)
        else:
            status = self.status
            if exchange is None or not exchange.answer(status, _json_head(answer, request_id), answer):
                await send_json(send, answer, status=status, request_id=request_id)
        parts.metrics.observe(self.name, status, time.perf_counter() - started)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, call: Call, exchange: Exchange | None
    ) -> Response | bytes:
        """The handler's answer, as JSON where it is plain values."""
        if self.scope is not None:
            call.key = authorise(scope, call.headers, call.parts.keys, self.scope, is_public_route=self.is_public)
            if call.key.is_public:
                if b"x-forwarded-proto" in call.headers:
                    await behind_proxy(scope, receive, send)
                check_origin(call.request, call.key, call.parts.settings.cors_origins)
            placement = call.params.get("placement")
            if placement is not None:
                call.key.allow(self.scope, placement=placement)
        body = None
        if self.body is not None:
            raw = await call.body(None if exchange is None else exchange.body())
            if raw or not self.is_body_optional:
                body = parse_body(self.body, raw)
        content = await self.handler(call, body)
        if isinstance(content, Response):
            return content
        if self.reply is None:
            return Response(status_code=self.status)
        return orjson.dumps(content)


def _json_head(body: bytes, request_id: str) -> bytes:
    """Header lines of a JSON answer."""
    return b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n" % (
        len(body),
        request_id.encode("latin-1"),
    )


async def send_json(send: Send, body: bytes, *, status: int, request_id: str) -> None:
    """Send a JSON answer in ASGI's messages: what Starlette's ``Response`` does, without an object for it."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"x-request-id", request_id.encode("latin-1")),
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})
