"""HTTP of the OpenFeature Remote Evaluation Protocol 0.3.0, and of GrowthBook's list of features.

Errors have the protocol's form, not ours: ``{key, errorCode, errorDetails}`` with 400, ``FLAG_NOT_FOUND`` with 404, and
``{errorDetails}`` otherwise.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.auth import ApiKey
from api.call import Call, Parts
from api.edge import authorise, check_origin, endpoint, fault_body, headers_of, json_response, own_error, shown_key
from api.errors import ForbiddenError, MalformedError, answer_for
from api.ofrep.service import NEXT_BEST_OFFER, FlagContext, Flags, NoTargetingKeyError
from policies.errors import (
    InvalidInputError,
    NextofferError,
    UnknownNameError,
)

Handler = Callable[[Call, ApiKey], Awaitable[Response]]


async def evaluate(call: Call, key: ApiKey) -> Response:
    """One flag."""
    flags = _flags(call.parts, key)
    context = await _context(call)
    name = call.path("key")
    if name == NEXT_BEST_OFFER and not key.is_public:
        flag = await flags.next_best_offer(context, is_seen=True)
    else:
        flag = await run_in_threadpool(flags.experiment, name, context)
    return json_response(flag.to_json(), headers={"cache-control": "private, no-store"})


async def evaluate_all(call: Call, key: ApiKey) -> Response:
    """Every flag; 304 where neither the configuration nor the context has changed."""
    flags = _flags(call.parts, key)
    context = await _context(call)
    tag = await run_in_threadpool(flags.tag, context)
    headers = {"etag": f'"{tag}"', "cache-control": "private, no-cache"}
    known = [t.strip().removeprefix("W/") for t in call.request.headers.get("if-none-match", "").split(",")]
    if headers["etag"] in known:
        return Response(status_code=304, headers=headers)
    found = await flags.all(context, tag=tag)
    return json_response({"flags": [f.to_json() for f in found]}, headers=headers)


async def features(call: Call) -> Response:
    """Give visible experiments as GrowthBook's clients read them; the key stands in the address, so it must be a public one."""
    key = call.parts.keys.find(call.path("key"))
    if not key.is_public:
        raise ForbiddenError("a secret key was sent in the address, where logs keep it; rotate it and use a public one")
    check_origin(call.request, key, call.parts.settings.cors_origins)
    content = await run_in_threadpool(Flags(call.service, only_visible=True).growthbook)
    return json_response(content, headers={"cache-control": "private, no-cache"})


def routes() -> list[Route]:
    """All routes of the door."""
    listed = endpoint("ofrep_features", features, on_error=own_error, on_fault=fault_body)
    return [
        Route("/ofrep/v1/evaluate/flags", _endpoint(evaluate_all), methods=["POST"], include_in_schema=False),
        Route("/ofrep/v1/evaluate/flags/{key:path}", _endpoint(evaluate), methods=["POST"], include_in_schema=False),
        Route("/api/features/{key}", listed, methods=["GET"], include_in_schema=False),
    ]


def _endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    async def asked(call: Call) -> Response:
        call.key = _authorised(call)
        return await handler(call, call.key)

    name = f"ofrep_{handler.__name__}"
    return endpoint(name, asked, on_error=_error, on_fault=lambda _, message: {"errorDetails": message})


def _flags(parts: Parts, key: ApiKey) -> Flags:
    return Flags(parts.service, only_visible=key.is_public, visitors=parts.visitors, waited_s=parts.pulse.lag_s)


def _authorised(call: Call) -> ApiKey:
    """A secret key that may decide, or a public one, which may read what is marked as visible."""
    text, keys = shown_key(call.headers), call.parts.keys
    is_public = text is not None and keys.find(text).is_public
    key = authorise(call.scope, call.headers, keys, "reward" if is_public else "decide", is_public_route=is_public)
    if key.is_public:
        check_origin(call.request, key, call.parts.settings.cors_origins)
    return key


async def _context(call: Call) -> FlagContext:
    raw = await call.body()
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedError(f'the body is not JSON ({error}); send {{"context": {{"targetingKey": …}}}}') from error
    if not isinstance(body, dict) or not isinstance(body.get("context", {}), dict):
        raise InvalidInputError('the body has no context object; send {"context": {"targetingKey": …}}')
    return FlagContext.of(body.get("context", {}))


# Where the protocol has no code of its own: about the caller or the service, not about a flag.
_PLAIN = (401, 403, 413, 429, 503)


def _error(call: Call, error: NextofferError) -> Response:
    key = call.params.get("key")
    status = answer_for(error).status
    told: dict[str, Any] = {"errorDetails": str(error)}
    if status in _PLAIN:
        return json_response(told, status=status, headers=headers_of(error))
    if key is not None:
        told["key"] = key
    match error:
        case NoTargetingKeyError():
            code = "TARGETING_KEY_MISSING"
        case MalformedError():
            code = "PARSE_ERROR"
        case UnknownNameError() if key is not None and error.name == key:
            return json_response({**told, "errorCode": "FLAG_NOT_FOUND"}, status=404)
        case UnknownNameError() | InvalidInputError():
            code = "INVALID_CONTEXT"
        case _:
            code = "GENERAL"
    return json_response({**told, "errorCode": code}, status=400)
