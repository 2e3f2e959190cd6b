"""The JavaScript client in Node against a real server; the beacon's requests against the public door."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.process import start_server

CLIENTS = Path(__file__).parents[2] / "clients" / "javascript"


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script in Node saw."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("missing tool: node (18 or later)")
    server = start_server(tmp_path_factory.mktemp("js") / "home")
    script = Path(__file__).with_name("javascript_client.mjs")
    try:
        done = subprocess.run(
            [node, str(script), str(CLIENTS / "nextoffer.js"), server.url, server.key],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr
    out: dict[str, Any] = json.loads(done.stdout)
    return out


@pytest.mark.slow
def test_the_whole_conversation(happened: dict[str, Any]) -> None:
    """Decide, activate, reward, outcome and event work against a real server."""
    assert happened["choice"]["source"] == "service"
    assert happened["choice"]["recorded"] is True
    assert happened["choice"]["payload"]["title"]
    assert happened["activated"]["first"] is True
    assert happened["reward"]["joined"] is True
    assert happened["again"]["status"] == "repeat"
    assert happened["outcome"]["attributed_to"] == [happened["choice"]["id"]]
    assert happened["same"] is True
    assert happened["problems"] == []


def test_pages_reloads_machines_and_logins(happened: dict[str, Any]) -> None:
    """Each place has an offer of its own, a reload is the same decision, a crawler is answered for certain, a login is linked."""
    assert happened["page"] == {
        "offers": 2,
        "rewarded": True,
        "kept": True,
        "machine": 1,
        "person": ["customer-9", "visitor-9"],
        "dead": ["monthly", "annual"],
    }


def test_refusals_and_a_dead_service_fall_back(happened: dict[str, Any]) -> None:
    """The page gets an offer whatever is wrong, and the hook hears why."""
    assert happened["refused"] == ["fallback", "fallback", "monthly", "invalid_input", "malformed"]
    assert happened["dead"] == ["fallback", "annual", "ignored"]
    assert happened["circuit"] == "circuit_open"


def test_a_slow_answer_falls_back_in_time(happened: dict[str, Any]) -> None:
    """A server that hangs does not hold the page beyond the timeout."""
    assert happened["slow"] == ["fallback", "timeout", True]


def test_the_retry_rule(happened: dict[str, Any]) -> None:
    """502, 503 and 504 are tried once more with the same id; nothing else is."""
    assert happened["retries"] == {
        **{status: [2, 1, "service"] for status in ("502", "503", "504")},
        **{status: [1, 1, "fallback"] for status in ("500", "429")},
    }


@pytest.mark.parametrize("name", ["nextoffer.js", "nextoffer-beacon.js"])
def test_a_client_is_one_file_without_dependencies(name: str) -> None:
    """Nothing is imported, so that the file can be copied as it is."""
    text = (CLIENTS / name).read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))
    assert "require(" not in code
    assert "import " not in code.replace("import.meta", "")
