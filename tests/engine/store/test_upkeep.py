"""Erasure and retention: persons go, aggregates stay; old facts move to files and nothing is lost on the way."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from engine.decisions.requests import DecisionRequest, EventRequest, IdentifyRequest, OutcomeRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.experiments.records import Experiment
from engine.experiments.results import experiment_results
from engine.learner.audit import ERASED, audit
from engine.store.changes import Change
from engine.store.cold import read_cold
from engine.store.retention import oldest_offset, retain
from engine.subjects.erasure import PREFIX, erased_offsets, pseudonyms
from policies.allocation import Variant
from policies.errors import ConflictError, InvalidInputError, MovedAwayError
from tests.engine.learner.test_learner import Lab
from tests.engine.service_world import SECRET, START, Clock, exported, open_shop

LATER = START + timedelta(days=80)


def busy(folder: Path, clock: Clock) -> DecisionService:
    """A shop with an experiment, a login, and facts of all kinds."""
    service = open_shop(folder, clock=clock)
    service.experiments.create(
        Experiment("e1", "shop", (Variant("a", 5_000, "baseline"), Variant("b", 5_000, "baseline"))),
        change=Change(clock.now),
    )
    service.experiments.start("e1", revision=1, change=Change(clock.now))
    service.refresh()
    service.subjects.load_traits({"anna@example.org": {"age": 40.0}}, at=clock.now)
    for i in range(24):
        clock.forward(hours=1)
        subject = ["anon-7", "anna@example.org", "b", "c"][i % 4]
        service.decide(DecisionRequest("shop", subject, {"x": float(i), "city": "Köln"}, id=f"{subject}:{i}"))
        service.event(EventRequest(subject, "view", f"p{i}", id=f"e{i}"))
        service.reward(RewardRequest(f"{subject}:{i}", "subscribed", float(i)))
        if i % 3 == 0:
            service.outcome(OutcomeRequest(subject, "subscribed", 1.0))
    service.identify(IdentifyRequest("anon-7", "anna@example.org"))
    return service


def test_an_erased_person_is_nowhere_and_aggregates_stay(tmp_path: Path) -> None:
    """No byte of the store names the person or its features; counts, rewards and experiment results are as before."""
    clock = Clock()
    with busy(tmp_path, clock) as service:
        before = exported(service.database, "shop", as_of=LATER)
        results = experiment_results(service.database, "e1", as_of=LATER)
        found = service.erase("anon-7", actor="test")
        assert (found.n_ids, found.n_decisions, found.n_events, found.n_outcomes) == (2, 12, 12, 4)
        after = exported(service.database, "shop", as_of=LATER)
        for name in ("chosen", "propensity", "reward", "variants", "phases"):
            assert getattr(after, name).tolist() == getattr(before, name).tolist(), name
        again = experiment_results(service.database, "e1", as_of=LATER)
        assert sorted(zip(again.variants, again.subscribed, again.kept, strict=True)) == sorted(
            zip(results.variants, results.subscribed, results.kept, strict=True)
        )
        assert service.status("shop").n_rewards == 24
        assert pseudonyms(service.database) == {found.pseudonym}
        assert found.pseudonym.startswith(PREFIX)
        assert len(erased_offsets(service.database)) == 12
        mine = service.database.rows("SELECT body FROM decisions WHERE subject = :s", s=found.pseudonym)
        assert all(orjson.loads(b)["x"] == {} and orjson.loads(b)["p"] for (b,) in mine)
        with pytest.raises(ConflictError):
            service.event(EventRequest("anna@example.org", "view", "p1", id="e1"))
        assert service.get_decision("b:2").context == {"x": 2.0, "city": "Köln"}
    content = b"".join(p.read_bytes() for p in tmp_path.glob("nextoffer.db*"))
    assert b"anna@example.org" not in content
    assert b"anon-7" not in content


def test_an_erased_person_may_come_back_as_somebody_new(tmp_path: Path) -> None:
    """After an erasure the same id starts from nothing, and can be erased again."""
    clock = Clock()
    with busy(tmp_path, clock) as service:
        service.erase("anna@example.org")
        service.decide(DecisionRequest("shop", "anna@example.org", {"x": 1.0}, id="new"))
        assert service.get_decision("new").context == {"x": 1.0}
        assert service.subjects.recent("anna@example.org", as_of=clock.now) == []
        assert service.identify(IdentifyRequest("anon-7", "anna@example.org")).status == "recorded"
        assert service.erase("anon-7").n_decisions == 1
        assert service.erase("nobody").n_decisions == 0


@pytest.mark.slow
def test_an_audit_names_erased_rows_and_goes_on_from_the_next_snapshot(tmp_path: Path) -> None:
    """Draws of an erased subject and snapshots learned from it are named; all others are recomputed to the bit."""
    lab = Lab(tmp_path)
    learner = lab.learner()
    for n in (70, 40, 50):
        lab.traffic(n)
        learner.tick()
        learner.publish()
        lab.service.policies.follow()
    # A subject whose decisions lie in the last tick only.
    first = lab.service.database.rows("SELECT first_offset, end_offset FROM learner_ticks ORDER BY number")
    rows = lab.service.database.rows(
        "SELECT id FROM decisions WHERE ledger_offset >= :a AND ledger_offset < :b LIMIT 1",
        a=first[1][0],
        b=first[1][1],
    )
    with lab.service.database.writing() as connection:
        connection.exec_driver_sql(f"UPDATE decisions SET subject = 'alone' WHERE id = '{rows[0][0]}'")
    lab.service.erase("alone")
    found = audit(lab.service.database, lab.service.policies, secret=SECRET)
    assert found.is_clean
    assert (found.n_decisions, found.n_recomputed, found.n_erased) == (160, 159, 1)
    assert (found.n_snapshots, found.n_other_snapshots) == (2, 0)
    assert any(ERASED in reason for reason in found.not_recomputed)
    lab.service.close()


def test_old_facts_move_to_the_cold_path_and_ids_stay(tmp_path: Path) -> None:
    """Events and bodies older than some days lie in files, row by row as they were; a retry still meets its id."""
    clock = Clock()
    cold = tmp_path / "cold"
    with busy(tmp_path, clock) as service:
        database = service.database
        events = database.rows("SELECT * FROM events WHERE at_us < :t", t=_us(clock, hours=10))
        bodies = database.rows("SELECT id, body FROM decisions WHERE at_us < :t", t=_us(clock, hours=10))
        with pytest.raises(InvalidInputError, match="waits 30 days"):
            retain(database, what="decisions", days=1, now=clock.now, cold=cold)
        now = clock.now + timedelta(days=30)
        moved = retain(database, what="events", days=30 + 10 / 24, now=now, cold=cold)
        assert (moved.n_rows, moved.n_files) == (len(events), 1)
        assert retain(database, what="events", days=30 + 10 / 24, now=now, cold=cold).n_rows == 0
        assert [tuple(r.values()) for r in read_cold(cold, "events").to_pylist()] == events
        moved = retain(database, what="decisions", days=30 + 10 / 24, now=now, cold=cold)
        assert moved.n_rows == len(bodies) > 10
        assert [(r["id"], r["body"]) for r in read_cold(cold, "decisions").to_pylist()] == bodies
        assert oldest_offset(database) == moved.below_offset
        with pytest.raises(MovedAwayError, match="cold path"):
            service.get_decision(bodies[0][0])
        with pytest.raises(ConflictError):
            service.decide(DecisionRequest("shop", "b", id=bodies[0][0]))
        batch = exported(database, "shop", as_of=LATER)
        assert len(batch) == 24 - len(bodies)
        assert service.status("shop").n_decisions == 24
        assert service.erase("anna@example.org").n_cold_files == 2
        assert "anna@example.org" not in str(read_cold(cold, "decisions").to_pylist())
        assert len(read_cold(cold, "decisions")) == len(bodies)
        assert "anna@example.org" not in str(read_cold(cold, "events").to_pylist())


@pytest.mark.slow
def test_bodies_wait_for_the_learner(tmp_path: Path) -> None:
    """Retention stops before the first decision that its learner has not learned from."""
    lab = Lab(tmp_path)
    lab.traffic(70)
    learner = lab.learner()
    learner.tick()
    end = lab.service.database.rows("SELECT max(end_offset) FROM learner_ticks")[0][0]
    lab.traffic(200)
    moved = retain(
        lab.service.database,
        what="decisions",
        days=31,
        now=lab.clock.now + timedelta(days=60),
        cold=tmp_path / "cold",
    )
    next_one = lab.service.database.rows("SELECT min(ledger_offset) FROM decisions WHERE ledger_offset >= :e", e=end)
    assert moved.below_offset == next_one[0][0]
    lab.service.close()


def _us(clock: Clock, *, hours: float) -> int:
    return round((clock.now - timedelta(hours=hours)).timestamp() * 1e6)
