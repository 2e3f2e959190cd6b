"""Posting JSON to an address that somebody configured."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from policies.errors import ChannelError

TIMEOUT_S = 10.0
_MOST_READ = 64 * 1024
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET without its body, and be taken for delivered."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""
        return


_opener = urllib.request.build_opener(_NoRedirect)


def post(url: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> bytes:
    """Post a JSON body and return what was answered.

    Raises
    ------
    ChannelError
        If there was no answer of 200 to 299. The address may hold a secret, so it is not repeated.
    """
    request = urllib.request.Request(
        url, body, {"Content-Type": "application/json", "User-Agent": "nextoffer", **(headers or {})}, method="POST"
    )
    try:
        with _opener.open(request, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read(_MOST_READ))
    except urllib.error.HTTPError as error:
        with error:
            told = error.read(_MOST_READ)
        raise ChannelError(f"the receiver answered {error.code}{_reason(told)}") from None
    except urllib.error.URLError as error:
        raise ChannelError(
            f"the receiver cannot be reached ({error.reason}); check the address and the network"
        ) from None
    except (OSError, ValueError) as error:
        raise ChannelError(f"the receiver cannot be reached ({type(error).__name__}); check the address") from None


def is_private(url: str) -> bool:
    """Whether nobody on the way can read what goes to an address: it has TLS, or leads to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


def _reason(body: bytes) -> str:
    """The receiver's own sentence, as Telegram and many others give it."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    text = found.get("description") or found.get("message") if isinstance(found, dict) else None
    return f": {text[:200]}" if isinstance(text, str) else ""
