"""Garbage collection for processes that somebody waits for."""

from __future__ import annotations

import gc

# Young objects are looked at often enough to be few, old ones hardly ever: a look at all that caches hold takes tens of
# milliseconds, and what is forgotten there dies by its count of references.
_THRESHOLDS = (5_000, 20, 1_000)


def collect_rarely() -> None:
    """Leave out of every later collection what is loaded now, and look at old objects a thousand times less often than at young ones."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
