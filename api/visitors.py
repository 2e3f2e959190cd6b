"""Whether a visitor is a machine: declared by the site, known by its user agent, or too quick for a person.

A machine is answered like anyone, with the baseline order, and is logged as such: it is no exposure, no experiment counts it
and nothing learns from it. What is not recognised counts as a person; the list below names the honest ones.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from policies.records import Features

# Crawlers name themselves with one of these words, tools and headless browsers with the others.
_MACHINE = re.compile(
    r"(?<!cu)bot\b|bot[/;_-]|crawl|spider|slurp|scrap|headless|phantom|lighthouse|facebookexternalhit|preview|fetcher|monitor|pingdom|"
    r"uptime|curl/|wget/|python-|aiohttp|httpx|okhttp|go-http-client|java/|libwww|axios/|node-fetch|archiver|validator",
    re.IGNORECASE,
)
_MINUTE_S = 60.0
_MAX_COUNTED = 200_000


class Asked(Protocol):
    """The part of a decision's request that tells of the visitor."""

    @property
    def subject(self) -> str:
        """Who."""
        ...

    @property
    def bot(self) -> bool:
        """Whether the site says that it is a machine."""
        ...

    @property
    def user_agent(self) -> str | None:
        """The visitor's own."""
        ...


class Visitor(NamedTuple):
    """What a door that has only features knows of a visitor."""

    subject: str
    bot: bool
    user_agent: str | None

    @classmethod
    def of(cls, subject: str, features: Features) -> Visitor:
        """Read the features ``bot`` (true) and ``user_agent`` or ``userAgent``, where they are sent."""
        agent = features.get("user_agent", features.get("userAgent"))
        return cls(subject, features.get("bot") is True, agent if isinstance(agent, str) else None)


def is_machine_agent(user_agent: str) -> bool:
    """Whether a User-Agent is one of a crawler, a tool or a headless browser; an empty one is."""
    return not user_agent.strip() or _MACHINE.search(user_agent) is not None


def is_said_machine(asked: Asked) -> bool:
    """Whether the site or the User-Agent says so."""
    return asked.bot or (asked.user_agent is not None and is_machine_agent(asked.user_agent))


class Visitors:
    """Recognises machines among visitors; the rate is counted by each worker for itself.

    Parameters
    ----------
    most_per_minute
        Decisions for one subject in a minute above which it is taken for a machine; None: never.
    """

    def __init__(self, most_per_minute: int | None, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._most = most_per_minute
        self._monotonic = monotonic
        self._minute = 0
        self._counts: dict[str, int] = {}

    def is_machine(self, asked: Asked) -> bool:
        """Whether to answer as to a machine."""
        if is_said_machine(asked):
            return True
        return self._most is not None and self._count(asked.subject) > self._most

    def _count(self, subject: str) -> int:
        minute = int(self._monotonic() // _MINUTE_S)
        if minute != self._minute or len(self._counts) >= _MAX_COUNTED:
            self._minute, self._counts = minute, {}
        n = self._counts[subject] = self._counts.get(subject, 0) + 1
        return n
