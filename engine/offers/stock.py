"""How often offers that can run out were shown: counted whole once, afterwards by what has come since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.rewards.seen import seen_below
from engine.store.database import Database
from engine.store.facts import DECISION

# What has changed is what counts by the facts there are now, less what counted by those there were.
_MINE = "d.placement = :placement AND d.offer IN ({offers})"
_WHOLE = f"SELECT d.offer, COUNT(*) FROM decisions d WHERE {_MINE} AND {seen_below('until')} GROUP BY d.offer"
_OF_FACTS = (
    "SELECT k.ledger_offset FROM {table} f CROSS JOIN fact_keys k "
    f"WHERE f.ledger_offset >= :since AND f.ledger_offset < :until AND k.kind = {DECISION} AND k.id = f.decision"
)
# The placement is asked for outside: SQLite would look for it in all decisions instead of looking at the new ones.
_TOUCHED = (
    "SELECT ledger_offset FROM decisions WHERE ledger_offset >= :since AND ledger_offset < :until "
    f"UNION {_OF_FACTS.format(table='activations')} UNION {_OF_FACTS.format(table='voids')}"
)
_CHANGE = (
    f"SELECT d.offer, SUM(CASE WHEN {seen_below('until')} THEN 1 ELSE 0 END) "
    f"- SUM(CASE WHEN {seen_below('since')} THEN 1 ELSE 0 END) "
    f"FROM ({_TOUCHED}) t CROSS JOIN decisions d WHERE d.ledger_offset = t.ledger_offset AND {_MINE} GROUP BY d.offer"
)


@dataclass(frozen=True, slots=True)
class _Counted:
    """Views by offer, of all facts below an offset."""

    until: int
    views: Mapping[str, int]


class StockCounts:
    """Views since a placement's first decision; asking again reads what the ledger has got meanwhile."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counted: dict[str, _Counted] = {}

    def views(self, placement: str, offers: Sequence[str]) -> dict[str, int]:
        """How often each of some offers was shown at a placement, by the facts that are on disk.

        Raises
        ------
        StoreUnavailableError
            If the store cannot be read; what was counted stays.
        """
        if not offers:
            return {}
        until, before = self._database.head(), self._counted.get(placement)
        if before is None or not before.views.keys() >= set(offers):
            views = dict.fromkeys(offers, 0) | self._count(_WHOLE, placement, offers, until=until)
        else:
            change = self._count(_CHANGE, placement, offers, until=until, since=before.until)
            views = {offer: before.views[offer] + change.get(offer, 0) for offer in offers}
        self._counted[placement] = _Counted(until, views)
        return dict(views)

    def _count(self, sql: str, placement: str, offers: Sequence[str], **span: int) -> dict[str, int]:
        names = {f"offer{i}": offer for i, offer in enumerate(offers)}
        sql = sql.format(offers=", ".join(f":{name}" for name in names))
        return {str(offer): int(n) for offer, n in self._database.rows(sql, placement=placement, **names, **span)}
