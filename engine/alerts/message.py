"""One piece of news, and what a channel has to do with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

Language = Literal["en", "ru"]


@dataclass(frozen=True, slots=True)
class Text:
    """A message in one language: a line, and the whole of it with line breaks and no markup."""

    title: str
    body: str


@dataclass(frozen=True, slots=True)
class News:
    """Something to tell, before it has a number.

    Parameters
    ----------
    topic
        What it is about, such as ``experiment spring``: news of one topic follow each other.
    state
        How the topic stands now. Told only where it differs from what was told of the topic last, however often and by how many
        processes it is found.
    kind
        For programs: ``experiment.verdict``, ``digest``, …
    texts
        By language; English always.
    document
        Plain values for programs.
    is_all_clear
        Only says that a trouble is over: not told where no trouble was.
    """

    topic: str
    state: str
    kind: str
    texts: Mapping[Language, Text]
    document: Mapping[str, Any] = field(default_factory=dict)
    is_all_clear: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """News as it lies in the store.

    Parameters
    ----------
    id
        The same at every attempt and in every channel, so that a receiver can tell a repeated one.
    """

    id: int
    topic: str
    kind: str
    at: datetime
    texts: Mapping[Language, Text]
    document: Mapping[str, Any]

    def text(self, language: Language) -> Text:
        """In a language; English where there is no other."""
        return self.texts.get(language, self.texts["en"])


class Channel(Protocol):
    """A way to reach somebody."""

    @property
    def name(self) -> str:
        """Under which the store remembers what was taken: another address is another name."""
        ...

    def send(self, message: Message) -> None:
        """Hand a message over, within a few seconds.

        Raises
        ------
        ChannelError
            If it was not taken, saying why and never with a secret in it.
        """
        ...
