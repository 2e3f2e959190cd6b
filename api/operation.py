"""A documented HTTP operation on a plain Starlette route.

FastAPI's own endpoint machinery costs more than a whole decision does, so operations run as plain routes: the body is
read under a limit, checked by a pydantic model straight from its bytes, handed to a coroutine, and the answer is written
by orjson. ``api/openapi.py`` documents the same objects, so that what runs and what is documented cannot part.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.auth import ApiKey, KeyRing
from api.auth import Scope as KeyScope
from api.errors import (
    ForbiddenError,
    MalformedError,
    RateLimitError,
    TooLargeError,
    UnauthorizedError,
    answer_for,
    error_body,
    malformed,
)
from api.protocol import Exchange, exchange_of
from api.visitors import Visitors, is_machine_agent
from engine.decisions.stored import placement_of
from engine.store.changes import Change
from policies.errors import InvalidInputError, NextofferError, OverloadedError, StoreUnavailableError

if TYPE_CHECKING:
    from api.metrics import Metrics
    from api.pulse import Pulse
    from api.settings import Settings
    from engine.decisions.service import DecisionService

TIME_HEADER = b"nextoffer-time"
_MAX_AHEAD = timedelta(minutes=5)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PROCESS, _REQUEST_NUMBERS = uuid.uuid4().hex[:16], itertools.count(1)
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_NO_QUERY: Mapping[str, str] = {}
_log = logging.getLogger("nextoffer.api")


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What every operation works with; made once when the service starts."""

    settings: Settings
    service: DecisionService
    keys: KeyRing
    metrics: Metrics
    clock: Callable[[], datetime]
    visitors: Visitors
    pulse: Pulse


