"""A server sees what is due and leaves it to a process of its own; several processes do each thing once."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from api.alerts import watching
from api.alerts.watching import Watch, start_job
from api.settings import Settings, as_plain, from_plain, load_settings
from engine.alerts.outbox import newest
from engine.decisions.service import DecisionService
from engine.experiments.audit import read_audit
from engine.experiments.automation import due
from engine.experiments.records import Experiment, Ramp
from engine.store.changes import Change
from policies.allocation import Variant
from tests.engine.service_world import START, open_shop

TWO = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))


def _planned(service: DecisionService) -> None:
    """One that starts, one that ends, and one whose ramp may go on as soon as somebody has seen it."""
    experiments = service.experiments
    experiments.create(Experiment("starts", "shop", TWO, layer="one", slots=(0, 3_000)), change=Change(START))
    experiments.schedule("starts", revision=1, starts_at=START + timedelta(hours=1), change=Change(START))
    end = START + timedelta(hours=2)
    experiments.create(
        Experiment("ends", "shop", TWO, layer="one", slots=(3_000, 6_000), ends_at=end), change=Change(START)
    )
    ramp = Ramp((0.1, 0.5), hold_s=3_600.0)
    experiments.create(
        Experiment("grows", "shop", TWO, layer="one", slots=(6_000, 10_000), ramp=ramp), change=Change(START)
    )
    for name in ("ends", "grows"):
        experiments.start(name, revision=1, change=Change(START))


def test_what_is_due_is_known_without_reading(tmp_path: Path) -> None:
    """Starts, ends and steps are due from their moment on."""
    with open_shop(tmp_path) as service:
        _planned(service)
        assert due(service.database, at=START + timedelta(minutes=59)) == frozenset()
        assert due(service.database, at=START + timedelta(hours=1)) == {"starts", "grows"}
        assert due(service.database, at=START + timedelta(hours=2)) == {"starts", "grows", "ends"}


def test_a_job_is_started_for_what_is_new_and_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stays due is looked at again after minutes and not at every round; with somebody to tell, so are verdicts."""
    with open_shop(tmp_path) as service:
        jobs: list[Settings] = []
        watch = Watch(load_settings(None, home=tmp_path), service.database, jobs.append)
        assert not watch.look()
        _planned(service)  # whose moments are long over
        assert watch.look()
        assert not watch.look()
        monkeypatch.setattr(watching, "AGAIN_S", 0.0)
        assert watch.look()
        assert len(jobs) == 2
        for name, revision in (("ends", 2), ("grows", 2)):
            service.experiments.stop(name, revision=revision, change=Change(START))
        service.experiments.unschedule("starts", revision=2, change=Change(START))
        assert not watch.look()
        told = load_settings(None, home=tmp_path, telegram_token="1:x", telegram_chat="-1")
        assert Watch(told, service.database, jobs.append).look()


def test_settings_go_through_a_pipe(tmp_path: Path) -> None:
    """Secrets, paths and lists arrive in another process as they were."""
    settings = load_settings(
        None, home=tmp_path, alert_secret="a secret of the tests", smtp_ca_file=tmp_path / "ca.pem", alert_email_to=("a@b.c", "d@e.f")
    )  # fmt: skip
    assert from_plain(as_plain(settings)).model_dump() == settings.model_dump()


@pytest.mark.slow
def test_the_job_does_what_is_due(tmp_path: Path) -> None:
    """A real process starts, ends, and says why a ramp waits; each is news."""
    with open_shop(tmp_path) as service:
        _planned(service)
        start_job(load_settings(None, home=tmp_path))
        states = {e.id: e.state for e in service.experiments.list()}
        assert states == {"starts": "running", "ends": "stopped", "grows": "running"}
        assert {m.topic for m, _ in newest(service.database)} == {
            "experiment starts started", "experiment ends stopped", "experiment grows held",
        }  # fmt: skip


_ROUND = """
import sys
from datetime import datetime
from api.alerts.looking import Habits, look_after
from engine.store.database import Database
with Database(sys.argv[1]) as database:
    print("ready", flush=True)
    sys.stdin.readline()
    at = datetime.fromisoformat(sys.argv[2])
    for _ in range(3):
        look_after(database, Habits(), at=at, now=at, in_simulation=False)
"""


def check_once(service: DecisionService) -> None:
    """Four processes that all believe to be the one do everything once."""
    _planned(service)
    url = service.database.url.render_as_string(hide_password=False)
    at = (START + timedelta(days=1)).isoformat()
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ROUND, url, at], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.communicate("go\n", timeout=60)
        assert process.returncode == 0
    rows = [(r.what, r.action) for r in read_audit(service.database) if r.actor == "schedule"]
    assert rows.count(("experiment starts", "start")) == 1
    assert rows.count(("experiment ends", "stop")) == 1
    assert ("experiment grows", "ramp") not in rows  # nobody has seen it yet
    topics = [m.topic for m, _ in newest(service.database)]
    assert sorted(topics) == ["experiment ends stopped", "experiment grows held", "experiment starts started"]


@pytest.mark.slow
def test_processes_at_once_do_each_thing_once(tmp_path: Path) -> None:
    """On SQLite: revisions and unique numbers hold even where no claim keeps processes apart."""
    with open_shop(tmp_path) as service:
        check_once(service)
