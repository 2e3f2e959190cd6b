"""Looking after experiments: what is due is done, what is new is told, what waits is sent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from api.alerts.digest import TOPIC, digest, due_at
from api.alerts.news import happening, topic_of, verdict_of
from api.alerts.reading import read_or_log
from api.settings import Settings
from engine.alerts.message import Channel
from engine.alerts.outbox import KEPT_TRYING, deliver, last_state, tell
from engine.decisions.service import DecisionService
from engine.experiments.automation import Happened, lately_done, tick
from engine.experiments.keeper import Keeper
from engine.experiments.lifecycle import Experiments
from engine.monitoring.thresholds import Thresholds
from engine.store.database import Database
from engine.store.ownership import ownership_of

EVERY_S = 20.0
_log = logging.getLogger("nextoffer.experiments")


@dataclass(frozen=True, slots=True)
class Habits:
    """How people are told.

    Parameters
    ----------
    digest_day, digest_hour
        When the weekly digest is due, in UTC; ``never`` for none.
    link
        Address of the console; "" without links.
    thresholds
        From where on the alarms ring that take a version back.
    """

    channels: Sequence[Channel] = ()
    digest_day: str = "never"
    digest_hour: int = 7
    link: str = ""
    thresholds: Thresholds = field(default_factory=Thresholds)


def habits_of(settings: Settings) -> Habits:
    """As the settings say."""
    from api.alerts.channels import channels_of

    thresholds = Thresholds.changed(settings.alarm_thresholds)
    return Habits(channels_of(settings), settings.digest_day, settings.digest_hour, settings.console_url, thresholds)


def look_after(database: Database, habits: Habits, *, at: datetime, now: datetime, in_simulation: bool) -> list[str]:
    """One round; returns a line for each thing that happened.

    Parameters
    ----------
    at
        Time of the experiments, which a sandbox makes up and may let stand still.
    now
        Time of the messages, which does not.
    """
    experiments = Experiments(database)
    done = tick(database, at=at)
    for happened in done:
        _log.info("%s %s: %s", happened.experiment, happened.kind, happened.text)
    for happened in (*_untold(database, at=at), *done):
        news = happening(happened, experiments, link=habits.link)
        if news is not None:
            tell(database, news, at=now)
    for experiment in experiments.list(state="running"):
        reading = read_or_log(database, experiment, as_of=at, in_simulation=in_simulation)
        news = None if reading is None else verdict_of(reading, link=habits.link)
        if news is not None:
            tell(database, news, at=now)
    due = due_at(at, day=habits.digest_day, hour=habits.digest_hour)
    if due is not None and (last_state(database, TOPIC) or "") < due.date().isoformat():
        news = digest(database, at=due, in_simulation=in_simulation, link=habits.link)
        if news is not None:
            tell(database, news, at=now)
    deliver(database, habits.channels, at=now)
    return [f"{h.experiment} {h.kind}: {h.text}" for h in done]


def _untold(database: Database, *, at: datetime) -> list[Happened]:
    """Starts and ends whose round was cut off between the change and its news; each comes once in an experiment's life."""
    return [
        happened
        for happened in lately_done(database, since=at - KEPT_TRYING)
        if last_state(database, topic_of(happened)) is None
    ]


def one_round(
    service: DecisionService, habits: Habits, *, clock: Callable[[], datetime], in_simulation: bool
) -> list[str]:
    """All that is to be looked after: versions on their way to serving, experiments, messages; a line for each thing done."""
    from engine.gate.health import integrity
    from engine.gate.promotion import Promotion
    from engine.gate.watch import look_after as promote

    at = clock()
    now = datetime.now(UTC)
    health = partial(integrity, thresholds=habits.thresholds)
    done = promote(Promotion(service), at=at, now=now, in_simulation=in_simulation, health=health)
    for line in done:
        _log.info("%s", line)
    return done + look_after(service.database, habits, at=at, now=now, in_simulation=in_simulation)


@contextmanager
def looking(
    service: DecisionService,
    habits: Habits,
    *,
    clock: Callable[[], datetime],
    in_simulation: bool,
    every_s: float = EVERY_S,
) -> Iterator[None]:
    """Go round in a thread, as long as no other process does."""
    stop = threading.Event()

    def work() -> None:
        one_round(service, habits, clock=clock, in_simulation=in_simulation)

    keeper = Keeper(ownership_of(service.database), work)
    thread = threading.Thread(target=keeper.run, args=(stop,), kwargs={"every_s": every_s}, name="keeper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10.0)
