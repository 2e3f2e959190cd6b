"""The pages of the first ten minutes and of a new offer, block by block, against a real server."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.api.process import start_server
from tests.howto import run_page


@pytest.mark.slow
def test_the_first_ten_minutes(tmp_path: Path) -> None:
    """Placement, decision, reward, fallback, login, billing's outcome, one more offer: every block runs, and the service knows of all."""
    server = start_server(tmp_path / "home")
    environment = {
        "SERVICE_URL": server.url,
        "SERVICE_KEY": server.key,
        "SERVICE_HOME": str(tmp_path / "home"),
        "TIMEOUT_S": "5",  # a machine that runs all tests at once is no web server
    }
    try:
        printed = run_page("first-integration.md", tmp_path, environment)
        run_page("add-an-offer.md", tmp_path, environment)
        status = httpx.get(f"{server.url}/v1/placements/paywall/status", headers=server.headers).json()
    finally:
        code = server.stop()
    assert any("Monthly" in text or "A year" in text for text in printed)
    assert (status["n_decisions"], status["n_rewards"], status["n_bot_decisions"]) == (1, 1, 0)
    assert (tmp_path / "public-key").read_text().startswith("nxo_pub_")
    assert code == 0