@dataclass(slots=True, eq=False)
class Call:
    """One request on its way through an operation."""

    scope: Scope
    parts: Parts
    key: ApiKey | None
    request_id: str
    params: Mapping[str, str]
    headers: Mapping[bytes, bytes]

    @property
    def request(self) -> Request:
        """Starlette's view of the request; its body has been read."""
        return Request(self.scope)

    @property
    def service(self) -> DecisionService:
        """The decision service."""
        return self.parts.service

    @property
    def actor(self) -> str:
        """Who is named in audit rows."""
        return "" if self.key is None else f"key:{self.key.name}"

    def change(self, reason: str = "") -> Change:
        """What the request changes is changed now, by its key."""
        return Change(self.now, self.actor, reason)

    def path(self, name: str) -> str:
        """A part of the path, decoded."""
        return self.params[name]

    def header(self, name: bytes) -> str | None:
        """A header by its name in lower case; the first where it was sent twice."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    @property
    def at(self) -> datetime | None:
        """Injected moment of a sandbox request; None where the service's clock counts.

        Raises
        ------
        ForbiddenError
            If a request to a production service carries the header.
        """
        text = self.header(TIME_HEADER)
        if text is None:
            return None
        if not self.parts.settings.is_sandbox:
            raise ForbiddenError("header Nextoffer-Time works in a sandbox only; leave it out, or start with --sandbox")
        return parse_moment(text, what="header Nextoffer-Time")

    @property
    def now(self) -> datetime:
        """Injected moment, else the clock's."""
        return self.at or self.parts.clock()

    def fact_at(self, said: datetime | None) -> datetime | None:
        """Moment of a fact that may have happened before it is reported, never after."""
        at = self.at
        if said is None:
            return at
        now = at or self.parts.clock()
        if said > now + _MAX_AHEAD:
            raise InvalidInputError(
                f"at is {said.isoformat()}, after now ({now.isoformat()}); expected when it happened"
            )
        return said

    @property
    def idempotency_key(self) -> str | None:
        """The caller's name for this request, which a retry repeats."""
        text = self.header(b"idempotency-key")
        if text is None:
            return None
        text = text.strip('"')
        if not _IDEMPOTENCY_KEY.fullmatch(text):
            raise InvalidInputError(
                f"header Idempotency-Key is {text[:40]!r}; expected 1 to 128 visible ASCII characters, such as a UUID"
            )
        return text

    @property
    def is_from_machine(self) -> bool:
        """Whether a page's script was run by a machine: only with a public key is the User-Agent the visitor's own."""
        is_public = self.key is not None and self.key.is_public
        return is_public and is_machine_agent(self.request.headers.get("user-agent", ""))

    async def allow_decision(self, decision_id: str) -> None:
        """Refuse a key that is bound to placements and names a decision of another one."""
        if self.key is not None and self.key.placements:
            placement = await self.in_thread(placement_of, self.service.database, decision_id)
            if placement is not None:
                self.key.allow("reward", placement=placement)

    async def in_thread(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run what waits for the database outside the event loop."""
        return await run_in_threadpool(function, *args, **kwargs)


ModelT = TypeVar("ModelT", bound=BaseModel)
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
        exchange = None if may_cross or scope["method"] != self.method else exchange_of(scope)
        call = Call(scope, parts, None, request_id, params, headers)
        try:
            answer = await self._answer(scope, receive, send, call, exchange)
        except NextofferError as error:
            answer = error_response(error, request_id=request_id)
        except ClientDisconnect:
            answer = Response(status_code=499)
        except Exception:  # the outermost edge of a request: log it, and answer without a traceback
            about = {"request": request_id, "operation": self.name, **params}
            _log.exception("operation %s failed, request %s", self.name, request_id, extra=about)
            message = f"something went wrong on our side; the log holds it under request {request_id}"
            answer = json_response(error_body("internal", message, request_id=request_id), status=500)
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
        settings = call.parts.settings
        if self.scope is not None:
            call.key = authorise(scope, call.headers, call.parts.keys, self.scope, is_public_route=self.is_public)
            if call.key.is_public:
                if b"x-forwarded-proto" in call.headers:
                    await _behind_proxy(scope, receive, send)
                check_origin(call.request, call.key, settings.cors_origins)
            placement = call.params.get("placement")
            if placement is not None:
                call.key.allow(self.scope, placement=placement)
        body = None
        if self.body is not None:
            raw = None if exchange is None else exchange.body()
            if raw is None or len(raw) > settings.body_limit_bytes:
                raw = await receive_body(receive, call.headers, limit=settings.body_limit_bytes)
            if raw or not self.is_body_optional:
                body = parse_body(self.body, raw, depth_limit=settings.depth_limit)
        content = await self.handler(call, body)
        if isinstance(content, Response):
            return content
        if self.reply is None:
            return Response(status_code=self.status)
        return orjson.dumps(content)


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """Headers by name; of one sent twice the first counts."""
    return dict(reversed(scope["headers"]))


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


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand behind a layer that is used for what it does to the scope."""


# Asked only where a page calls with a public key, whose address is compared with its origin: nothing else looks at the scheme.
_behind_proxy: ASGIApp = ProxyHeadersMiddleware(  # type: ignore[assignment]  # uvicorn's own types of the same protocol
    _nothing,  # type: ignore[arg-type]
    os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1"),
)


def authorise(
    scope: Scope, headers: Mapping[bytes, bytes], keys: KeyRing, needed: KeyScope, *, is_public_route: bool = False
) -> ApiKey:
    """Find the caller's key and check its scope.

    A public key may come in the query (``sendBeacon`` cannot set headers), must be used on a route made for it, and from
    an origin that the settings name (which the CORS layer answers; here only the kind of key is checked).
    """
    query: Mapping[str, str] = QueryParams(scope["query_string"]) if scope["query_string"] else _NO_QUERY
    text = shown_key(headers, query)
    if text is None:
        raise UnauthorizedError("this needs an API key; send the header 'Authorization: Bearer nxo_…'")
    key = keys.find(text)
    if key.is_public and not is_public_route:
        raise ForbiddenError(
            f"key {key.name!r} is a public browser key; this call belongs on your server, with a secret key"
        )
    if "key" in query and not key.is_public:
        raise ForbiddenError(
            "a secret key was sent in the address, where logs keep it; rotate it and send it as a header"
        )
    key.allow(needed)
    return key


def check_origin(request: Request, key: ApiKey, allowed: Sequence[str]) -> None:
    """Refuse a page of another site that uses a public key: a beacon is sent whatever CORS says about its answer.

    Keeps honest browsers of other sites out, not a program that writes the header itself: a public key can do nothing but report.
    """
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.url.netloc}"
    if origin is not None and origin != own and origin not in allowed and "*" not in allowed:
        raise ForbiddenError(
            f"public key {key.name!r} is used by a page of {origin[:100]!r}; add the origin to cors_origins if it is yours"
        )


