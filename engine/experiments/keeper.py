"""One of the processes over a store looks after experiments; another one does when that has gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from engine.store.ownership import Ownership
from policies.errors import NextofferError

CLAIM = "experiments"
_log = logging.getLogger("nextoffer.experiments")


class Keeper:
    """Does its work in rounds while it owns the claim.

    The claim saves work and keeps news in order; it is not what keeps two from doing the same: changes need the revision that was
    read, and news is written once (``engine.alerts.outbox``).

    Parameters
    ----------
    work
        One round.
    keeps
        Whether the claim stays between rounds; one that gives it back each time leaves the work to whoever does it better.
    """

    def __init__(self, ownership: Ownership, work: Callable[[], object], *, keeps: bool = True) -> None:
        self._ownership = ownership
        self._work = work
        self._keeps = keeps
        self._is_owner = False

    def round(self) -> bool:
        """Do one round if nobody else does; whether it was done. A failed round is logged, and the next one tries again."""
        try:
            return self.once()
        except NextofferError as error:
            _log.warning("experiments could not be looked after: %s", error)
            return False

    def once(self) -> bool:
        """The same for a caller that tries no second time: what fails is raised."""
        try:
            if not (self._is_owner and self._ownership.is_held()):
                self._is_owner = self._ownership.claim(CLAIM)
            if not self._is_owner:
                return False
            self._work()
        finally:
            if self._is_owner and not self._keeps:
                self._ownership.release(CLAIM)
                self._is_owner = False
        return True

    def run(self, stop: threading.Event, *, every_s: float) -> None:
        """Go round until told to stop; then let go."""
        try:
            while not stop.is_set():
                try:
                    self.round()
                except Exception:  # the outermost edge of the thread: what one round met must not end all later ones
                    _log.exception("looking after experiments failed")
                stop.wait(every_s)
        finally:
            self._ownership.close()
