"""HTTP of the OpenFeature Remote Evaluation Protocol 0.3.0, and of GrowthBook's list of features.

Errors have the protocol's form, not ours: ``{key, errorCode, errorDetails}`` with 400, ``FLAG_NOT_FOUND`` with 404, and
``{errorDetails}`` otherwise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.auth import ApiKey
from api.errors import ForbiddenError, MalformedError, RateLimitError, TooLargeError, UnauthorizedError
from api.ofrep.service import NEXT_BEST_OFFER, FlagContext, Flags, NoTargetingKeyError
from api.operation import (
    Parts,
    authorise,
    check_depth,
    check_origin,
    error_response,
    first_headers,
    json_response,
    read_body,
    request_id_of,
    shown_key,
)
from policies.errors import (
    InvalidInputError,
    NextofferError,
    OverloadedError,
    StoreUnavailableError,
    UnknownNameError,
)

_log = logging.getLogger("nextoffer.api.ofrep")
Handler = Callable[[Request, Parts, ApiKey], Awaitable[Response]]


async def evaluate(request: Request, parts: Parts, key: ApiKey) -> Response:
    """One flag."""
    flags = _flags(parts, key)
    context = await _context(request, parts)
    name = str(request.path_params["key"])
    if name == NEXT_BEST_OFFER and not key.is_public:
        flag = await flags.next_best_offer(context, is_seen=True)
    else:
        flag = await run_in_threadpool(flags.experiment, name, context)
    return json_response(flag.to_json(), headers={"cache-control": "private, no-store"})


async def evaluate_all(request: Request, parts: Parts, key: ApiKey) -> Response:
    """Every flag; 304 where neither the configuration nor the context has changed."""
    flags = _flags(parts, key)
    context = await _context(request, parts)
    tag = await run_in_threadpool(flags.tag, context)
    headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache"}
    known = [t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")]
    if headers["etag"] in known:
        return Response(status_code=304, headers=headers)
    found = await flags.all(context, tag=tag)
    return json_response({"flags": [f.to_json() for f in found]}, headers=headers)


async def features(request: Request) -> Response:
    """Give visible experiments as GrowthBook's clients read them; the key stands in the address, so it must be a public one."""
    parts: Parts = request.app.state.parts
    try:
        key = parts.keys.find(str(request.path_params["key"]))
        if not key.is_public:
            raise ForbiddenError(
                "a secret key was sent in the address, where logs keep it; rotate it and use a public one"
            )
        check_origin(request, key, parts.settings.cors_origins)
        content = await run_in_threadpool(Flags(parts.service, only_visible=True).growthbook)
    except NextofferError as error:
        return error_response(error)
    return json_response(content, headers={"cache-control": "private, no-cache"})


def routes() -> list[Route]:
    """All routes of the door."""
    return [
        Route("/ofrep/v1/evaluate/flags", _endpoint(evaluate_all), methods=["POST"], include_in_schema=False),
        Route("/ofrep/v1/evaluate/flags/{key:path}", _endpoint(evaluate), methods=["POST"], include_in_schema=False),
        Route("/api/features/{key}", features, methods=["GET"], include_in_schema=False),
    ]


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        parts: Parts = request.app.state.parts
        started = time.perf_counter()
        headers = first_headers(request.scope)
        request_id = request_id_of(headers)
        try:
            key = _authorise(request, parts)
            response = await handler(request, parts, key)
        except NextofferError as error:
            response = _error(error, request.path_params.get("key"))
        except Exception:  # the outermost edge of a request
            _log.exception("ofrep %s failed, request %s", handler.__name__, request_id)
            message = f"something went wrong on our side; the log holds it under request {request_id}"
            response = json_response({"errorDetails": message}, status=500)
        response.headers["x-request-id"] = request_id
        parts.metrics.observe(f"ofrep_{handler.__name__}", response.status_code, time.perf_counter() - started)
        return response

    return endpoint


def _flags(parts: Parts, key: ApiKey) -> Flags:
    return Flags(parts.service, only_visible=key.is_public, visitors=parts.visitors, waited_s=parts.pulse.lag_s)


def _authorise(request: Request, parts: Parts) -> ApiKey:
    """A secret key that may decide, or a public one, which may read what is marked as visible."""
    headers = first_headers(request.scope)
    text = shown_key(headers)
    is_public = text is not None and parts.keys.find(text).is_public
    key = authorise(request.scope, headers, parts.keys, "reward" if is_public else "decide", is_public_route=is_public)
    if key.is_public:
        check_origin(request, key, parts.settings.cors_origins)
    return key


async def _context(request: Request, parts: Parts) -> FlagContext:
    settings = parts.settings
    raw = await read_body(request, limit=settings.body_limit_bytes)
    check_depth(raw, limit=settings.depth_limit)
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f'the body is not JSON ({error}); send {{"context": {{"targetingKey": …}}}}') from error
    if not isinstance(body, dict) or not isinstance(body.get("context", {}), dict):
        raise InvalidInputError('the body has no context object; send {"context": {"targetingKey": …}}')
    return FlagContext.of(body.get("context", {}))


def _error(error: NextofferError, key: str | None) -> Response:
    named = {} if key is None else {"key": key}
    match error:
        case UnauthorizedError():
            return json_response({"errorDetails": str(error)}, status=401)
        case ForbiddenError():
            return json_response({"errorDetails": str(error)}, status=403)
        case TooLargeError():
            return json_response({"errorDetails": str(error)}, status=413, headers={"connection": "close"})
        case RateLimitError() | OverloadedError():
            headers = {"retry-after": str(max(1, round(error.retry_after_s)))}
            return json_response({"errorDetails": str(error)}, status=429, headers=headers)
        case StoreUnavailableError():
            return json_response({"errorDetails": str(error)}, status=503, headers={"retry-after": "1"})
        case NoTargetingKeyError():
            code = "TARGETING_KEY_MISSING"
        case MalformedError():
            code = "PARSE_ERROR"
        case UnknownNameError() if key is not None and error.name == key:
            return json_response({**named, "errorCode": "FLAG_NOT_FOUND", "errorDetails": str(error)}, status=404)
        case UnknownNameError() | InvalidInputError():
            code = "INVALID_CONTEXT"
        case _:
            code = "GENERAL"
    return json_response({**named, "errorCode": code, "errorDetails": str(error)}, status=400)
