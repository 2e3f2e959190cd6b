"""Backup while serving, restore, and the commands over them."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.cli.main import run
from engine.decisions.requests import DecisionRequest
from engine.learner.audit import audit
from engine.store.backup import back_up, restore
from policies.errors import ArtifactError, InvalidInputError
from tests.engine.learner.test_learner import Lab
from tests.engine.service_world import SECRET, Clock, open_shop

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def test_a_backup_taken_under_load_is_consistent_and_serves(tmp_path: Path) -> None:
    """Everything acknowledged before the backup began is in it; the restored home decides, learns on and audits clean."""
    lab = Lab(tmp_path / "home")
    lab.traffic(70)
    learner = lab.learner()
    learner.tick()
    learner.publish()
    stop = threading.Event()
    done: list[str] = []

    def load() -> None:
        i = 0
        while not stop.is_set():
            done.append(lab.service.decide(DecisionRequest("shop", f"w{i}", {"x": 1.0}, id=f"w{i}")).decision.id)
            i += 1

    thread = threading.Thread(target=load)
    thread.start()
    while len(done) < 20:
        pass
    before = list(done)
    found = back_up(tmp_path / "home", tmp_path / "backup", database=lab.service.database, at=NOW)
    stop.set()
    thread.join()
    lab.service.close()
    assert found.ledger_offset is not None
    assert found.ledger_offset >= 70 + len(before)
    with pytest.raises(InvalidInputError, match="exists already"):
        back_up(tmp_path / "home", tmp_path / "backup", database=lab.service.database, at=NOW)
    again = restore(tmp_path / "backup", tmp_path / "new")
    assert again.ledger_offset == found.ledger_offset
    with open_shop(tmp_path / "new", clock=lab.clock) as service:
        assert service.database.head() - 1 >= found.ledger_offset
        assert all(service.get_decision(i).offer for i in before)
        assert audit(service.database, service.policies, secret=SECRET).is_clean
        assert service.decide(DecisionRequest("shop", "x", {"x": 1.0})).decision.recorded


def test_a_damaged_backup_is_refused_whole(tmp_path: Path) -> None:
    """One changed byte anywhere, and nothing is restored; a home that holds something is left alone."""
    with open_shop(tmp_path / "home", clock=Clock()) as service:
        service.decide(DecisionRequest("shop", "u", id="d"))
        back_up(tmp_path / "home", tmp_path / "backup", database=service.database, at=NOW)
        with pytest.raises(InvalidInputError, match="not empty"):
            restore(tmp_path / "backup", tmp_path / "home")
    path = tmp_path / "backup" / "nextoffer.db"
    content = bytearray(path.read_bytes())
    content[4_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="missing or damaged"):
        restore(tmp_path / "backup", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InvalidInputError, match="no backup"):
        restore(tmp_path, tmp_path / "new")


@pytest.mark.slow
def test_the_commands_answer_in_json_and_with_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Backup, restore, export, replay, erase and retention from the command line."""
    lab = Lab(tmp_path / "home")
    lab.traffic(70)
    lab.service.close()
    (tmp_path / "home" / "secret").write_bytes(SECRET)
    home = ["--home", str(tmp_path / "home"), "--json"]

    def told(*arguments: str) -> object:
        assert run([*arguments]) == 0, arguments
        return json.loads(capsys.readouterr().out)

    assert told("db", "backup", str(tmp_path / "b"), *home)["n_files"] > 2  # type: ignore[index]
    assert told("db", "restore", str(tmp_path / "b"), "--home", str(tmp_path / "r"), "--json")["n_files"] > 2  # type: ignore[index]
    assert told("db", "export", "shop", str(tmp_path / "out"), *home)["n_rows"] > 40  # type: ignore[index]
    assert told("replay", "--audit", *home)["n_recomputed"] == 70  # type: ignore[index]
    assert told("replay", "--rederive", *home)["is_clean"]  # type: ignore[index]
    assert run(["db", "erase", "u1", *home]) == 1
    capsys.readouterr()
    assert told("db", "erase", "u1", "--yes", *home)["n_decisions"] == 5  # type: ignore[index]
    assert told("replay", *home)["n_erased"] == 5  # type: ignore[index]
    assert told("db", "retention", "--events-days", "1", *home)[0]["what"] == "events"  # type: ignore[index]
    assert run(["db", "retention", *home]) == 2
    assert run(["replay", "--audit", "--rederive", *home]) == 2
    (tmp_path / "home" / "secret").write_bytes(b"another secret of many bytes")
    assert run(["replay", *home]) == 1
    assert run(["learn", *home[:2]]) == 2
