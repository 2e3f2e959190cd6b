"""Links for people without an account: one experiment, read only, until a day that the link itself carries.

A link is signed and nothing of it is stored: whoever holds it may read that one page until it ends. Replacing the key ends all of them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.responses import Response

from api.console import result
from api.console.ask import Ask, experiment_path, go_to
from api.console.page import Page
from api.errors import ForbiddenError
from engine.experiments.audit import note_change, read_audit
from engine.experiments.reading import take_reading
from policies.errors import InvalidInputError

DAYS = (7, 30, 90)
_KEY_FILE = "links_key"
_SIGNATURE_BYTES = 20


@dataclass(frozen=True, slots=True)
class Link:
    """What a link lets read, and until when."""

    experiment: str
    until: datetime


class LinkKey:
    """The key that signs links, in a file of the home folder that only the service's user may read."""

    def __init__(self, home: Path) -> None:
        self._path = home / _KEY_FILE

    def sign(self, link: Link) -> str:
        """The last part of a link's address."""
        body = json.dumps([link.experiment, int(link.until.timestamp())], ensure_ascii=False, separators=(",", ":"))
        text = body.encode()
        return f"{_plain(text)}.{_plain(self._signature(text))}"

    def read(self, token: str, *, now: datetime) -> Link | None:
        """What a link lets read; None where it was not signed by this key or has ended."""
        first, _, second = token.partition(".")
        try:
            text, signature = _bytes(first), _bytes(second)
        except ValueError:
            return None
        if not self._path.exists() or not hmac.compare_digest(signature, self._signature(text)):
            return None
        experiment, until_s = json.loads(text)
        until = datetime.fromtimestamp(until_s, tz=UTC)
        return Link(experiment, until) if now < until else None

    def replace(self) -> None:
        """End every link that was given out."""
        part = self._path.with_suffix(".part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(32))
        part.replace(self._path)

    def _signature(self, text: bytes) -> bytes:
        if not self._path.exists():
            self.replace()
        return hmac.new(self._path.read_bytes(), b"experiment link\0" + text, hashlib.sha256).digest()[
            :_SIGNATURE_BYTES
        ]


def _plain(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)


def make(ask: Ask) -> Response:
    """Give out a link, and show it."""
    found = ask.service.experiments.get(ask.path("experiment"))
    days = ask.whole("days", what="Days")
    if days not in DAYS:
        raise InvalidInputError(ask.words("A link is valid for {days} days", days=", ".join(str(d) for d in DAYS)))
    # Links end by the wall clock: whoever opens one lives in real time, in a sandbox too.
    until = datetime.now(UTC) + timedelta(days=days)
    token = _key(ask).sign(Link(found.id, until))
    note_change(ask.service.database, change=ask.change(), action="share", what=f"experiment {found.id}")  # fmt: skip
    base = f"{ask.request.url.scheme}://{ask.request.url.netloc}"
    return ask.page(
        "link.html.j2", title=found.id, here="/experiments", address=f"{base}/shared/{token}", until=until, back=experiment_path(found.id)
    )  # fmt: skip


def shared(ask: Ask) -> Response:
    """The experiment that a link lets read."""
    link = _opened(ask, ask.path("token"))
    if link is None:
        raise ForbiddenError(ask.words("This link has ended or is not whole; ask whoever sent it for a new one"))
    t, found = ask.words, ask.service.experiments.get(link.experiment)
    reading = take_reading(ask.service.database, found, as_of=ask.now, in_simulation=ask.parts.is_sandbox)
    rows = read_audit(ask.service.database, what=f"experiment {found.id}")
    answer = ask.page("shared.html.j2", title=found.id, e=found, until=link.until, as_of=reading.as_of, **result.told(t, reading, rows))  # fmt: skip
    answer.headers["x-robots-tag"] = "noindex"
    return answer


def _opened(ask: Ask, token: str) -> Link | None:
    """What a link lets read, in the store whose key signed it: whoever opens it has chosen neither one's own data nor the sample."""
    own = ask.parts.own or ask.parts
    for parts in (own, None if own.sample is None else own.sample.made(own)):
        if parts is not None and parts.home is not None:
            link = LinkKey(parts.home).read(token, now=datetime.now(UTC))
            if link is not None:
                ask.parts = parts
                return link
    return None


def end_all(ask: Ask) -> Response:
    """End every link."""
    _key(ask).replace()
    note_change(ask.service.database, change=ask.change(), action="revoke", what="links to experiments")
    return go_to("/people", said="saved")


def _key(ask: Ask) -> LinkKey:
    assert ask.parts.home is not None  # the pages of links are there only where a home folder is
    return LinkKey(ask.parts.home)


PAGES = (
    Page("make_link", "/experiments/{experiment}/link", make, "experimenter", ("POST",)),
    Page("shared", "/shared/{token}", shared, None),
    Page("end_links", "/people/links", end_all, "admin", ("POST",)),
)
