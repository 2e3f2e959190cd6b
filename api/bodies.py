"""Bodies of requests: read under a limit, refused where they are nested too deep, checked by a model straight from their bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from api.errors import MalformedError, TooLargeError, malformed

ModelT = TypeVar("ModelT", bound=BaseModel)


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


def _too_large(found: str, limit: int) -> str:
    return f"the body has {found} bytes; at most {limit:,} are read: send less at a time, or raise body_limit_bytes"


def parse_body(model: type[ModelT], raw: bytes) -> ModelT:
    """Check a JSON body, whose depth has been checked, against its model.

    Raises
    ------
    MalformedError
        Naming each place and what is wrong there.
    """
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
