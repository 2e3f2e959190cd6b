"""What promotion asks of the log's health: sentences that say its integrity fails, none where it holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from engine.monitoring.health import check_integrity
from engine.monitoring.thresholds import Thresholds
from engine.store.database import Database

Health = Callable[[Database, str, datetime], tuple[str, ...]]


def integrity(
    database: Database, placement: str, as_of: datetime, *, thresholds: Thresholds | None = None
) -> tuple[str, ...]:
    """Integrity alarms that ring: a page that shows another offer than was chosen, a draw that does not follow what it logged.

    Parameters
    ----------
    thresholds
        From where on they ring; the defaults if left out.
    """
    checks = check_integrity(database, placement, as_of, thresholds=thresholds)
    return tuple(c.sentence for c in checks if c.state == "ringing")
