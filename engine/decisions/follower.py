"""Sees what changed elsewhere (placements, snapshots, logins, events, traits) in a thread, so that no visitor waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from policies.errors import NextofferError

FOLLOW_S = 0.2
_log = logging.getLogger("nextoffer.decisions")


class Follower:
    """Calls what follows the store again and again until it is closed.

    Parameters
    ----------
    follow
        Each looks once; while the follower runs, the path of a decision does not look itself.
    """

    def __init__(self, follow: Sequence[Callable[[], object]], *, every_s: float = FOLLOW_S) -> None:
        self._follow = tuple(follow)
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        n_faults = 0
        while not self._stop.wait(self._every_s):
            for follow in self._follow:
                try:
                    follow()
                except (
                    Exception
                ) as error:  # whatever it is, what is known goes on serving, and the next look may do better
                    n_faults += 1
                    if n_faults.bit_count() == 1:
                        # That the store is away says all by itself; anything else is a fault that someone has to find.
                        is_expected = isinstance(error, NextofferError)
                        _log.warning(
                            "cannot follow the store (%d times): %s", n_faults, error, exc_info=not is_expected
                        )
