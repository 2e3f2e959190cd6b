"""What the gate asks of the log's health."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import event

from engine.decisions.requests import DecisionRequest
from engine.experiments.records import Experiment
from engine.gate.health import integrity
from engine.monitoring.alarms import INTEGRITY
from engine.monitoring.health import check_health, check_integrity
from engine.monitoring.thresholds import Thresholds
from engine.store.changes import Change
from policies.allocation import Variant
from tests.engine.service_world import Clock, open_shop


def test_integrity_is_read_by_the_limits_one_sets_and_nothing_else_is_read(tmp_path: Path) -> None:
    """The integrity alarms are those of the whole report; a limit of one's own quiets them; no experiment is read for them."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        variants = (Variant("control", 5000, "baseline"), Variant("other", 5000, "baseline"))
        draft = service.experiments.create(Experiment("trial", "shop", variants), change=Change(clock.now))
        service.experiments.start("trial", revision=draft.revision, change=Change(clock.now))
        for i in range(40):
            decision = service.decide(DecisionRequest("shop", f"d{i}", is_activated=False)).decision
            service.activate(decision.id, shown="c" if i % 2 else decision.offer)
        database = service.database
        (told,) = integrity(database, "shop", clock.now)
        assert "have shown another offer" in told
        assert integrity(database, "shop", clock.now, thresholds=Thresholds(shown_share=0.9)) == ()
        asked: list[str] = []
        event.listen(database.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
        checks = check_integrity(database, "shop", clock.now)
        n_asked = len(asked)
        report = check_health(database, "shop", clock.now)
        assert checks == tuple(report.check(name) for name in INTEGRITY)
        assert n_asked < len(asked) - n_asked
