"""What the status of a placement tells beyond its counts: whether the last reward has been learned from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.decisions.service import DecisionService
from engine.learner.learner import learned_in
from engine.store.facts import from_us


@dataclass(frozen=True, slots=True)
class LastReward:
    """The newest reward that joined a decision of a placement.

    Attributes
    ----------
    learned_in
        Number of the first published snapshot that learned from the decision; None: not yet, or nothing learns here.
    learns_at
        When the decision's reward window closes; None where its policy does not learn.
    """

    decision: str
    kind: str
    value: float
    learned_in: int | None
    learns_at: datetime | None
    is_late: bool


def last_reward(service: DecisionService, placement_id: str) -> LastReward | None:
    """Newest reward of a placement, and where learning stands with it."""
    rows = service.database.rows(
        "SELECT r.kind, r.value, r.at_us, d.id, d.ledger_offset, d.at_us, d.policy FROM rewards r "
        "JOIN decisions d ON d.id = r.decision WHERE d.placement = :placement ORDER BY r.ledger_offset DESC LIMIT 1",
        placement=placement_id,
    )
    if not rows:
        return None
    kind, value, at_us, decision, offset, decided_us, policy = rows[0]
    window_s = service.placement(placement_id)[0].reward.window_s
    number = learned_in(service.database, policy, offset)
    learns = number is not None or bool(
        service.database.rows("SELECT 1 FROM learner_ticks WHERE policy = :policy LIMIT 1", policy=policy)
    )
    closes = from_us(decided_us) + timedelta(seconds=window_s)
    return LastReward(decision, kind, value, number, closes if learns else None, from_us(at_us) > closes)
