"""From experiments to messages: verdicts, what happens by itself, the weekly digest."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from api.alerts.digest import digest, due_at
from api.alerts.looking import Habits, look_after
from api.alerts.telegram import Telegram
from api.alerts.webhook import Webhook
from api.cli.main import run
from engine.alerts.outbox import newest
from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.automation import tick
from engine.experiments.controls import set_controls
from engine.experiments.keeper import Keeper
from engine.experiments.reading import take_reading
from engine.experiments.records import Experiment, Plan, Ramp
from engine.store.changes import Change
from engine.store.database import Database, sqlite_url
from engine.store.ownership import ownership_of
from policies.allocation import Variant
from policies.errors import StoreUnavailableError
from tests.api.alerts.servers import http_server
from tests.engine.service_world import START, Clock, open_shop

TWO = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
PLAN = Plan(
    planned_subjects=400,
    effect=0.1,
    n_looks=1,
    currency="₽",
    visitors_per_day=50.0,
    visitors_per_month=3_000.0,
)
NOW = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DecisionService, datetime]]:
    """An experiment that has found its winner, one without a plan, a draft and one that starts later; and the time."""
    clock = Clock()
    rng = np.random.default_rng(4)
    with open_shop(tmp_path_factory.mktemp("shop"), clock=clock) as service:
        experiments = service.experiments
        experiments.create(
            Experiment("spring", "shop", TWO, plan=PLAN, layer="one", slots=(0, 9_000)), change=Change(START)
        )
        experiments.create(Experiment("aside", "shop", TWO, layer="one", slots=(9_000, 10_000)), change=Change(START))
        for name in ("spring", "aside"):
            experiments.start(name, revision=1, change=Change(START))
        experiments.create(Experiment("idea", "shop", TWO), change=Change(START))
        experiments.create(Experiment("later", "shop", TWO, layer="two"), change=Change(START))
        experiments.schedule("later", revision=1, starts_at=START + timedelta(days=300), change=Change(START))
        service.refresh()
        visitors = [DecisionRequest("shop", f"u{i}", at=START + timedelta(hours=2 * i)) for i in range(600)]
        clock.forward(hours=1_201)
        told = []
        for answer in service.decide_many(visitors[:300]) + service.decide_many(visitors[300:]):
            decision = answer.decision
            if rng.random() < (0.6 if decision.variant == "new" else 0.2):
                told.append(OutcomeRequest(decision.subject, "subscribed", at=decision.at + timedelta(hours=1)))
                told.append(OutcomeRequest(decision.subject, "margin_eur", 9_000.0 + rng.normal(), at=decision.at))
        service.outcome_many(told)
        yield service, clock.now


@pytest.mark.slow
def test_the_digest_says_what_to_do_in_both_languages(shop: tuple[DecisionService, datetime]) -> None:
    """What needs somebody, what the week brought with its limits, and what runs: in words and money, the same in Russian."""
    service, at = shop
    set_controls(service.database, change=Change(at), needs_approval=True)
    try:
        news = digest(service.database, at=at, in_simulation=False, link="https://console.example.com/")
    finally:
        set_controls(service.database, change=Change(at), needs_approval=False)
    assert news is not None
    english, russian = news.texts["en"], news.texts["ru"]
    assert english.title == f"Nextoffer, week to {at.date()}: 2 experiments run, 3 need you"
    assert "spring: Ship new: " in english.body
    assert "more subscriptions (between" in english.body
    assert "https://console.example.com/experiments/spring" in english.body
    assert "aside: no plan was fixed" in english.body
    assert "idea: a draft that waits" in english.body
    assert "later: 2026-12-26 12:00 UTC" in english.body
    week = next(line for line in english.body.splitlines() if line.startswith("· spring, new: +"))
    assert "visitors" in week
    assert "thousand ₽" in english.body
    assert "% of the planned information" in english.body
    assert russian.title.startswith(f"Nextoffer, неделя до {at.date()}: идут 2 эксперимента, ждут вас: 3")
    assert "Выпускайте new" in russian.body
    assert "тыс. ₽" in russian.body
    assert not {"thousand", "million", "visitors", "subscriptions", "margin"} & set(
        russian.body.replace("\u00a0", " ").split()
    )
    gained = next(g for g in news.document["gains"] if g["experiment"] == "spring")
    assert gained["low"] < gained["estimate"] < gained["high"]
    assert (gained["metric"], gained["treatment"]) == ("conversion", "new")


@pytest.mark.slow
def test_the_gain_of_the_week_is_the_difference_times_the_visitors(shop: tuple[DecisionService, datetime]) -> None:
    """By hand: visitors of the new variant in seven days, times the difference of the two rates so far."""
    service, at = shop
    news = digest(service.database, at=at, in_simulation=False)
    assert news is not None
    gained = next(g for g in news.document["gains"] if g["experiment"] == "spring")
    rows = service.database.rows("SELECT variant, exposed_us, subscribed FROM exposures WHERE experiment = 'spring'")
    now_us = at.timestamp() * 1e6
    matured = [(v, s) for v, us, s in rows if us // 3_600e6 * 3_600e6 + 3_600e6 + 7 * 86_400e6 <= now_us]
    rate = {v: np.mean([s for w, s in matured if w == v]) for v in ("control", "new")}
    n = sum(v == "new" and us // 3_600e6 > (now_us - 7 * 86_400e6) // 3_600e6 for v, us, _ in rows)
    assert gained["visitors"] == n
    assert gained["estimate"] == pytest.approx(n * (rate["new"] - rate["control"]))


def test_the_digest_is_due_on_its_day_and_for_two_more() -> None:
    """Due from its hour on, late for two days, and then left out; never where nobody wants one."""
    monday = datetime(2026, 3, 2, 7, tzinfo=UTC)
    assert due_at(monday, day="monday", hour=7) == monday
    assert due_at(monday - timedelta(seconds=1), day="monday", hour=7) is None
    assert due_at(monday + timedelta(hours=47), day="monday", hour=7) == monday
    assert due_at(monday + timedelta(hours=48), day="monday", hour=7) is None
    assert due_at(monday, day="sunday", hour=8) == monday - timedelta(hours=23)
    assert due_at(monday, day="never", hour=7) is None


@pytest.mark.slow
def test_each_channel_hears_of_everything_once(shop: tuple[DecisionService, datetime]) -> None:
    """A verdict and the digest reach a webhook and a chat once each over several rounds, though the chat fails at first."""
    service, at = shop
    with http_server() as hook, http_server() as chat:
        chat.statuses = [502]
        channels = (Webhook(hook.url, "a secret of the tests"), Telegram("1:x", "-1", chat.url, "ru"))
        habits = Habits(channels, at.strftime("%A").lower(), at.hour)
        for minutes in (0, 1, 3, 30):
            look_after(service.database, habits, at=at, now=NOW + timedelta(minutes=minutes), in_simulation=True)
    assert [b["type"] for b in hook.bodies()] == ["experiment.verdict", "digest"]
    assert (hook.bodies()[0]["decision"], hook.bodies()[0]["in_simulation"]) == ("ship", True)
    assert "(In simulation.)" in hook.bodies()[0]["text"]
    said = [b["text"].split(":")[0] for b in chat.bodies()]
    assert sorted(set(said)) == ["Nextoffer, неделя до " + str(at.date()), "spring"]
    assert len(said) == 3  # one of them twice: the first attempt was refused


def test_what_could_not_be_done_is_told(tmp_path: Path) -> None:
    """A start that its placement has no room for is told once, with the reason; a start that worked is told too."""
    with open_shop(tmp_path) as service:
        experiments = service.experiments
        for name in ("first", "second"):
            experiments.create(Experiment(name, "shop", TWO), change=Change(START))
            experiments.schedule(name, revision=1, starts_at=START + timedelta(hours=1), change=Change(START))
        for hours in (2, 3, 4):
            look_after(service.database, Habits(), at=START + timedelta(hours=hours), now=NOW, in_simulation=False)
        told = {m.topic: m.text("en") for m, _ in newest(service.database)}
    assert set(told) == {"experiment first started", "experiment second refused"}
    assert "first" in told["experiment second refused"].body


def test_a_start_whose_round_was_cut_off_is_told_by_the_next(tmp_path: Path) -> None:
    """What began or ended by itself is told although the process died before it could, and once; what a person did is not."""
    with open_shop(tmp_path) as service:
        experiments = service.experiments
        for name, slots in (("mine", (0, 5_000)), ("planned", (5_000, 10_000))):
            experiments.create(Experiment(name, "shop", TWO, layer="one", slots=slots), change=Change(START))
        experiments.start("mine", revision=1, change=Change(START, "ann"))
        experiments.schedule("planned", revision=1, starts_at=START + timedelta(hours=1), change=Change(START))
        assert [h.kind for h in tick(service.database, at=START + timedelta(hours=1))] == ["started"]
        for hours in (2, 3, 24 * 4):
            at = START + timedelta(hours=hours)
            look_after(service.database, Habits(), at=at, now=NOW, in_simulation=False)
        assert [m.topic for m, _ in newest(service.database)] == ["experiment planned started"]


def test_an_experiment_that_cannot_be_read_holds_up_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged and named in the digest as something that needs somebody; what waits is sent."""
    with open_shop(tmp_path) as service, http_server() as hook:
        experiments = service.experiments
        experiments.create(
            Experiment("broken", "shop", TWO, ramp=Ramp((0.5, 1.0), hold_s=3_600.0)), change=Change(START)
        )
        experiments.start("broken", revision=1, change=Change(START))
        service.refresh()
        service.decide_many([DecisionRequest("shop", f"u{i}", at=START + timedelta(minutes=i)) for i in range(60)])
        at = START + timedelta(days=1)
        take_reading(service.database, experiments.get("broken"), as_of=at, in_simulation=False)
        with service.database.writing() as connection:
            connection.execute(text("UPDATE experiment_cells SET sum_margin = 'no number'"))
        habits = Habits((Webhook(hook.url, "a secret of the tests"),), at.strftime("%A").lower(), at.hour)
        look_after(service.database, habits, at=at, now=NOW, in_simulation=False)
    (told,) = hook.bodies()
    assert (told["type"], told["needs_you"]) == ("digest", ["broken"])
    assert "broken: it could not be read" in told["text"]
    assert "experiment broken could not be read" in caplog.text


