"""Export and learner read the same decisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest
from engine.offers.placement import CatalogueOffer, Placement
from engine.rewards.definition import DAY_S, RewardDefinition
from policies.records import Offer, OfferId
from tests.engine.service_world import exported


def test_a_decision_seen_after_its_window_is_left_out(tmp_path: Path) -> None:
    """What was first seen when its own window was over has no number, as for the learner."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    offers = tuple(CatalogueOffer(Offer(OfferId(o))) for o in ("a", "b", "c"))
    reward = RewardDefinition(window_s=2 * DAY_S)
    with open_service(tmp_path, clock=lambda: at) as service:
        service.put_placement(Placement("page", offers, reward=reward))
        for name, seen_after in (("in-time", timedelta(days=1)), ("late", timedelta(days=3))):
            service.decide(DecisionRequest("page", f"subject-{name}", id=name, at=at, is_activated=False))
            service.activate(name, at=at + seen_after)
        service.decide(DecisionRequest("page", "subject-never", id="never", at=at, is_activated=False))
        found = exported(service.database, "page", as_of=at + timedelta(days=10))
    assert found.decision_ids is not None
    assert found.decision_ids.tolist() == ["in-time"]
