"""A store with three experiments that visitors went through, made by the decision service itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from api.auth import KeyFile
from api.console.app import create_console
from engine.accounts.accounts import Accounts
from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.records import Experiment, Plan
from engine.offers.placement import CatalogueOffer, Placement
from engine.store.changes import Change
from offline_eval.report import SHARE, Interval, Page, Section, interval_chart
from policies.allocation import Variant
from policies.records import Offer, OfferId

START = datetime(2026, 1, 5, tzinfo=UTC)
PASSWORD = "correct horse battery"
TITLES = {"monthly": "Monthly, first month free", "annual": "A year, 20 % off", "trial": "Two weeks to try"}


def fill(folder: Path, *, n: int = 2400, days: int = 80) -> None:
    """Two running experiments at two placements (one planned, with a real gain; one without a plan) and a draft."""
    rng = np.random.default_rng(12)
    offers = tuple(
        CatalogueOffer(Offer(OfferId(i), {"margin_eur": 4.0 + len(i)}, {"title": t, "price": "9.90 € a month"}))
        for i, t in TITLES.items()
    )
    with open_service(folder, secret=b"a secret of the tests", commit_timeout_s=120.0) as service:
        for placement in ("home_page", "cancel_page"):
            service.put_placement(Placement(placement, offers))
        service.experiments.create(
            _experiment("spring-welcome", "home_page", "incumbent", "personal"), change=Change(START)
        )
        service.experiments.create(
            _experiment("stay-a-while", "cancel_page", "incumbent", "win back"), change=Change(START)
        )
        service.experiments.create(_experiment("idea", "home_page", "incumbent", "bold"), change=Change(START))
        plan = Plan(planned_subjects=2000, effect=0.06, visitors_per_day=30.0, visitors_per_month=90_000.0)
        service.experiments.fix_plan("spring-welcome", plan, revision=1, change=Change(START))
        for name, revision in (("spring-welcome", 2), ("stay-a-while", 1)):
            service.experiments.start(name, revision=revision, change=Change(START))
        service.refresh()
        _visit(service, rng, "home_page", n=n, days=days, rates={"incumbent": 0.14, "personal": 0.24})
        _visit(service, rng, "cancel_page", n=n // 4, days=days, rates={"incumbent": 0.2, "win back": 0.2})


def _experiment(name: str, placement: str, control: str, treatment: str) -> Experiment:
    return Experiment(
        name,
        placement,
        (Variant(control, 5000, "baseline"), Variant(treatment, 5000, "baseline")),
        hypothesis="Visitors who get an offer that fits them subscribe more often.",
        segments=("device",),
    )


def _visit(
    service: DecisionService, rng: np.random.Generator, placement: str, *, n: int, days: int, rates: dict[str, float]
) -> None:
    moments = [START + timedelta(days=days * (i + 0.5) / n) for i in range(n)]
    devices = ("phone", "desktop", "tablet")
    asked = [
        DecisionRequest(placement, f"{placement}-{i}", {"device": devices[i % 7 % 3]}, at=at)
        for i, at in enumerate(moments)
    ]
    outcomes = []
    # In parts: a commit that a busy machine delays past its time limit would leave visitors outside of the experiment.
    answers = [a for i in range(0, n, 200) for a in service.decide_many(asked[i : i + 200])]
    for answer, at in zip(answers, moments, strict=True):
        decision = answer.decision
        assert decision.variant is not None
        if rng.random() < rates[decision.variant]:
            outcomes.append(OutcomeRequest(decision.subject, "subscribed", 1.0, at=at + timedelta(hours=2)))
            outcomes.append(
                OutcomeRequest(decision.subject, "margin_eur", float(rng.normal(22, 6)), at=at + timedelta(days=3))
            )
            if rng.random() < 0.6:
                outcomes.append(OutcomeRequest(decision.subject, "active_30d", 1.0, at=at + timedelta(days=31)))
    service.outcome_many([o for o in outcomes if o.at is not None and o.at <= START + timedelta(days=days)])


def some_report() -> Page:
    """A report with a chart, as a command keeps it."""
    chart = interval_chart("Value", {"a": Interval(0.1, 0.0, 0.2), "b": Interval(0.3, 0.2, 0.4)}, unit=SHARE)
    sections = [Section("Estimates", [chart], in_simulation=False)]
    return Page("Off-policy evaluation on log", sections, in_simulation=False, subtitle="two policies")


@dataclass(frozen=True)
class Console:
    """The pages over the filled store, as somebody with a role sees them."""

    client: TestClient
    service: DecisionService
    folder: Path

    def get(self, path: str, *, status: int = 200, language: str = "en") -> str:
        """Text of a page."""
        answer = self.client.get(path, headers={"Accept-Language": language})
        assert answer.status_code == status, answer.text[:500]
        return str(answer.text)

    def post(self, path: str, *, form_key: str | None = None, **fields: Any) -> Any:
        """Send a form with the key of an open page; the answer, redirects not followed."""
        key = form_key if form_key is not None else self.form_key()
        return self.client.post(path, data={"form_key": key, **fields}, follow_redirects=False)

    def form_key(self) -> str:
        """Key of the session's forms."""
        found = re.search(r'name="form_key" value="([^"]+)"', self.get("/"))
        assert found is not None
        return found[1]

    def sign_in(self, name: str, password: str = PASSWORD) -> int:
        """Sign in with this client; the status."""
        self.client.cookies.clear()
        answer = self.client.post("/sign-in", data={"name": name, "password": password}, follow_redirects=False)
        return int(answer.status_code)


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """One filled store for all tests of a module, with three accounts; signed in as the experimenter."""
    folder = tmp_path_factory.mktemp("console")
    fill(folder)
    with opened(folder) as service:
        for role in ("viewer", "experimenter", "admin"):
            Accounts(service.database).create(role, role=role, password=PASSWORD, change=Change(START))
        app = create_console(service, KeyFile(folder / "keys.json"), is_sandbox=True, ticks=False, home=folder)
        with TestClient(app) as client:
            made = Console(client, service, folder)
            assert made.sign_in("experimenter") == 303
            yield made


@contextmanager
def opened(folder: Path) -> Iterator[DecisionService]:
    """A service over a store that there is."""
    with open_service(folder, secret=b"a secret of the tests") as service:
        yield service
