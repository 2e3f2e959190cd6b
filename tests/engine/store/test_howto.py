"""The page for operators, lived through."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, EventRequest, RewardRequest
from engine.rewards.definition import RewardDefinition, RewardTerm
from tests.engine.service_world import shop
from tests.howto import run_page


@pytest.mark.slow
def test_the_page_runs_from_backup_to_replay(tmp_path: Path) -> None:
    """Every block runs in order on a home with some traffic: backup, restore, export, erase, retention, replay."""
    home = tmp_path / "home"
    soon = RewardDefinition((RewardTerm("subscribed"),), window_s=0.001)
    with open_service(home) as service:
        service.put_placement(shop(placement="offer_page", reward=soon))
        for i in range(12):
            service.decide(DecisionRequest("offer_page", f"visitor-{i % 4}", {"x": float(i)}, id=f"d{i}"))
            service.event(EventRequest(f"visitor-{i % 4}", "view", "p", id=f"e{i}"))
            service.reward(RewardRequest(f"d{i}", "subscribed"))
    printed = run_page("operate-the-store.md", tmp_path, {"SERVICE_HOME": str(home)})
    assert "n_rows=12" in printed[2]
    assert "n_decisions=3" in printed[3]
    assert "n_erased: 3" in printed[-1]
