"""An application in this process over a store in a temporary folder, and what it takes to call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from api.app import create_app, keys_path
from api.auth import KeyFile, Scope, new_key
from api.settings import Settings
from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService
from engine.offers.placement import placement_from_json

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

OFFERS = [
    {"id": "monthly", "features": {"price": 9.0}, "payload": {"title": "Monthly"}},
    {"id": "annual", "features": {"price": 90.0}, "payload": {"title": "Annual"}},
    {"id": "winback", "features": {"price": 4.5}, "payload": {"title": "Half price"}},
    {"id": "student", "features": {"price": 3.0}, "payload": {}},
]
PLACEMENT: dict[str, Any] = {
    "offers": OFFERS,
    "rules": [
        {
            "id": "students-only",
            "offers": [{"feature": "id", "operator": "==", "value": "student"}],
            "requires": [{"feature": "is_student", "operator": "==", "value": True}],
        }
    ],
    "baseline": ["annual", "monthly"],
    "explore_share": 0.3,
}


class Site:
    """The application under test, with a key for each scope."""

    def __init__(self, client: TestClient, settings: Settings, service: DecisionService) -> None:
        self.client = client
        self.service = service
        self.settings = settings
        self.keys: dict[str, str] = {}
        for scope in ("decide", "reward", "read", "admin"):
            self.keys[scope] = self.new_key(scope, scope)

    def new_key(self, name: str, *scopes: Scope, **options: Any) -> str:
        """Make a key that the application knows at once."""
        text, key = new_key(name, scopes=scopes, at=NOW, **options)
        KeyFile(keys_path(self.settings)).add(key)
        state: Any = self.client.app.state  # type: ignore[attr-defined]  # the test client knows only ASGI
        state.parts.keys.reload()
        return text

    def call(self, method: str, path: str, body: Any = None, *, key: str = "admin", **options: Any) -> Any:
        """One request with the key of a scope; the answer with its parsed body."""
        headers = {"Authorization": f"Bearer {self.keys.get(key, key)}", **options.pop("headers", {})}
        return self.client.request(method, path, json=body, headers=headers, **options)

    def decide(self, body: dict[str, Any], **options: Any) -> Any:
        """One decision at the example placement."""
        return self.call("POST", "/v1/placements/offer_page/decisions", body, **options)


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Make applications with chosen settings; all are closed at the end."""
    opened: list[tuple[TestClient, Any]] = []

    def make(**chosen: Any) -> Site:
        home = tmp_path / f"home-{len(opened)}"
        settings = Settings(**{"home": home, "mode": "sandbox", "body_limit_bytes": 65_536, **chosen})
        service = open_service(home, secret=b"a secret of the tests", clock=lambda: NOW)
        service.put_placement(placement_from_json({**PLACEMENT, "id": "offer_page"}))
        client = TestClient(create_app(settings, clock=lambda: NOW, service=service), raise_server_exceptions=False)
        client.__enter__()
        opened.append((client, service))
        return Site(client, settings, service)

    yield make
    for client, service in opened:
        client.__exit__(None, None, None)
        service.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A sandbox with one placement."""
    return make_site()
