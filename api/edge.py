"""What every request meets before it is understood and after it is answered, whatever contract it speaks.

A key is found and checked, a body is read under a limit, an error raised on purpose becomes an answer, another one is logged and
becomes an answer that says nothing of it, the answer names the request, and the metrics count it. A contract (ours in
``api.operation``, ``api.personalizer``, ``api.ofrep``) says only where it keeps the key and what its errors look like.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from api.auth import ApiKey, KeyRing
from api.auth import Scope as KeyScope
from api.call import Call, Parts, first_headers, request_id_of
from api.errors import (
    ForbiddenError,
    MalformedError,
    RateLimitError,
    TooLargeError,
    UnauthorizedError,
    answer_for,
    error_body,
)
from policies.errors import NextofferError, OverloadedError, StoreUnavailableError

_NO_QUERY: Mapping[str, str] = {}
_log = logging.getLogger("nextoffer.api")
AnswerT = TypeVar("AnswerT")


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """Stand behind a layer that is used for what it does to the scope."""


# Asked only where a page calls with a public key, whose address is compared with its origin: nothing else looks at the scheme.
behind_proxy: ASGIApp = ProxyHeadersMiddleware(  # type: ignore[assignment]  # uvicorn's own types of the same protocol
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
    key = known_key(shown_key(headers, query), keys, is_public_route=is_public_route)
    if "key" in query and not key.is_public:
        raise ForbiddenError(
            "a secret key was sent in the address, where logs keep it; rotate it and send it as a header"
        )
    key.allow(needed)
    return key


def known_key(
    text: str | None,
    keys: KeyRing,
    *,
    is_public_route: bool = False,
    hint: str = "send the header 'Authorization: Bearer nxo_…'",
) -> ApiKey:
    """Find the key that a caller shows.

    Parameters
    ----------
    hint
        Where it belongs, for who shows none.

    Raises
    ------
    UnauthorizedError
        If none is shown, or one that is not known.
    ForbiddenError
        If it is a browser's and the call is not made for browsers.
    """
    if not text:
        raise UnauthorizedError(f"this needs an API key; {hint}")
    key = keys.find(text)
    if key.is_public and not is_public_route:
        raise ForbiddenError(
            f"key {key.name!r} is a public browser key; this call belongs on your server, with a secret key"
        )
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


def json_response(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Plain values as JSON."""
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


def error_response(error: NextofferError, *, request_id: str | None = None) -> Response:
    """Answer an error raised on purpose, in the one shape."""
    answer = answer_for(error)
    headers = headers_of(error)
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    details = error.details if isinstance(error, MalformedError) else ()
    if answer.status >= 500:
        _log.error("%s: %s (request %s)", answer.code, error, request_id, extra={"request": request_id})
    return json_response(
        error_body(answer.code, str(error), details=details, request_id=request_id),
        status=answer.status,
        headers=headers,
    )


def own_error(call: Call, error: NextofferError) -> Response:
    """``error_response`` of a request."""
    return error_response(error, request_id=call.request_id)


def fault_body(call: Call, message: str) -> dict[str, Any]:
    """Content of the answer to an error that nobody raised on purpose, in the one shape."""
    return error_body("internal", message, request_id=call.request_id)


def headers_of(error: NextofferError) -> dict[str, str]:
    """What an error asks of the caller's connection, in any contract: when to come again, and not to send the rest."""
    match error:
        case RateLimitError() | OverloadedError():
            return {"retry-after": str(max(1, round(error.retry_after_s)))}
        case StoreUnavailableError():
            return {"retry-after": "1"}
        case TooLargeError():
            return {"connection": "close"}  # the rest of the body is not read
    return {}


def _fault_message(request_id: str) -> str:
    """What a caller is told of an error that nobody raised on purpose."""
    return f"something went wrong on our side; the log holds it under request {request_id}"


async def answered(
    work: Awaitable[AnswerT],
    call: Call,
    name: str,
    *,
    on_error: Callable[[Call, NextofferError], Response],
    on_fault: Callable[[Call, str], Any],
) -> AnswerT | Response:
    """The answer of a handler, or what its contract makes of an error.

    Parameters
    ----------
    on_error
        Answer to an error that was raised on purpose.
    on_fault
        Content of the answer to any other, from its message.
    """
    try:
        return await work
    except NextofferError as error:
        return on_error(call, error)
    except ClientDisconnect:
        return Response(status_code=499)
    except Exception:  # the outermost edge of a request: log it, and answer without a traceback
        about = {"request": call.request_id, "operation": name, **call.params}
        _log.exception("operation %s failed, request %s", name, call.request_id, extra=about)
        return json_response(on_fault(call, _fault_message(call.request_id)), status=500)


def endpoint(
    name: str,
    handler: Callable[[Call], Awaitable[Response]],
    *,
    on_error: Callable[[Call, NextofferError], Response],
    on_fault: Callable[[Call, str], Any],
    id_header: str = "x-request-id",
) -> Callable[[Request], Awaitable[Response]]:
    """A plain route of a contract that is not ours; its handler finds the key itself.

    Parameters
    ----------
    name
        In the metrics and the log.
    id_header
        Header in which the answer names the request.
    """

    async def run(request: Request) -> Response:
        started, headers = time.perf_counter(), first_headers(request.scope)
        parts: Parts = request.app.state.parts
        call = Call(request.scope, request.receive, parts, None, request_id_of(headers), request.path_params, headers)
        response = await answered(handler(call), call, name, on_error=on_error, on_fault=on_fault)
        response.headers[id_header] = call.request_id
        parts.metrics.observe(name, response.status_code, time.perf_counter() - started)
        return response

    return run
