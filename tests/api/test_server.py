"""A real server process: the first five minutes, killing it, ending it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.cli.serve import first_calls
from api.serving import prepare_sandbox
from api.settings import Settings
from engine.decisions.opening import open_service
from engine.rewards.definition import RewardDefinition
from tests.api.process import ServerProcess, start_server


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A sandbox server that is ended after the test."""
    started = start_server(tmp_path / "home")
    yield started
    if started.process.poll() is None:
        started.stop()


def test_the_printed_calls_work(server: ServerProcess) -> None:
    """The three calls that ``serve`` prints can be pasted into a shell, and the third shows what the first two did."""
    if shutil.which("curl") is None:
        pytest.skip("missing tool: curl")
    text = first_calls(server.url, server.key, server.placement)
    calls = [c for c in re.split(r"\n(?=#)", text) if "curl" in c]
    answers = [json.loads(subprocess.check_output(["sh", "-c", call], text=True, timeout=20)) for call in calls]
    assert answers[0]["recorded"] is True
    assert answers[1]["message"] == "reward joined to decision first-1"
    assert (answers[2]["n_decisions"], answers[2]["n_rewards"]) == (1, 1)
    assert answers[2]["message"].startswith("reward joined to decision first-1, learned when its window closes in ")


@pytest.mark.slow
def test_a_reward_is_learned_and_the_status_says_in_which_snapshot(tmp_path: Path) -> None:
    """When the window of a decision closes, the sandbox learns from it, serves the new snapshot and says so."""
    settings = Settings(home=tmp_path / "home", mode="sandbox")
    _, placement_id = prepare_sandbox(settings)
    with open_service(settings.home) as service:
        placement, _ = service.placement(placement_id)
        service.put_placement(replace(placement, reward=RewardDefinition(window_s=2.0)))
    server = start_server(settings.home)
    url = f"{server.url}/v1/placements/{placement_id}"
    with httpx.Client(headers=server.headers) as http:
        made = http.post(f"{url}/decisions", json={"id": "d1", "subject": "u1", "features": {"visits": 2}}).json()
        assert made["policy"].startswith("sandbox-lints@")
        http.post(f"{server.url}/v1/rewards", json={"decision": "d1", "kind": "subscribed"})
        assert "learned in snapshot" not in http.get(f"{url}/status").json()["message"]
        deadline = time.monotonic() + 20
        message = ""
        while "learned in snapshot" not in message and time.monotonic() < deadline:
            time.sleep(0.1)
            message = http.get(f"{url}/status").json()["message"]
        assert message == "reward joined to decision d1, learned in snapshot 1"
        (learning,) = http.get(f"{url}/status").json()["learning"]
        assert (learning["state"], learning["snapshot"], learning["n_waiting"]) == ("learning", 1, 0)
        repeat = http.post(f"{server.url}/v1/rewards", json={"decision": "d1", "kind": "subscribed"}).json()
        assert (repeat["status"], repeat["learned_in"]) == ("repeat", 1)
        assert http.get(f"{server.url}/v1/decisions/d1").json()["learned_in"] == 1
        before = http.get(f"{server.url}/v1/decisions/d1").json()
        while time.monotonic() < deadline:
            http.post(
                f"{url}/decisions", json={"id": "d2", "subject": "u1", "features": {"visits": 2}, "dry_run": True}
            )
            after = http.post(
                f"{url}/decisions", json={"subject": "u1", "features": {"visits": 2}, "explain": True, "dry_run": True}
            ).json()["explanation"]["probabilities"]
            if after != dict(zip(before["offers"], before["probabilities"], strict=True)):
                break
            time.sleep(0.1)
        # What earned a reward is shown more often from then on.
        assert after[before["offer"]] > before["probability"]
        http.post(f"{server.url}/v1/rewards", json={"decision": "d1", "kind": "subscribed", "id": "again"})
        assert "after its window" in http.get(f"{url}/status").json()["message"]
    assert server.stop() == 0


@pytest.mark.slow
def test_a_signal_ends_it_cleanly_and_a_restart_knows_everything(tmp_path: Path) -> None:
    """SIGTERM ends with exit code 0; the next start keeps the key and the log."""
    first = start_server(tmp_path / "home")
    body = {"id": "d1", "subject": "u1"}
    made = httpx.post(f"{first.url}/v1/placements/{first.placement}/decisions", json=body, headers=first.headers).json()
    assert first.stop() == 0, first.log.read_text()
    second = start_server(tmp_path / "home")
    assert second.key == first.key
    again = httpx.post(
        f"{second.url}/v1/placements/{second.placement}/decisions", json=body, headers=first.headers
    ).json()
    assert again == {**made, "repeat": True}
    assert second.stop() == 0


@pytest.mark.slow
def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """The server is killed in the middle of traffic, three times; every acknowledged decision and reward is still there."""
    acknowledged: dict[str, dict[str, Any]] = {}
    rewarded: set[str] = set()
    for round_ in range(3):
        server = start_server(tmp_path / "home")
        for decision, made in list(acknowledged.items())[:: max(1, len(acknowledged) // 25)]:
            found = httpx.get(f"{server.url}/v1/decisions/{decision}", headers=server.headers)
            assert found.status_code == 200, decision
            assert found.json()["offer"] == made["offer"]["id"]
        status = httpx.get(f"{server.url}/v1/placements/{server.placement}/status", headers=server.headers).json()
        assert status["n_decisions"] >= len(acknowledged)
        assert status["n_rewards"] >= len(rewarded)

        def work(worker: int, round_: int = round_, server: ServerProcess = server) -> None:
            with httpx.Client(base_url=server.url, headers=server.headers, timeout=5) as http:
                for i in range(10_000):
                    decision = f"r{round_}-w{worker}-{i}"
                    try:
                        body = {"id": decision, "subject": f"u{i % 50}"}
                        made = http.post(f"/v1/placements/{server.placement}/decisions", json=body).json()
                        if made["recorded"]:
                            acknowledged[decision] = made
                        if http.post("/v1/rewards", json={"decision": decision, "kind": "subscribed"}).json()["joined"]:
                            rewarded.add(decision)
                    except (httpx.HTTPError, ValueError):
                        return

        threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
        for thread in threads:
            thread.start()
        before = len(rewarded)
        deadline = time.monotonic() + 20
        while len(rewarded) < before + 60 and time.monotonic() < deadline:
            time.sleep(0.02)
        server.kill()
        for thread in threads:
            thread.join(20)
        assert len(rewarded) >= before + 60
    last = start_server(tmp_path / "home")
    with httpx.Client(base_url=last.url, headers=last.headers) as http:
        missing = [d for d in acknowledged if http.get(f"/v1/decisions/{d}").status_code != 200]
        repeats = [
            http.post("/v1/rewards", json={"decision": d, "kind": "subscribed"}).json()["status"]
            for d in sorted(rewarded)
        ]
    last.stop()
    assert missing == []
    assert set(repeats) == {"repeat"}


@pytest.mark.slow
def test_a_taken_port_is_a_sentence(server: ServerProcess, tmp_path: Path) -> None:
    """A port in use ends the start with its number and the way out."""
    import sys

    port = server.url.rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "api.cli", "serve", "--port", port, "--home", str(tmp_path / "other")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
