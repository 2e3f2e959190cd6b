"""How far an event loop is behind: what a request has waited before anybody could look at it."""

from __future__ import annotations

import asyncio

_BEAT_S = 0.02


class Pulse:
    """A timer that notes how late it is called.

    Attributes
    ----------
    lag_s
        The smaller of the last two delays: a machine that looked away once is no reason to answer worse, one that stays behind is.
    """

    def __init__(self) -> None:
        self.lag_s = 0.0
        self._last_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Beat in the running loop from now on."""
        loop = asyncio.get_running_loop()
        due = loop.time() + _BEAT_S

        def beat() -> None:
            late_s = max(0.0, loop.time() - due)
            self.lag_s, self._last_s = min(late_s, self._last_s), late_s
            self.start()

        self._timer = loop.call_at(due, beat)

    def stop(self) -> None:
        """Beat no more."""
        if self._timer is not None:
            self._timer.cancel()
