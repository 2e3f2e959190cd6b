"""The rollup: what counts as seen, and that working facts in one by one gives what working out all of them gives."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from engine.decisions.requests import DecisionRequest, IdentifyRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments import rollup
from engine.experiments.reading import take_reading
from engine.experiments.records import Experiment, Plan
from engine.experiments.results import experiment_results
from engine.store import tables
from engine.store.changes import Change
from engine.store.facts import void_row
from policies.allocation import Variant
from policies.errors import ConflictError, InvalidInputError
from tests.engine.service_world import START, Clock, open_shop

TWO = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "baseline"))


def _started(service: DecisionService, **rest: object) -> Experiment:
    draft = Experiment("e1", "shop", TWO, **rest)  # type: ignore[arg-type]
    service.experiments.create(draft, change=Change(START))
    started = service.experiments.start("e1", revision=1, change=Change(START))
    service.refresh()
    return started


def test_seen_is_what_was_activated_at_the_time_it_was(tmp_path: Path) -> None:
    """A decision never activated, or taken back, exposes nobody; one activated later exposes from then on."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        _started(service)
        service.decide(DecisionRequest("shop", "seen"))
        late = service.decide(DecisionRequest("shop", "late", is_activated=False)).decision
        service.decide(DecisionRequest("shop", "never", is_activated=False))
        gone = service.decide(DecisionRequest("shop", "void")).decision
        service.writer.submit([void_row(gone.id, clock.now)]).result(5)
        service.outcome(OutcomeRequest("late", "subscribed", id="before", at=clock.now))
        seen_at = clock.forward(hours=3)
        service.activate(late.id, at=seen_at)
        found = experiment_results(service.database, "e1", as_of=clock.forward(days=60))
        assert found.subjects.tolist() == ["seen", "late"]
        assert found.exposed_at[1] == np.datetime64(seen_at.replace(tzinfo=None), "us")
        assert found.subscribed.tolist() == [0, 0]  # it subscribed before it saw anything


def _live(service: DecisionService, clock: Clock, rng: np.random.Generator, n: int) -> None:
    """Visitors of every kind, and facts in any order."""
    for _ in range(n):
        subject = f"u{rng.integers(0, n)}"
        clock.forward(minutes=int(rng.integers(1, 90)))
        at = clock.now
        kind = rng.integers(0, 6)
        features = {"device": ("phone", "desk")[int(rng.integers(0, 2))], "age": float(rng.integers(20, 60))}
        if kind <= 2:
            answer = service.decide(DecisionRequest("shop", subject, features, is_activated=bool(kind)))
            if not kind and rng.random() < 0.5:
                service.activate(answer.decision.id, at=at + timedelta(minutes=int(rng.integers(0, 500))))
        elif kind == 3:
            moment = at + timedelta(hours=int(rng.integers(-150, 150)))
            service.outcome(OutcomeRequest(subject, "subscribed", id=f"s{at}", at=moment))
        elif kind == 4:
            service.outcome(OutcomeRequest(subject, "margin_eur", float(rng.normal(5, 3)), id=f"m{at}", at=at))
            service.outcome(OutcomeRequest(subject, "active_30d", id=f"k{at}", at=at + timedelta(days=30)))
            service.outcome(OutcomeRequest(subject, "revenue_eur", float(rng.lognormal(2, 2)), id=f"r{at}", at=at))
            service.outcome(
                OutcomeRequest(subject, "cancelled", id=f"c{at}", at=at + timedelta(hours=int(rng.integers(0, 900))))
            )
        elif rng.random() < 0.5:
            other = f"u{rng.integers(0, n)}"
            with suppress(ConflictError, InvalidInputError):  # the same id again, or a circle
                service.identify(IdentifyRequest(other, subject))


def stored(service: DecisionService) -> list[list[tuple[object, ...]]]:
    """Rows of subjects, cells, values and stays, each in order of its key."""
    derived = (tables.exposures, tables.experiment_cells, tables.experiment_values, tables.experiment_stays)
    with service.database.reading() as connection:
        return [[tuple(r) for r in connection.execute(select(t).order_by(*t.primary_key.columns))] for t in derived]


def check_both_ways(service: DecisionService, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fold in small steps while facts come, then work out everything anew: rows are equal, sums within rounding."""
    monkeypatch.setattr(rollup, "CHUNK", 37)
    plan = Plan(planned_subjects=100, effect=0.1, covariate="age", cap_quantile=0.9)
    experiment = _started(service, segments=("device",), plan=plan)
    rng = np.random.default_rng(5)
    for _ in range(4):
        _live(service, clock, rng, 70)
        rollup.refresh(service.database, experiment)
    folded = stored(service)
    rows, cells, values, stays = folded
    assert len(rows) > 40
    assert sum(r[5] for r in rows) > 5  # type: ignore[misc]
    rollup.rebuild(service.database, experiment)
    for one, two in zip(folded, stored(service), strict=True):
        assert len(one) == len(two)
        for before, after in zip(one, two, strict=True):
            # A sum of money depends on the order of its parts in the last digit.
            assert [v for v in after if not isinstance(v, float)] == [v for v in before if not isinstance(v, float)]
            assert [v for v in after if isinstance(v, float)] == pytest.approx(
                [v for v in before if isinstance(v, float)], rel=1e-12, abs=1e-9
            )
    assert {c[4] for c in cells} == {"phone", "desk"}
    assert {v[1] for v in values} == {"margin", "revenue"}
    assert len({v[6] for v in values}) > 10  # sizes
    assert len({r[9] for r in rows}) > 20  # ages
    assert any(s[4] == -1 for s in stays)
    assert any(s[4] >= 0 for s in stays)  # type: ignore[operator]


def test_fact_by_fact_is_all_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations, outcomes early and late, logins and segments give one rollup either way, and the reading counts its rows."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        check_both_ways(service, clock, monkeypatch)
        experiment = service.experiments.get("e1")
        as_of = clock.forward(days=20)
        rows = experiment_results(service.database, "e1", as_of=as_of)
        reading = take_reading(service.database, experiment, as_of=as_of, in_simulation=False)
        assert reading.n_subjects == len(rows)
        for count in reading.counts():
            mine = rows.variants == count["variant"]
            assert count["n_subjects"] == mine.sum()
            # Maturity is by the hour: nobody is taken for matured early.
            assert 0 <= (mine & rows.is_conversion_matured).sum() - count["n_conversion_matured"] <= 2
        assert reading.found is not None
