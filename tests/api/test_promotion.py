"""Where versions stand, over HTTP and by command."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from api.cli.main import run
from api.cli.retrain import _days
from engine.alerts.outbox import newest
from engine.experiments.keeper import CLAIM
from engine.experiments.records import Experiment
from engine.gate.promotion import Promotion
from engine.gate.records import Part, conclude
from engine.gate.verdicts import keep_verdict
from engine.store.changes import Change
from engine.store.ownership import ownership_of
from policies.allocation import Variant
from policies.errors import InvalidInputError
from policies.fixed import FixedOrder
from tests.api.conftest import Site
from tests.engine.service_world import START, open_shop, shop


def test_a_rollback_is_one_call_and_an_approval_names_who(site: Site) -> None:
    """What was promoted is taken back by one request with a reason; a verdict of another place is not found."""
    service = site.service
    old, new = (
        str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name=n, at=START))
        for n, o in (("old", "abc"), ("new", "bac"))
    )
    service.put_placement(shop(policy=old))
    said = conclude(
        [Part("evidence", "open", ("too little",))], placement="shop", policy=new, incumbent=old, at=START, inputs="i"
    )
    keep_verdict(service.database, said)
    Promotion(service).enter(said, change=Change(START))
    here = "/v1/placements/shop"
    got = site.call("GET", f"{here}/verdicts").json()["verdicts"]
    assert [(v["outcome"], v["approved_by"]) for v in got] == [("log cannot answer", None)]
    reason = {"reason": "the simulator speaks for it"}
    assert site.call("POST", f"/v1/placements/other/verdicts/{said.id}/approval", reason).status_code == 404
    yes = site.call("POST", f"{here}/verdicts/{said.id}/approval", reason)
    assert yes.json()["approved_by"].startswith("key:")
    assert site.call("POST", f"{here}/verdicts/{said.id}/approval", reason).status_code == 409
    made = site.call("POST", f"{here}/promotion", {"policy": new, "reason": "it is urgent"})
    assert (made.json()["state"], made.json()["previous"]) == ("live", old)
    back = site.call("POST", f"{here}/rollback", {"reason": "complaints"})
    assert (back.json()["policy"], back.json()["state"]) == (new, "retired")
    standings = site.call("GET", f"{here}/standings").json()["standings"]
    assert {(s["policy"], s["state"]) for s in standings} == {(new, "retired"), (old, "live")}
    assert site.call("GET", f"{here}/forecasts").json()["forecasts"] == []


@pytest.mark.slow
def test_watch_tells_like_every_keeper_and_leaves_the_work_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start by ``policies watch`` is news; while another process has the claim the command does nothing and says so."""
    two = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
    home = ["--home", str(tmp_path)]
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("spring", "shop", two), change=Change(START))
        service.experiments.schedule("spring", revision=1, starts_at=START + timedelta(hours=1), change=Change(START))
        with closing(ownership_of(service.database)) as other:
            assert other.claim(CLAIM)
            assert run(["policies", "watch", *home]) == 0
            assert "another process" in capsys.readouterr().err
            assert service.experiments.get("spring").state == "scheduled"
        assert run(["policies", "watch", *home]) == 0
        assert "spring started" in capsys.readouterr().out
        assert [m.topic for m, _ in newest(service.database)] == ["experiment spring started"]


_RETRAIN = """
import sys
import api.cli.main
import api.cli.retrain
sys.modules["api.cli.retrain"]._LOOK_S = 0.1
sys.exit(api.cli.main.run(["retrain", "shop", "--every", "1s", "--no-simulator", "--home", sys.argv[1]]))
"""


@pytest.mark.slow
def test_retrain_every_so_often_tells_and_outlives_an_outage(tmp_path: Path) -> None:
    """Beside its runs, starts are news; while tables are away rounds fail and are followed by others; told to stop it ends with 0."""
    two = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
    with open_shop(tmp_path) as service:
        experiments = service.experiments

        def comes(name: str, slots: tuple[int, int]) -> bool:
            experiments.create(Experiment(name, "shop", two, layer="one", slots=slots), change=Change(START))
            experiments.schedule(name, revision=1, starts_at=START + timedelta(hours=1), change=Change(START))
            for _ in range(300):
                if f"experiment {name} started" in {m.topic for m, _ in newest(service.database)}:
                    return True
                time.sleep(0.1)
            return False

        with subprocess.Popen([sys.executable, "-c", _RETRAIN, str(tmp_path)], stderr=subprocess.PIPE) as process:
            try:
                assert comes("first", (0, 5_000))
                with service.database.writing() as connection:
                    connection.execute(text("ALTER TABLE experiments RENAME TO away"))
                time.sleep(2.5)
                with service.database.writing() as connection:
                    connection.execute(text("ALTER TABLE away RENAME TO experiments"))
                assert comes("second", (5_000, 10_000))
            finally:
                process.send_signal(signal.SIGTERM)
                _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert b"experiments could not be looked after: the store does not answer" in said


@pytest.mark.slow
def test_the_commands_do_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Promote, list, take back and tidy by command; a version that the gate refused is an honest no."""
    with open_shop(tmp_path) as service:
        old, new, bad = (
            str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name=n, at=START))
            for n, o in (("old", "abc"), ("new", "bac"), ("bad", "cab"))
        )
        service.put_placement(shop(policy=old))
        refused = conclude(
            [Part("contract", "refuse", ("it breaks",))],
            placement="shop",
            policy=bad,
            incumbent=old,
            at=START,
            inputs="i",
        )
        Promotion(service).enter(keep_verdict(service.database, refused), change=Change(START))
    home = ["--home", str(tmp_path)]
    assert run(["policies", "promote", "new", "--placement", "shop", "--reason", "urgent", *home]) == 0
    assert run(["policies", "promote", "bad", "--placement", "shop", "--reason", "urgent", *home]) == 1
    capsys.readouterr()
    assert run(["policies", "states", "--json", *home]) == 0
    states = {s["policy"]: s["state"] for s in json.loads(capsys.readouterr().out)}
    assert states == {new: "live", bad: "retired"}
    assert run(["policies", "rollback", "shop", "--reason", "complaints", *home]) == 0
    assert f"{old} decides at shop" in capsys.readouterr().out
    assert run(["policies", "verdicts", *home]) == 0
    assert "refuse" in capsys.readouterr().out
    for command in ("watch", "tidy"):
        assert run(["policies", command, *home]) == 0
    assert run(["policies", "forecasts", "--json", *home]) == 0


def test_days_that_are_no_numbers_are_refused_with_what_is_expected() -> None:
    """A mistyped list of days is wrong usage, told in words."""
    assert _days("7, 28,0") == (7.0, 28.0, 0.0)
    with pytest.raises(InvalidInputError, match="--memory-days is '7;28'; expected numbers of days"):
        _days("7;28")