@pytest.mark.slow
def test_one_process_looks_after_and_another_when_it_died(tmp_path: Path) -> None:
    """Of two processes over a store one does the rounds; killed, it leaves them to the other."""
    with open_shop(tmp_path) as service:
        program = (
            "import sys\nfrom engine.experiments.keeper import Keeper\nfrom engine.store.ownership import ownership_of\n"
            "from engine.store.database import Database\n"
            "keeper = Keeper(ownership_of(Database(sys.argv[1])), lambda: None)\n"
            "print(keeper.round(), flush=True)\nsys.stdin.read()"
        )
        url = service.database.url.render_as_string(hide_password=False)
        with subprocess.Popen(
            [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline().strip() == "True"
            done: list[int] = []
            mine = Keeper(ownership_of(service.database), lambda: done.append(1))
            assert not mine.round()
            other.kill()
            other.wait()
            assert mine.round()
            assert done == [1]


def test_a_round_that_fails_is_not_the_last(tmp_path: Path) -> None:
    """While the store is away a round fails and is logged; the next one works. One that gives its claim back lets others in."""
    with Database(sqlite_url(tmp_path / "store.db")) as database:
        rounds: list[str] = []
        stop = threading.Event()

        def work() -> None:
            rounds.append("round")
            if len(rounds) == 1:
                raise StoreUnavailableError("away")
            if len(rounds) == 2:
                raise ValueError("a fault of ours")
            stop.set()

        Keeper(ownership_of(database), work).run(stop, every_s=0.001)
        assert len(rounds) == 3
        polite, other = (
            Keeper(ownership_of(database), lambda: None, keeps=False),
            Keeper(ownership_of(database), lambda: None),
        )
        assert polite.round()
        assert other.round()
        assert not polite.round()


def test_the_command_tries_all_channels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``nextoffer console test-alert`` says for each channel what became of a message, and 1 where one failed."""
    with open_shop(tmp_path):
        pass
    config = tmp_path / "config.toml"
    with http_server() as hook, http_server() as chat:
        config.write_text(
            f'home = "{tmp_path}"\nalert_url = "{hook.url}"\nalert_secret = "a secret of the tests"\n'
            + f'telegram_token = "1:x"\ntelegram_chat = "-1"\ntelegram_url = "{chat.url}"\n',
            encoding="utf-8",
        )
        assert run(["console", "test-alert", "--config", str(config)]) == 0
        chat.statuses = [403]
        assert run(["console", "test-alert", "--config", str(config)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in said[:3]] == ["taken"] * 3
    assert "403: Forbidden: bot was blocked" in said[3]
    config.write_text(f'home = "{tmp_path}"\n', encoding="utf-8")
    assert run(["console", "test-alert", "--config", str(config)]) == 2
