"""Limits of alarms that the settings name hold for whatever takes a version back or learns from the log."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from api.alerts.looking import Habits, habits_of, one_round
from api.cli.opening import Where
from api.cli.promotion import watch
from api.cli.retrain import retrain
from api.settings import load_settings
from engine.decisions.requests import DecisionRequest
from engine.gate.promotion import Promotion
from engine.registry.states import States
from engine.store.changes import Change
from policies.errors import InvalidInputError, StateError
from policies.fixed import FixedOrder
from tests.engine.service_world import Clock, open_shop, shop


def test_every_door_keeps_to_the_limits_of_the_settings(tmp_path: Path) -> None:
    """With a limit above what the page does, keeper, command and retraining go on; by the defaults each of them stops."""
    home, lax = tmp_path / "home", tmp_path / "lax.toml"
    lax.write_text("alarm_thresholds = { shown_share = 0.9 }\n")
    clock = Clock(datetime.now(UTC))  # the command has no other clock
    with open_shop(home, clock=clock) as service:
        old, new = (
            str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name=n, at=clock.now))
            for n, o in (("old", "abc"), ("new", "bac"))
        )
        service.put_placement(shop(policy=old))
        Promotion(service).to_live("shop", new, change=Change(clock.now, "ann", "it is urgent"))
        for i in range(40):
            decision = service.decide(DecisionRequest("shop", f"d{i}", is_activated=False)).decision
            service.activate(decision.id, shown="c" if i % 2 else decision.offer)
        states = States(service.database)
        one_round(service, habits_of(load_settings(lax, home=home)), clock=clock, in_simulation=False)
        watch(where=Where(home, lax))
        assert states.get("shop", new).state == "live"
        with pytest.raises(InvalidInputError, match="has a closed window"):
            retrain("shop", as_of_log=True, where=Where(home, lax))
        with pytest.raises(StateError, match="nothing is learned while"):
            retrain("shop", as_of_log=True, where=Where(home))
        one_round(service, Habits(), clock=clock, in_simulation=False)
        assert states.get("shop", new).state == "retired"
