"""The page on health: a line for every alarm, what rings first, and what has rung."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from api.alerts.health import tell_health
from api.auth import KeyFile
from api.console.app import create_console
from api.console.words import translations
from engine.accounts.accounts import Accounts
from engine.decisions.requests import DecisionRequest
from engine.monitoring.alarms import ALARMS
from engine.monitoring.health import check_health
from engine.store.changes import Change
from tests.api.console.conftest import PASSWORD
from tests.engine.service_world import START, Clock, open_shop, shop

pytestmark = pytest.mark.slow


def test_the_page_has_a_line_for_every_alarm_and_what_rings_first(tmp_path: Path) -> None:
    """A page that showed another offer rings at the top, with its pairs, its page and its episode; every title has a translation."""
    with open_shop(tmp_path, clock=Clock(), placements=(shop(explore_share=0.5), shop(placement="other"))) as service:
        for answer in service.decide_many([DecisionRequest("shop", f"u{i}") for i in range(40)]):
            service.activate(answer.decision.id, shown="b" if answer.decision.offer == "a" else "a")
        tell_health(service.database, check_health(service.database, "shop", START), now=START, quiet_hours=6)
        Accounts(service.database).create("viewer", role="viewer", password=PASSWORD, change=Change(START))
        app = create_console(service, KeyFile(tmp_path / "keys.json"), is_sandbox=True, ticks=False)
        with TestClient(app) as client:
            client.post("/sign-in", data={"name": "viewer", "password": PASSWORD})
            html = client.get("/health?placement=shop").text
            both = client.get("/health").text
            russian = client.get("/health", headers={"accept-language": "ru"}).text
    lines = re.findall(r'<th scope="row">.*?</tr>', html, flags=re.DOTALL)
    assert len(lines) == len(ALARMS)
    assert "The page shows another offer than was chosen" in lines[0]
    assert "rings" in lines[0]
    assert "b was chosen, a shown" in lines[0]
    assert "docs/howto/alarms/shown.md" in lines[0]
    assert "shop: shown" in html.split('id="episodes"')[1]
    assert len(re.findall(r'<th scope="row">', both)) == 2 * len(ALARMS)
    assert "Страница показывает не то предложение" in russian
    assert {a.title for a in ALARMS} <= set(translations("ru"))
