"""One request on its way through an operation, and what every operation works with."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.types import Receive, Scope

from api.auth import ApiKey, KeyRing
from api.bodies import ModelT, check_depth, parse_body, receive_body
from api.errors import ForbiddenError
from api.visitors import Visitors, is_machine_agent
from engine.decisions.stored import placement_of
from engine.store.changes import Change
from policies.errors import InvalidInputError

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
    receive: Receive
    parts: Parts
    key: ApiKey | None
    request_id: str
    params: Mapping[str, str]
    headers: Mapping[bytes, bytes]

    @property
    def request(self) -> Request:
        """Starlette's view of the request, without its body."""
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

    async def body(self, raw: bytes | None = None) -> bytes:
        """The body, no larger and nested no deeper than the settings allow.

        Parameters
        ----------
        raw
            What has been read of it already, where that is all.
        """
        settings = self.parts.settings
        if raw is None or len(raw) > settings.body_limit_bytes:
            raw = await receive_body(self.receive, self.headers, limit=settings.body_limit_bytes)
        check_depth(raw, limit=settings.depth_limit)
        return raw

    async def parsed(self, model: type[ModelT]) -> ModelT:
        """The body, checked against its model."""
        return parse_body(model, await self.body())

    async def in_thread(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run what waits for the database outside the event loop."""
        return await run_in_threadpool(function, *args, **kwargs)


def first_headers(scope: Scope) -> dict[bytes, bytes]:
    """Headers by name; of one sent twice the first counts."""
    return dict(reversed(scope["headers"]))


def request_id_of(headers: Mapping[bytes, bytes]) -> str:
    """The caller's id of a request where it is harmless in a log, else a new one."""
    said = headers.get(b"x-request-id")
    if said is not None and _REQUEST_ID.fullmatch(said):
        return said.decode("ascii")
    return f"{_PROCESS}-{next(_REQUEST_NUMBERS):x}"


def parse_moment(text: str, *, what: str) -> datetime:
    """Read an aware moment in ISO 8601."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None or moment.year < 1970:
        raise InvalidInputError(f"{what} is {text[:40]!r}; expected a moment with a zone, such as 2026-01-31T00:00:00Z")
    return moment.astimezone(UTC)
