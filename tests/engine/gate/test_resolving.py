"""What came of what the log foretold."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.experiments.records import Experiment, Plan
from engine.gate.forecasts import Forecast, forecasts_of, foretell
from engine.gate.resolving import resolve
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.store.changes import Change
from engine.store.database import Database, sqlite_url
from policies.allocation import Variant
from policies.fixed import FixedOrder
from tests.engine.service_world import START, Clock, open_shop, shop


class _Noting(Database):
    """Notes from which offsets on it is asked for stretches of the ledger."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.starts: list[int] = []

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        """As the store's own."""
        if "first" in values:
            self.starts.append(values["first"])
        return super().rows(sql, **values)


def test_a_value_is_read_from_where_it_was_foretold(tmp_path: Path) -> None:
    """Nothing of the ledger before the forecast is joined, nothing at all before windows have closed, and the mean is that since."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        ref = str(service.policies.register(FixedOrder(("a", "b", "c")).to_artifact(), name="p", at=START))
        service.put_placement(shop(policy=ref, reward=RewardDefinition((RewardTerm("clicked"),), window_s=DAY_S)))
        service.decide_many([DecisionRequest("shop", f"u{i}") for i in range(1_200)])
        clock.forward(days=1)
        foretell(
            service.database, [Forecast("ope value", "shop", ref, clock.now, 0.3, 0.1, 0.5, {"min_decisions": 40})]
        )
        first = service.database.head()
        made = service.decide_many([DecisionRequest("shop", f"v{i}") for i in range(40)])
        for answer in made[:10]:
            service.reward(RewardRequest(answer.decision.id, "clicked", id=f"r{answer.decision.id}"))

        with _Noting(sqlite_url(service.database.sqlite_path)) as database:
            assert resolve(database, at=clock.now, in_simulation=False) == []
            assert database.starts == []
            resolve(database, at=clock.now + timedelta(days=2), in_simulation=False)
            assert database.starts
            assert min(database.starts) == first
        (done,) = forecasts_of(service.database, is_open=False)
        assert done.actual == pytest.approx(0.25)


def test_a_lift_is_read_where_the_two_competed(tmp_path: Path) -> None:
    """What served may compete as the placement's own policy; an experiment of the same two at another placement says nothing."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        old, new = (
            str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name=n, at=START))
            for n, o in (("old", "abc"), ("new", "bac"))
        )
        for placement in ("shop", "elsewhere"):
            service.put_placement(shop(placement=placement, policy=old))
        about = {"metric": "conversion", "against": old}
        foretell(service.database, [Forecast("lift", "shop", new, clock.now, 0.02, 0.01, 0.5, about)])
        clock.forward(hours=1)
        pairs = {"elsewhere": (old, new), "shop": ("placement", new)}
        for placement, (one, other) in pairs.items():
            variants = (Variant("now", 5_000, one), Variant("new", 5_000, other))
            draft = Experiment(placement, placement, variants, plan=Plan(planned_subjects=2_000, effect=0.02))
            service.experiments.create(draft, change=Change(clock.now))
            service.experiments.start(placement, revision=1, change=Change(clock.now))
            service.experiments.stop(placement, revision=2, change=Change(clock.now + timedelta(hours=1)))
            told = resolve(service.database, at=clock.now + timedelta(days=40), in_simulation=False)
            assert [("ended before anybody came" in line) for line in told] == ([True] if placement == "shop" else [])
