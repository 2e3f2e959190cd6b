"""News as JSON, signed, to an address.

The header ``Nextoffer-Signature: t=SECONDS,v1=HEX`` is an HMAC-SHA256 of ``SECONDS.BODY`` under the shared secret, so that the
receiver can tell our messages from others' and refuse old ones. ``id`` is the same at every attempt.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from api.alerts.posting import post
from engine.alerts.message import Language, Message


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where news goes, and the secret that signs it."""

    url: str
    secret: str = field(repr=False)
    language: Language = "en"

    @property
    def name(self) -> str:
        """The host; what may be secret in the address is only told apart."""
        return f"webhook {urlsplit(self.url).hostname} {hashlib.sha256(self.url.encode()).hexdigest()[:8]}"

    def send(self, message: Message) -> None:
        """Post it."""
        text = message.text(self.language)
        body = json.dumps(
            {
                **message.document,
                "type": message.kind,
                "id": message.id,
                "at": message.at.isoformat(),
                "topic": message.topic,
                "title": text.title,
                "text": text.body,
            }
        ).encode()
        post(self.url, body, headers={"Nextoffer-Signature": signature(self.secret, int(time.time()), body)})


def signature(secret: str, seconds: int, body: bytes) -> str:
    """What a receiver computes too."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"
