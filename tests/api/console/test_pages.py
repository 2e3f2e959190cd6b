"""Pages over a store that the decision service filled."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import pytest
from starlette.testclient import TestClient

from api.console.app import create_console
from engine.store.database import Database, sqlite_url
from tests.api.console.conftest import TITLES, Console

pytestmark = pytest.mark.slow  # the store is filled through the service's durable path


def test_home_says_what_runs_and_what_to_do(console: Console) -> None:
    """The first page names both running experiments, the verdict of the planned one, and that the other has no plan."""
    html = console.get("/")
    assert "2 running, 2 waiting for a decision of yours." in html
    assert "spring-welcome: Ship personal:" in html
    assert "stay-a-while: No plan, no verdict" in html
    assert 'href="/experiments/spring-welcome"' in html


def test_an_experiment_shows_its_verdict_looks_and_cohorts(console: Console) -> None:
    """The sentence, each planned look with what a careless test would have said, weekly cohorts and phases are on one page."""
    html = console.get("/experiments/spring-welcome")
    assert re.search(r"Ship personal: [\d\u00a0]+ more subscriptions \(between [\d\u00a0]+ and [\d\u00a0]+\)", html)
    assert "1 of 5" in html
    assert "5 of 5" in html
    assert "a test that ignores looking would say" in html
    assert "week 12" in html
    assert html.count("<svg") >= 4


def test_what_is_read_is_what_the_store_holds(console: Console) -> None:
    """The JSON reading counts every exposed visitor, and its rates are those the outcomes were drawn with, within error."""
    told = json.loads(console.get("/experiments/spring-welcome/reading.json"))
    assert told["in_simulation"] is True
    observed = told["reading"]["split"]["observed"]
    assert sum(observed.values()) == 2400
    conversion = next(m for m in told["reading"]["metrics"] if m["metric"] == "conversion")
    assert conversion["control"] == pytest.approx(0.14, abs=4 * (0.14 * 0.86 / 1000) ** 0.5)
    assert conversion["treatment"] == pytest.approx(0.24, abs=4 * (0.24 * 0.76 / 1000) ** 0.5)


def test_without_a_plan_there_is_no_verdict(console: Console) -> None:
    """An experiment without a plan shows intervals that hold at any time, no sentence, and how to fix a plan."""
    html = console.get("/experiments/stay-a-while")
    assert "No plan, no verdict" in html
    assert "nextoffer console plan stay-a-while" in html
    assert "Keep running" not in html
    assert not re.search(r"of [\d,]+ planned|planned looks taken|Underpowered", html)


def test_a_sandbox_says_so_on_every_page_with_results(console: Console) -> None:
    """Figures of a sandbox carry the badge; the same store read as production does not."""
    for path in ("/", "/experiments", "/experiments/spring-welcome"):
        assert "in simulation" in console.get(path)
    database = Database(sqlite_url(console.folder / "nextoffer.db"))
    real = create_console(database, is_sandbox=False, clock=lambda: datetime(2026, 4, 1, tzinfo=UTC))
    with TestClient(real) as client:
        assert "in simulation" not in client.get("/experiments/spring-welcome").text
    database.close()


def test_other_pages(console: Console) -> None:
    """All experiments and all offers are listed, drafts included."""
    listed = console.get("/experiments")
    assert all(name in listed for name in ("spring-welcome", "stay-a-while", "idea", "draft"))
    offers = console.get("/offers")
    assert all(title in offers for title in TITLES.values())
    assert "A draft" in console.get("/experiments/idea")


def test_an_unknown_experiment_is_a_page_with_the_nearest_name(console: Console) -> None:
    """A mistyped address answers 404 in words."""
    html = console.get("/experiments/sprng-welcome", status=404)
    assert "did you mean &#39;spring-welcome&#39;?" in html
    assert console.client.get("/static/secret").status_code == 404


def test_pages_run_nothing_and_fetch_nothing_from_elsewhere(console: Console) -> None:
    """The policy of every answer allows no script, and no page has one, an inline style or a foreign address."""
    for path in ("/", "/experiments", "/experiments/spring-welcome", "/offers", "/static/console.css", "/nowhere"):
        answer = console.client.get(path)
        assert "default-src 'none'; style-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "<script" not in answer.text
        assert " style=" not in answer.text
        addresses = re.findall(r'(?:href|src)="([^"]+)"', answer.text)
        assert all(a.startswith(("/", "#")) or a == "data:," for a in addresses)
