"""What the ledger benchmark judges with: a fact that is missing, changed or without its offset is counted."""

from __future__ import annotations

from pathlib import Path

from benchmarks._crashes import Acknowledged, _missing
from engine.decisions.requests import DecisionRequest, EventRequest, OutcomeRequest, RewardRequest
from tests.engine.service_world import open_shop


def test_lost_and_changed_facts_are_counted(tmp_path: Path) -> None:
    """Everything there: nothing lost; one of each kind gone or other than acknowledged: that many lost, and a hole is seen."""
    with open_shop(tmp_path) as service:
        told = Acknowledged()
        for i in range(4):
            answer = service.decide(DecisionRequest("shop", f"u{i}", id=f"d{i}")).decision
            told.decisions[answer.id] = answer.offer
            service.reward(RewardRequest(answer.id, "click", 2.0, id=f"r{i}"))
            told.rewards[f"r{i}"] = (answer.id, 2.0)
            service.event(EventRequest(f"u{i}", "view", id=f"e{i}"))
            told.events.add(f"e{i}")
            service.outcome(OutcomeRequest(f"u{i}", "subscribed", id=f"o{i}"))
            told.outcomes.add(f"o{i}")
        assert len(told) == 16
        assert _missing(service.database, told) == (0, 0)
        with service.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM decisions WHERE id = 'd1'")
            connection.exec_driver_sql("UPDATE rewards SET value = 3 WHERE id = 'r2'")
            connection.exec_driver_sql("DELETE FROM events WHERE id = 'e3'")
            connection.exec_driver_sql("DELETE FROM outcomes WHERE id = 'o0'")
            connection.exec_driver_sql("DELETE FROM fact_keys WHERE id = 'o0'")
        assert _missing(service.database, told) == (4, 1)