def shown_key(headers: Mapping[bytes, bytes], query: Mapping[str, str] = _NO_QUERY) -> str | None:
    """Text of the key that a caller shows, in either header or in the address."""
    said = headers.get(b"authorization", b"").decode("latin-1")
    if said[:7].lower() == "bearer " and (text := said[7:].strip()):
        return text
    return headers.get(b"nextoffer-key", b"").decode("latin-1") or query.get("key") or None


async def receive_body(receive: Receive, headers: Mapping[bytes, bytes], *, limit: int) -> bytes:
    """Read a body that is no larger than the limit.

    Raises
    ------
    TooLargeError
        As soon as it is known, before the rest is read.
    ClientDisconnect
        If the caller has gone before it was sent.
    """
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise TooLargeError(_too_large(f"{int(declared):,}", limit))
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk: bytes = message.get("body", b"")
        body = body + chunk if body else chunk
        if len(body) > limit:
            raise TooLargeError(_too_large(f"more than {limit:,}", limit))
        if not message.get("more_body", False):
            return body


async def read_body(request: Request, *, limit: int) -> bytes:
    """``receive_body`` for a handler that has Starlette's request."""
    return await receive_body(request.receive, first_headers(request.scope), limit=limit)


def _too_large(found: str, limit: int) -> str:
    return f"the body has {found} bytes; at most {limit:,} are read: send less at a time, or raise body_limit_bytes"


def parse_body(model: type[ModelT], raw: bytes, *, depth_limit: int) -> ModelT:
    """Check a JSON body against its model.

    Raises
    ------
    MalformedError
        Naming each place and what is wrong there.
    """
    check_depth(raw, limit=depth_limit)
    try:
        # What model_validate_json calls, without its checks of arguments that are not given.
        return model.__pydantic_validator__.validate_json(raw)  # type: ignore[no-any-return]
    except ValidationError as error:
        raise malformed(error) from None


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


def check_depth(raw: bytes, *, limit: int) -> None:
    """Refuse JSON nested deeper than the limit, before anything recursive reads it."""
    if raw.count(b"{") + raw.count(b"[") <= limit:
        return
    depth = 0
    for byte in _STRINGS.sub(b"", raw):
        if byte in b"[{":
            depth += 1
            if depth > limit:
                raise MalformedError(f"the body is nested deeper than {limit} levels; flatten it, or raise depth_limit")
        elif byte in b"]}":
            depth -= 1


def parse_moment(text: str, *, what: str) -> datetime:
    """Read an aware moment in ISO 8601."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None or moment.year < 1970:
        raise InvalidInputError(f"{what} is {text[:40]!r}; expected a moment with a zone, such as 2026-01-31T00:00:00Z")
    return moment.astimezone(UTC)


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's id of a request where it is harmless in a log, else a new one."""
    said = headers.get(b"x-request-id")
    if said is not None and _REQUEST_ID.fullmatch(said):
        return said.decode("ascii")
    return f"{_PROCESS}-{next(_REQUEST_NUMBERS):x}"


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain values as JSON."""
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


def error_response(error: NextofferError, *, request_id: str | None = None) -> Response:
    """Answer an error raised on purpose, in the one shape."""
    answer = answer_for(error)
    headers: dict[str, str] = {}
    if isinstance(error, RateLimitError | OverloadedError):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    elif isinstance(error, StoreUnavailableError):
        headers["retry-after"] = "1"
    elif isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    elif isinstance(error, TooLargeError):
        headers["connection"] = "close"  # the rest of the body is not read
    details = error.details if isinstance(error, MalformedError) else ()
    if answer.status >= 500:
        _log.error("%s: %s (request %s)", answer.code, error, request_id, extra={"request": request_id})
    return json_response(
        error_body(answer.code, str(error), details=details, request_id=request_id),
        status=answer.status,
        headers=headers,
    )
