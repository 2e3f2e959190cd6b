"""What is recent and what was before: the cells of a placement, cut for the checks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from engine.monitoring.cells import ALWAYS, DAY_HOURS, HOUR_US, Table, read_cells
from engine.monitoring.placements import Watched
from engine.monitoring.thresholds import Thresholds
from engine.store.database import Database
from engine.store.facts import to_us

# Fewer days than these say nothing about what is usual.
LEAST_DAYS = 3
# A day of fewer decisions is none.
LEAST_A_DAY = 50


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Cells of a placement as of a moment.

    Attributes
    ----------
    end
        Hour after the last one looked at.
    recent
        First hour of the shortest run of hours with enough decisions; at most a day back.
    day
        First hour of the last 24.
    days
        First hours of the days before that have decisions enough, oldest first.
    """

    watched: Watched
    as_of: datetime
    limits: Thresholds
    cells: dict[str, Table]
    end: int
    recent: int
    day: int
    days: tuple[int, ...]
    n_recent: float
    n_day: float

    def now(self, what: str) -> Table:
        """Cells of the recent hours."""
        return self.cells[what].between(self.recent, self.end)

    def today(self, what: str) -> Table:
        """Cells of the last 24 hours."""
        return self.cells[what].between(self.day, self.end)

    def on(self, day: int, what: str) -> Table:
        """Cells of a day before."""
        return self.cells[what].between(day, day + DAY_HOURS)

    def before(self, what: str) -> Table:
        """Cells of all days before."""
        table = self.cells[what]
        inside = np.zeros(len(table), dtype=np.bool_)
        for day in self.days:
            inside |= (table.hour >= day) & (table.hour < day + DAY_HOURS)
        return table.where(inside)

    @property
    def has_reference(self) -> bool:
        """Whether there were days enough to say what is usual."""
        return len(self.days) >= LEAST_DAYS

    @property
    def many(self) -> frozenset[str]:
        """Features whose texts are taken by hash."""
        return frozenset(key[0] for key in self.cells["many"].keys)


def window_of(database: Database, place: Watched, *, as_of: datetime, limits: Thresholds) -> Window:
    """Read the cells of a placement and cut them."""
    end = to_us(as_of) // HOUR_US + 1
    first = max(ALWAYS + 1, end - (limits.reference_days + 1) * DAY_HOURS)
    cells = read_cells(database, place.placement.id, first_hour=first, last_hour=end - 1)
    choice = cells["choice"]
    back = np.zeros((limits.reference_days + 1) * DAY_HOURS)
    inside = (choice.hour < end) & (choice.hour >= first)
    np.add.at(back, end - 1 - choice.hour[inside], choice.n[inside])
    enough = np.flatnonzero(np.cumsum(back[:DAY_HOURS]) >= limits.recent_decisions)
    recent = end - 1 - int(enough[0]) if len(enough) else end - DAY_HOURS
    per_day = back.reshape(-1, DAY_HOURS).sum(axis=1)
    days = [end - (i + 1) * DAY_HOURS for i in range(1, len(per_day)) if per_day[i] >= LEAST_A_DAY]
    return Window(
        watched=place,
        as_of=as_of,
        limits=limits,
        cells=cells,
        end=end,
        recent=recent,
        day=end - DAY_HOURS,
        days=tuple(sorted(days)),
        n_recent=float(back[: end - recent].sum()),
        n_day=float(per_day[0]),
    )
