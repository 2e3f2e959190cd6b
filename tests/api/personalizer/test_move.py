"""The page for people who come from Azure Personalizer, lived through."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.api.process import start_server
from tests.engine.sources.personalizer_log import export
from tests.howto import run_page


@pytest.mark.slow
def test_the_page_runs_from_the_first_key_to_going_online(tmp_path: Path) -> None:
    """Every block runs in order: key, apprentice, import, training, evaluation, registration, online."""
    server = start_server(tmp_path / "home")
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "2026-05.json").write_text("\n".join([*export(3000), '{"EventId": "x", "RewardValue": 1}']))
    try:
        printed = run_page(
            "move-from-azure-personalizer.md",
            tmp_path,
            {"SERVICE_URL": server.url, "SERVICE_HOME": str(tmp_path / "home")},
        )
        status = httpx.get(f"{server.url}/v1/placements/menu/status", headers=server.headers).json()
    finally:
        code = server.stop()
    assert any("better than what was shown" in text for text in printed)
    assert status["n_decisions"] == 3002
    assert status["learning"][0]["policy"].startswith("warm-menu@")
    assert code == 0
