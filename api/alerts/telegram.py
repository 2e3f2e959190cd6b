"""News to a Telegram chat, by the bot API."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from api.alerts.posting import post
from engine.alerts.message import Language, Message
from policies.errors import ChannelError

# Of the bot API, in characters.
LONGEST = 4096


@dataclass(frozen=True, slots=True)
class Telegram:
    """A bot and the chat it writes to.

    Parameters
    ----------
    url
        Of the bot API, without a slash at its end: Telegram's own, or a server of yours.
    """

    token: str = field(repr=False)
    chat: str
    url: str
    language: Language = "en"

    @property
    def name(self) -> str:
        """The chat; the token is no part of it, so that a new one repeats nothing."""
        return f"telegram {self.chat}"

    def send(self, message: Message) -> None:
        """Say it in the chat."""
        text = message.text(self.language)
        asked = {
            "chat_id": self.chat,
            "text": shortened(f"{text.title}\n\n{text.body}"),
            "link_preview_options": {"is_disabled": True},
        }
        told = post(f"{self.url}/bot{self.token}/sendMessage", json.dumps(asked).encode())
        try:
            is_ok = json.loads(told).get("ok") is True
        except (ValueError, AttributeError):
            is_ok = False
        if not is_ok:
            raise ChannelError("what answered is no Telegram bot API; check telegram_url")


def shortened(text: str) -> str:
    """Whole lines that fit one message; Telegram counts UTF-16 units."""
    if _units(text) <= LONGEST:
        return text
    kept: list[str] = []
    for line in text.split("\n"):
        if _units("\n".join([*kept, line, "…"])) > LONGEST:
            break
        kept.append(line)
    return "\n".join([*kept, "…"]) if kept else text[: LONGEST // 2] + "…"


def _units(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2
