"""The page of models: standings, verdicts, forecasts, and the two things a person does there."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from starlette.testclient import TestClient

from api.auth import KeyFile
from api.console.app import create_console
from engine.accounts.accounts import Accounts
from engine.gate.forecasts import Forecast, foretell
from engine.gate.promotion import Promotion
from engine.gate.records import Part, conclude
from engine.gate.verdicts import keep_verdict
from engine.store.changes import Change
from policies.fixed import FixedOrder
from tests.api.console.conftest import PASSWORD, Console
from tests.engine.service_world import START, open_shop, shop


def test_the_page_shows_what_stands_and_takes_it_back(tmp_path: Path) -> None:
    """Reasons, in simulation said beside what is, approval for admins only, and one button that brings back the old policy."""
    with open_shop(tmp_path) as service:
        old, new = (
            str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name=n, at=START))
            for n, o in (("old", "abc"), ("new", "bac"))
        )
        service.put_placement(shop(policy=old))
        parts = [
            Part("off-policy evaluation", "open", ("Too wide to see a difference of 0.01.",)),
            Part("simulator", "pass", ("Kept rises.",), in_simulation=True),
        ]
        said = keep_verdict(
            service.database, conclude(parts, placement="shop", policy=new, incumbent=old, at=START, inputs="i")
        )
        Promotion(service).enter(said, change=Change(START))
        foretell(
            service.database,
            [Forecast("lift", "shop", new, START, 0.02, 0.01, 0.03, {"metric": "kept", "in_simulation": True})],
        )
        for role in ("viewer", "admin"):
            Accounts(service.database).create(role, role=role, password=PASSWORD, change=Change(datetime.now(UTC)))
        app = create_console(service, KeyFile(tmp_path / "keys.json"), is_sandbox=False, ticks=False, home=tmp_path)
        with TestClient(app) as client:
            console = Console(client, service, tmp_path)
            assert console.sign_in("viewer") == 303
            page = console.get("/models")
            assert "Too wide to see a difference" in page
            assert "in simulation" in page
            assert "Approve a small canary" not in page
            assert console.post("/models/rollback", placement="shop", reason="x").status_code == 403
            assert "Модели и выпуск" in console.get("/models", language="ru")
            assert console.sign_in("admin") == 303
            assert "Approve a small canary" in console.get("/models")
            assert console.post("/models/approve", verdict=said.id, reason="worth a look").status_code == 303
            Promotion(service).to_live("shop", new, change=Change(START, "ann", "urgent"))
            assert (
                console.post("/models/rollback", placement="shop", policy=new, reason="complaints").status_code == 303
            )
            page = console.get("/models")
            assert "complaints" in page
            assert "approved by" in page
            assert service.placement("shop")[0].policy == old
