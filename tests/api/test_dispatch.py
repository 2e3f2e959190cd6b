"""The quick way to an operation and the router's agree."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.routing import Match, Router

from api.app import OPERATIONS
from api.dispatch import OperationDispatch

ROUTER = Router([operation.route() for operation in OPERATIONS])
PATHS = [
    *{o.path.replace("{placement}", "shop").replace("{decision}", "d1:a%2F") for o in OPERATIONS},
    "/",
    "/v1",
    "/v1/",
    "/v1/placements//decisions",
    "/v1/placements/shop/decisions/",
    "/v1/placements/decisions",
    "/v1/decisions/activation",
    "/v1/decisions//activation",
    "/nothing/here",
]


async def absent(_scope: Any, _receive: Any, _send: Any) -> None:
    """Application behind the operations."""


def by_router(method: str, path: str) -> tuple[Any, dict[str, str]] | None:
    """What Starlette's router finds."""
    scope = {"type": "http", "method": method, "path": path, "root_path": ""}
    for route in ROUTER.routes:
        match, child = route.matches(scope)
        if match is Match.FULL:
            return child["endpoint"], child["path_params"]
    return None


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_the_tree_finds_what_the_router_finds(method: str) -> None:
    """Same operation, same parameters, and nothing where the router has nothing."""
    dispatch = OperationDispatch(absent, OPERATIONS)
    for path in PATHS:
        assert dispatch.find(method, path) == by_router(method, path), path


def test_what_is_no_operation_goes_on_to_the_application() -> None:
    """Other paths, other protocols and paths behind a proxy's prefix are left to it."""
    seen: list[str] = []

    async def app(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["type"] + scope.get("path", ""))

    dispatch = OperationDispatch(app, OPERATIONS)
    for scope in (
        {"type": "lifespan"},
        {"type": "http", "method": "GET", "path": "/console", "root_path": ""},
        {"type": "http", "method": "POST", "path": "/v1/rewards", "root_path": "/behind"},
    ):
        asyncio.run(dispatch(scope, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan", "http/console", "http/v1/rewards"]
