"""The monitor: its command, what it tells whom, what Prometheus and Grafana read."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest

from api.alerts.health import news_of, tell_health
from api.cli.main import run
from api.metrics import Metrics
from api.monitoring import HealthMetrics
from api.monitoring import run as keep_looking
from engine.alerts.outbox import newest
from engine.decisions.requests import DecisionRequest
from engine.monitoring.alarms import ALARMS
from engine.monitoring.episodes import Episode, follow
from engine.monitoring.health import check_health
from engine.monitoring.records import Check, Figure, HealthReport
from policies.errors import StoreUnavailableError
from tests.engine.service_world import START, Clock, open_shop, shop

DEPLOY = Path(__file__).parents[2] / "deploy"


def _home(folder: Path, *, wrong: int) -> Path:
    """A store with 60 pages, some of which have shown another offer."""
    home = folder / "home"
    with open_shop(
        home, clock=Clock(START + timedelta(days=365 * 3)), placements=(shop(explore_share=0.5),)
    ) as service:
        answers = service.decide_many([DecisionRequest("shop", f"u{i}") for i in range(60)])
        for i, answer in enumerate(answers):
            other = "b" if answer.decision.offer == "a" else "a"
            service.activate(answer.decision.id, shown=other if i < wrong else answer.decision.offer)
    return home


def test_the_command_says_what_rings_and_exits_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table and 1 where an alarm rings; JSON for programs; a placement that is not there is wrong usage."""
    home = _home(tmp_path, wrong=30)
    (tmp_path / "sandbox.toml").write_text(f'mode = "sandbox"\nhome = "{home}"\n')
    config = ["--config", str(tmp_path / "sandbox.toml")]
    assert run(["monitor", *config]) == 1
    text = capsys.readouterr().out
    assert re.search(r"RINGS +shown +0\.5 / 0\.02 +30 of 60 pages", text)
    assert run(["monitor", "shop", "--json", *config]) == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert report["ringing"] == ["shown"]
    assert report["is_integrity_broken"] is True
    assert run(["monitor", "shoop", *config]) == 2
    assert "shop" in capsys.readouterr().err
    assert run(["monitor", "--metrics-port", "0", *config]) == 2
    with (tmp_path / "sandbox.toml").open("a") as file:
        file.write("[alarm_thresholds]\nshown_share = 0.6\n")
    assert run(["monitor", *config]) == 0
    assert "RINGS" not in capsys.readouterr().out


@pytest.mark.slow
def test_thresholds_of_the_settings_hold_for_retraining_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What an operator has said to be no fault of the log does not keep anything from learning."""
    settings = tmp_path / "sandbox.toml"
    settings.write_text(f'mode = "sandbox"\nhome = "{_home(tmp_path, wrong=30)}"\n')
    command = ["retrain", "shop", "--as-of-log", "--no-simulator", "--config", str(settings)]
    assert run(command) != 0
    assert "nothing is learned while the log is not what happened: 30 of 60 pages" in capsys.readouterr().err
    settings.write_text(settings.read_text() + "[alarm_thresholds]\nshown_share = 0.9\n")
    assert run(command) != 0
    assert "no decision of placement 'shop' has a closed window" in capsys.readouterr().err


@pytest.mark.slow
def test_as_a_process_it_answers_prometheus_and_ends_when_told(tmp_path: Path) -> None:
    """It looks every so often, exposes alarms by placement, and ends with 0."""
    home = _home(tmp_path, wrong=30)
    command = [sys.executable, "-m", "api.cli", "monitor", "--every", "1", "--metrics-port", "0", "--home", str(home)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(x for x in process.stderr if x.startswith("metrics on "))
        text = ""
        for _ in range(120):
            text = urllib.request.urlopen(line.split()[-1], timeout=30).read().decode()
            if 'nextoffer_health_decisions{placement="shop"}' in text:
                break
            time.sleep(0.25)
        assert 'nextoffer_alarm{alarm="shown",placement="shop"}' in text
        assert "nextoffer_health_failed 0.0" in text
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 0


def test_an_alarm_is_told_once_an_episode(tmp_path: Path) -> None:
    """However often it is found to ring, one message; one more when it is over; the next episode is told again."""
    with open_shop(tmp_path) as service:
        database = service.database

        def look(hour: float, state: str) -> None:
            check = Check("silence", state, "Nothing has come.")  # type: ignore[arg-type]  # as written by the test
            at = START + timedelta(hours=hour)
            tell_health(database, HealthReport("shop", at, (check,)), now=at, quiet_hours=6)

        for hour, state in (
            (0, "ok"),
            (1, "ringing"),
            (2, "ringing"),
            (3, "ok"),
            (9, "ok"),
            (10, "ok"),
            (20, "ringing"),
        ):
            look(hour, state)
        told = [m for m, _ in newest(database)][::-1]
        assert [m.kind for m in told] == ["alarm.rings", "alarm.over", "alarm.rings"]
        assert told[0].texts["en"].title == "shop: Rewards or outcomes have stopped"
        assert told[0].texts["ru"].title == "shop: Награды или исходы перестали приходить"
        assert told[0].document["alarm"] == "silence"


def test_that_an_alarm_is_over_is_told_although_a_round_was_cut_off(tmp_path: Path) -> None:
    """Where the process died between the end of an episode and its news, the next round tells it, once."""
    with open_shop(tmp_path) as service:
        database = service.database

        def report(hour: float, state: str) -> HealthReport:
            check = Check("silence", state, "Nothing has come.")  # type: ignore[arg-type]  # as written by the test
            return HealthReport("shop", START + timedelta(hours=hour), (check,))

        tell_health(database, report(0, "ringing"), now=START, quiet_hours=6)
        _, ended = follow(database, report(7, "ok"), quiet=timedelta(hours=6))
        assert len(ended) == 1
        for hour in (8, 9, 24 * 4):
            tell_health(database, report(hour, "ok"), now=START, quiet_hours=6)
        assert [m.kind for m, _ in newest(database)] == ["alarm.over", "alarm.rings"]


def test_news_leads_to_the_page_of_the_placement() -> None:
    """With the console's address in the settings the message ends with a link, and always names the page on what to do."""
    episode = Episode("sh/op", "clock", START, START, None, "An hour off.")
    text = news_of(episode, link="https://offers.example.org/").texts["en"].body
    assert "docs/howto/alarms/clock.md" in text
    assert text.endswith("https://offers.example.org/health?placement=sh%2Fop")


