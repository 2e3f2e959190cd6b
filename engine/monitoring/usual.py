"""What was usual, and whether now is beyond it by more than chance."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from scipy.stats import binom

from engine.monitoring.cells import DAY_HOURS, Table
from engine.monitoring.window import Window

# Chance of one comparison of a share with the largest usual one plus what is allowed; a site makes some dozens of them an hour.
ALPHA = 1e-6
# A day of fewer facts says nothing about a share.
LEAST_FACTS = 20


def is_beyond(count: float, n: float, limit: float) -> bool:
    """Whether so many of n are more than a share of ``limit`` gives by chance."""
    if n <= 0 or count <= limit * n:
        return False
    return bool(limit <= 0 or binom.sf(round(count) - 1, round(n), min(limit, 1.0)) < ALPHA)


def largest_share(pairs: Iterable[tuple[float, float]]) -> float:
    """Largest share ``count / n`` of some days; 0 where none had enough."""
    return max((count / n for count, n in pairs if n >= LEAST_FACTS), default=0.0)


def latest(table: Table, window: Window, enough: float) -> Table:
    """Cells of the shortest run of hours up to now with enough facts; at most a day."""
    by_hour = np.zeros(DAY_HOURS)
    inside = (table.hour >= window.day) & (table.hour < window.end)
    np.add.at(by_hour, window.end - 1 - table.hour[inside], table.n[inside])
    reached = np.flatnonzero(np.cumsum(by_hour) >= enough)
    back = int(reached[0]) + 1 if len(reached) else DAY_HOURS
    return table.between(window.end - back, window.end)


def of_key(table: Table, *parts: str) -> Table:
    """Cells whose key begins with some parts."""
    n = len(parts)
    return table.where(np.asarray([key[:n] == parts for key in table.keys], dtype=np.bool_))


def quantile_bin(counts: dict[int, float], share: float) -> int:
    """Smallest bin up to which at least a share of all counts lies."""
    total, so_far = sum(counts.values()), 0.0
    for place in sorted(counts):
        so_far += counts[place]
        if so_far >= share * total - 1e-9:
            return place
    return 0


def log_chance_of_standing(largest: float, n: float) -> float:
    """Logarithm of the chance that n values are all equal where the commonest one has a share of at most ``largest``."""
    return n * math.log(largest) if largest > 0 else -math.inf
