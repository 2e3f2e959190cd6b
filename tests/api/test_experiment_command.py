"""The lifecycle of an experiment from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from api.cli.main import run
from engine.decisions.opening import open_service
from engine.experiments.audit import read_audit
from engine.experiments.controls import controls_of
from tests.engine.service_world import open_shop


@pytest.mark.slow
def test_a_draft_goes_all_the_way_from_a_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step is the engine's own, with who and why in the log; weights change only after their cost was said."""
    open_shop(tmp_path).close()
    home = ["--home", str(tmp_path)]

    def do(*words: str) -> dict[str, Any]:
        assert run(["experiment", *words, *home]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    two = ["--variant", "control=baseline", "--variant", "new=placement"]
    do("create", "spring", "--placement", "shop", *two)
    assert do("approve", "spring", "--by", "ann", "--reason", "looks right")["approved_by"] == "ann"
    assert run(["experiment", "schedule", "spring", "--at", "2999-03-02T09:00:00", *home]) == 2
    assert "no distance from UTC" in capsys.readouterr().err
    assert do("schedule", "spring", "--at", "2999-03-02T09:00:00+03:00")["starts_at"].startswith("2999-03-02T")
    assert do("unschedule", "spring")["state"] == "draft"
    assert do("start", "spring")["state"] == "running"
    weights = ["--weight", "control=8000", "--weight", "new=2000"]
    assert run(["experiment", "reweight", "spring", *weights, *home]) == 1
    said = capsys.readouterr()
    assert "nobody can say what it costs" in said.err
    assert not said.out
    phases = do("reweight", "spring", *weights, "--yes", "--by", "bob", "--reason", "less of it")["phases"]
    assert [[v["weight_bp"] for v in p["variants"]] for p in phases] == [[5000, 5000], [8000, 2000]]
    assert run(["experiment", "reweight", "spring", "--weight", "new", *home]) == 2
    assert run(["experiment", "pause-all", "--reason", "the site is down", *home]) == 0
    with open_service(tmp_path) as service:
        assert controls_of(service.database).is_paused
    assert run(["experiment", "resume-all", *home]) == 0
    capsys.readouterr()
    do("stop", "spring")
    assert do("archive", "spring")["state"] == "archived"
    with open_service(tmp_path) as service:
        assert not controls_of(service.database).is_paused
        rows = read_audit(service.database, what="experiment spring")
    steps = ["create", "approve", "schedule", "unschedule", "start", "reweight", "stop", "archive"]
    assert [r.action for r in reversed(rows)] == steps
    assert [(r.actor, r.reason) for r in rows if r.reason] == [("bob", "less of it"), ("ann", "looks right")]
