"""Sends news of experiments to an address: JSON, signed, once each.

The header ``Nextoffer-Signature: t=SECONDS,v1=HEX`` is an HMAC-SHA256 of ``SECONDS.BODY`` under the shared secret, so that the
receiver can tell our messages from others' and refuse old ones.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import datetime

from engine.experiments.alerts import Alert, mark_told, news
from engine.store.database import Database

TIMEOUT_S = 10.0
_log = logging.getLogger("nextoffer.console")


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where news goes, and the secret that signs it."""

    url: str
    secret: str

    def send(self, alert: Alert, *, at: datetime) -> bool:
        """Send one; whether it was taken."""
        seconds = int(at.timestamp())
        body = json.dumps(
            {"type": "experiment.verdict", "at": at.isoformat(), "text": alert.sentence, **asdict(alert)}
        ).encode()
        headers = {"Content-Type": "application/json", "Nextoffer-Signature": signature(self.secret, seconds, body)}
        request = urllib.request.Request(self.url, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return 200 <= int(answer.status) < 300
        except (urllib.error.URLError, OSError, ValueError) as error:
            _log.warning("news of %s could not be sent: %s", alert.experiment, error)
            return False


def signature(secret: str, seconds: int, body: bytes) -> str:
    """What a receiver computes too."""
    digest = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def tell(database: Database, webhook: Webhook, *, at: datetime, in_simulation: bool) -> int:
    """Send what is new; what was not taken is tried again the next time. Returns how many were taken."""
    n = 0
    for alert in news(database, at=at, in_simulation=in_simulation):
        if webhook.send(alert, at=at):
            mark_told(database, alert, at=at)
            n += 1
    return n
