"""Garbage collection for processes that somebody waits for."""

from __future__ import annotations

import gc


def leave_out_what_is_loaded() -> None:
    """Keep modules and what they hold out of every later collection: a look at all of it takes a hundred milliseconds.

    What comes later is little where requests leave no cycles behind (``api.protocol.take_exchange``); it dies by its count of references.
    """
    gc.collect()
    gc.freeze()
