"""News is written once and sent until every channel has it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engine.alerts.message import Message, News, Text
from engine.alerts.outbox import CLAIM, KEPT_TRYING, deliver, last_state, newest, tell
from engine.store.database import Database, sqlite_url
from policies.errors import ChannelError

AT = datetime(2026, 3, 2, 7, tzinfo=UTC)
NEWS = News("experiment spring", "ship", "experiment.verdict", {"en": Text("spring: ship", "Ship it.")}, {"n": 3})


@dataclass
class Memory:
    """A channel that remembers, refuses so many times first, and may take its time."""

    name: str
    refusals: int = 0
    pause_s: float = 0.0
    error: Exception = field(default_factory=lambda: ChannelError("the receiver answered 500"))
    taken: list[Message] = field(default_factory=list)
    n_asked: int = 0

    def send(self, message: Message) -> None:
        """Take it, or not yet."""
        self.n_asked += 1
        threading.Event().wait(self.pause_s)
        if self.n_asked <= self.refusals:
            raise self.error
        self.taken.append(message)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """An empty store."""
    with Database(sqlite_url(tmp_path / "store.db")) as made:
        made.upgrade()
        yield made


def test_a_state_is_told_once_and_a_change_again(database: Database) -> None:
    """The same news is written once, another state is new, and a topic that comes back to an earlier state is told again."""
    assert [tell(database, NEWS, at=AT) for _ in range(3)] == [True, False, False]
    assert tell(database, replace(NEWS, state="broken"), at=AT)
    assert tell(database, NEWS, at=AT)
    assert last_state(database, NEWS.topic) == "ship"
    assert last_state(database, "nothing") is None
    message = newest(database)[0][0]
    assert (message.topic, message.document, message.text("ru").body) == ("experiment spring", {"n": 3}, "Ship it.")


def test_an_all_clear_needs_a_trouble_before_it(database: Database) -> None:
    """Nobody is told that all is well who was not told that something was wrong."""
    clear = replace(NEWS, state="well", is_all_clear=True)
    assert not tell(database, clear, at=AT)
    tell(database, NEWS, at=AT)
    assert tell(database, clear, at=AT)


def test_processes_at_once_write_one_message(database: Database) -> None:
    """Eight that find the same news in one moment write it once."""
    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(lambda _: tell(database, NEWS, at=AT), range(8)))
    assert told.count(True) == 1
    assert len(newest(database)) == 1


def test_processes_at_once_send_one_message(database: Database) -> None:
    """Of several that deliver in one moment, one sends; to each channel."""
    tell(database, NEWS, at=AT)
    channels = (Memory("a", pause_s=0.05), Memory("b", pause_s=0.05))
    with ThreadPoolExecutor(4) as pool:
        sent = sum(pool.map(lambda _: deliver(database, channels, at=AT), range(4)))
    assert sent == 2
    assert [len(c.taken) for c in channels] == [1, 1]


@pytest.mark.parametrize("error", [ChannelError("no route"), RuntimeError("a fault of the channel's own")])
def test_a_failing_channel_stops_no_other_and_is_tried_again(database: Database, error: Exception) -> None:
    """While one channel fails, with whatever error, the other has everything; the first gets it later, in order, once."""
    tell(database, NEWS, at=AT)
    tell(database, replace(NEWS, state="stop"), at=AT)
    bad, good = Memory("bad", refusals=1, error=error), Memory("good")
    assert deliver(database, (bad, good), at=AT) == 2
    assert deliver(database, (bad, good), at=AT) == 1  # the second message was never tried before
    assert deliver(database, (bad, good), at=AT + CLAIM) == 1
    assert deliver(database, (bad, good), at=AT + 3 * CLAIM) == 0
    assert len(good.taken) == len(bad.taken) == 2
    assert {m.id for m in good.taken} == {m.id for m in bad.taken}
    stand = {d.channel: d for d in newest(database)[1][1]}
    assert (stand["bad"].attempts, stand["bad"].error, stand["good"].attempts) == (2, "", 1)


def test_who_dies_while_sending_leaves_it_to_another(database: Database) -> None:
    """A message that was claimed and never marked is sent again when the claim has run out, with the same id."""
    tell(database, NEWS, at=AT)

    class Dies(Memory):
        def send(self, message: Message) -> None:
            super().send(message)
            raise KeyboardInterrupt

    first = Dies("mail")
    with pytest.raises(KeyboardInterrupt):
        deliver(database, (first,), at=AT)
    second = Memory("mail")
    assert deliver(database, (second,), at=AT + CLAIM / 2) == 0
    assert deliver(database, (second,), at=AT + CLAIM) == 1
    assert second.taken[0].id == first.taken[0].id


def test_old_news_is_not_sent(database: Database) -> None:
    """What could not be delivered for days is given up, and a new channel does not get what is old."""
    tell(database, NEWS, at=AT)
    late = Memory("late")
    assert deliver(database, (late,), at=AT + KEPT_TRYING) == 0
    assert deliver(database, (late,), at=AT + KEPT_TRYING - timedelta(minutes=1)) == 1