def _families() -> set[str]:
    """Names of all series that server and monitor expose."""
    metrics = HealthMetrics()
    metrics.show(
        [HealthReport("shop", START, (), 1, (Figure("health_draws", {"policy": "p", "offer": "a"}, 3.0),))], n_failed=0
    )
    server = Metrics(lambda: 0)
    server.observe("decide", 200, 0.001)
    text = generate_latest(metrics.registry).decode() + server.render()[0].decode()
    return set(re.findall(r"^# TYPE (\S+) ", text, flags=re.MULTILINE)) | {
        name.partition("{")[0].split(" ")[0] for name in text.splitlines() if not name.startswith("#")
    }


def _expressions() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    found = [r["expr"] for g in rules["groups"] for r in g["rules"]]
    dashboard: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "nextoffer.json").read_text())
    found += [t["expr"] for p in dashboard["panels"] for t in p.get("targets", ())]
    found += [v["query"]["query"] for v in dashboard["templating"]["list"]]
    return found


def test_rules_and_dashboard_ask_for_what_there_is() -> None:
    """Every series that a rule or a panel names is exposed, and every alarm is in exactly one rule."""
    known = _families()
    asked = {name for e in _expressions() for name in re.findall(r"\bnextoffer_\w+", e)}
    assert asked
    assert asked - known == set()
    rules = "\n".join(_expressions())
    named = [n for group in re.findall(r'alarm=~"([^"]+)"', rules) for n in group.split("|")]
    assert sorted(named) == sorted(a.name for a in ALARMS)


def test_promtool_has_nothing_to_say() -> None:
    """Rules and scrape configuration are what Prometheus reads."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("missing tool: promtool")
    for what, name in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        done = subprocess.run(
            [promtool, "check", what, str(DEPLOY / "prometheus" / name)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_report_as_metrics_says_what_rings(tmp_path: Path) -> None:
    """Alarms are 1, 0.5 or 0; values come with their limits; a placement that is gone is no longer shown."""
    with open_shop(tmp_path, clock=Clock()) as service:
        report = check_health(service.database, "shop", START)
    metrics = HealthMetrics()
    checks = (
        Check("silence", "ringing", "", 30.0, 20.0),
        Check("calibration", "explained", "", 0.9, 0.25),
        Check("drift", "unknown", ""),
    )
    metrics.show([HealthReport("shop", START, checks, 5, report.figures)], n_failed=2)
    text = generate_latest(metrics.registry).decode()
    assert 'nextoffer_alarm{alarm="silence",placement="shop"} 1.0' in text
    assert 'nextoffer_alarm{alarm="calibration",placement="shop"} 0.5' in text
    assert 'nextoffer_alarm{alarm="drift",placement="shop"} 0.0' in text
    assert 'nextoffer_alarm_limit{alarm="silence",placement="shop"} 20.0' in text
    assert "nextoffer_health_failed 2.0" in text
    metrics.show([], n_failed=0)
    assert 'placement="shop"' not in generate_latest(metrics.registry).decode()


def test_a_store_that_is_away_for_a_while_does_not_end_the_monitor(tmp_path: Path) -> None:
    """The next turn is taken all the same; meanwhile the last reports stay, and that nothing could be read is a figure."""
    with open_shop(tmp_path) as service:
        report = check_health(service.database, "shop", START)
    metrics, stop = HealthMetrics(), threading.Event()
    told: list[bytes] = []

    def turn() -> tuple[list[HealthReport], int]:
        told.append(generate_latest(metrics.registry))
        if len(told) == 2:
            raise StoreUnavailableError("the store does not answer")
        if len(told) == 3:
            raise ValueError("a fault of ours")
        if len(told) == 5:
            stop.set()
        return [report], 0

    keep_looking(turn, metrics, stop, every_s=0.0)
    failed = [float(re.search(rb"\nnextoffer_health_failed (\S+)", t)[1]) for t in told]  # type: ignore[index]  # it is there
    assert failed == [0.0, 0.0, 1.0, 1.0, 0.0]
    assert b'nextoffer_alarm{alarm="shown",placement="shop"}' in told[2]
