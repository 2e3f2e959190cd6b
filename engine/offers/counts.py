"""What limits count, read from the ledger: views of a person, money of a budget.

A person's views are one indexed read in each decision of a placement with caps, so that several servers agree. What a budget has
spent is counted anew every second; between two counts it may be overdrawn by what was given away in that second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime

from engine.offers.limits import Budget, View, cost_of
from engine.rewards.seen import IS_SEEN, STANDS
from engine.store.database import Database
from engine.store.facts import from_us, to_us
from policies.records import OfferSet

COUNTED_FOR_S = 1.0
_MAX_VIEWS = 1_000

_VIEWS = f"""
SELECT d.offer, d.at_us FROM decisions d
WHERE d.subject IN ({{subjects}}) AND d.placement = :placement AND d.at_us > :since AND d.at_us <= :at AND {IS_SEEN}
ORDER BY d.at_us DESC LIMIT :most
"""
_SHOWN = f"""
SELECT d.offer, COUNT(*) FROM decisions d
WHERE d.placement = :placement AND d.at_us >= :since AND d.at_us < :before AND {IS_SEEN} GROUP BY d.offer
"""
# A contract is proof that the offer was seen, whether or not the site has said so.
_REWARDED = f"""
SELECT d.offer, COUNT(DISTINCT d.id) FROM rewards r JOIN decisions d ON d.id = r.decision
WHERE d.placement = :placement AND r.kind = :kind AND d.at_us >= :since AND d.at_us < :before AND {STANDS} GROUP BY d.offer
"""


class Counts:
    """Reads of a store, what costs more than one row of it kept for a second."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._spent: dict[tuple[str, str], tuple[float, float]] = {}

    def views(self, placement: str, people: Sequence[str], *, since: datetime, at: datetime) -> list[View]:
        """What a person, under any of its ids, was shown at a placement after ``since``, latest first."""
        names = {f"subject{i}": subject for i, subject in enumerate(people)}
        sql = _VIEWS.format(subjects=", ".join(f":{name}" for name in names))
        rows = self._database.rows(sql, placement=placement, since=to_us(since), at=to_us(at), most=_MAX_VIEWS, **names)
        return [View(str(offer), from_us(int(at_us))) for offer, at_us in rows]

    def spent(self, placement: str, budget: Budget, offers: OfferSet) -> float:
        """What a budget has given away since it started, at what each offer costs now."""
        key = (placement, budget.id)
        kept = self._spent.get(key)
        now = time.monotonic()
        if kept is not None and now - kept[0] < COUNTED_FOR_S:
            return kept[1]
        values = {"placement": placement, "since": to_us(budget.starts_at), "before": to_us(budget.ends_at)}
        rows = (
            self._database.rows(_SHOWN, **values)
            if budget.counts is None
            else self._database.rows(_REWARDED, kind=budget.counts, **values)
        )
        cost = {o.id: cost_of(o.features, budget) for o in offers}
        total = float(sum(cost.get(offer, 0.0) * int(n) for offer, n in rows))
        self._spent[key] = (now, total)
        return total

    def forget(self) -> None:
        """Count anew next time; for clocks that tests move by hand."""
        self._spent.clear()
