"""A server looks after experiments where nothing else does: it sees what is due, and lets a process of its own do it.

Readings load statistics and take time, which a process that answers visitors must not spend; so the server only compares times, and
starts ``python -m api.alerts.job`` when something is due, or now and then where somebody is to be told of verdicts. A console
or a learner does the same without a detour, and goes first: the server takes the claim for each round only.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.settings import Settings, as_plain
from engine.experiments.automation import due
from engine.experiments.keeper import Keeper
from engine.experiments.moments import clock_of
from engine.registry.states import States
from engine.store.database import Database, sqlite_url
from engine.store.ownership import ownership_of

EVERY_S = 20.0
# What stays due (a ramp that waits, a start that is refused) and verdicts are looked at this often.
AGAIN_S = 300.0
_LONGEST_S = 300.0
_log = logging.getLogger("nextoffer.experiments")


class Watch:
    """Decides when a job is worth its process."""

    def __init__(self, settings: Settings, database: Database, start: Callable[[Settings], None]) -> None:
        self._settings = settings
        self._database = database
        self._clock = clock_of(database, is_sandbox=settings.is_sandbox)
        self._start = start
        self._last: frozenset[str] = frozenset()
        self._last_at = float("-inf")

    def look(self) -> bool:
        """Start a job if there is a reason; whether there was."""
        found, now = due(self._database, at=self._clock()), time.monotonic()
        is_new = bool(found - self._last)
        if not is_new and (now - self._last_at < AGAIN_S or not (found or self._is_watched())):
            return False
        self._last, self._last_at = found, now
        self._start(self._settings)
        return True

    def _is_watched(self) -> bool:
        """Whether something may come up that has no time of its own: a verdict to tell of, a version that may have to go back."""
        return has_channels(self._settings) or any(s.state != "retired" for s in States(self._database).all())


def has_channels(settings: Settings) -> bool:
    """Whether anybody is to be told."""
    return bool(settings.alert_url or settings.alert_email_to or settings.telegram_token)


def start_job(settings: Settings) -> None:
    """Run one round in a process of its own, and wait for it."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "api.alerts.job"],
            input=json.dumps(as_plain(settings)).encode(),
            timeout=_LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        _log.warning("looking after experiments took more than %.0f s and was ended", _LONGEST_S)
        return
    if done.returncode:
        _log.warning("looking after experiments failed with %d; see above", done.returncode)


@contextmanager
def watching(settings: Settings) -> Iterator[None]:
    """Watch in a thread."""
    stop = threading.Event()

    def work() -> None:
        if stop.wait(EVERY_S):  # the store is made meanwhile
            return
        with Database(settings.database_url or sqlite_url(settings.home / "nextoffer.db")) as database:
            watch = Watch(settings, database, start_job)
            Keeper(ownership_of(database), watch.look, keeps=False).run(stop, every_s=EVERY_S)

    thread = threading.Thread(target=work, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(1.0)
