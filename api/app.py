"""The HTTP application: one place that wires settings, service, keys and operations."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api import openapi
from api.auth import KeyFile, KeyRing
from api.call import Parts, first_headers, request_id_of
from api.decisions import routes as decisions
from api.dispatch import OperationDispatch
from api.edge import json_response
from api.errors import error_body
from api.experiments import routes as experiments
from api.facts import routes as facts
from api.health import routes as health
from api.metrics import Metrics
from api.ofrep import routes as ofrep
from api.operation import Operation
from api.personalizer import routes as personalizer
from api.placements import routes as placements
from api.policies import routes as policies
from api.pulse import Pulse
from api.settings import Settings
from api.subjects import routes as subjects
from api.visitors import Visitors
from api.workers import metrics_folder
from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService, utc_now

OPERATIONS: tuple[Operation, ...] = (
    *decisions.OPERATIONS,
    *facts.OPERATIONS,
    *subjects.OPERATIONS,
    *placements.OPERATIONS,
    *policies.OPERATIONS,
    *experiments.OPERATIONS,
    *health.OPERATIONS,
    health.METRICS,
)
_DESCRIPTION = "Chooses which offer to show a visitor now, writes down the exact probability it chose with, and takes in what came of it."
_log = logging.getLogger("nextoffer.api")


class Application(FastAPI):
    """FastAPI behind the operations: what is an operation never reaches FastAPI's own layers, which cost as much as a decision."""

    outermost: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        scope["app"] = self
        await self.outermost(scope, receive, send)

    async def inner(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer what is no operation."""
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    *,
    clock: Callable[[], datetime] = utc_now,
    service: DecisionService | None = None,
    worker: int = 0,
) -> Application:
    """Make the application.

    Parameters
    ----------
    clock
        Aware now; another one lets windows, dates and day 30 run in minutes.
    service
        An open service to serve and leave open; without it, one is opened from the settings and closed at the end.
    worker
        Which of the settings' workers this is.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened = service if service is not None else await run_in_threadpool(_open, settings, clock)
        pulse = Pulse()
        pulse.start()
        keys = KeyRing(KeyFile(keys_path(settings)), settings.rate_limit_per_s, utc_now)
        app.state.parts = Parts(
            settings,
            opened,
            keys,
            Metrics(
                lambda: opened.n_unrecorded,
                worker=worker,
                shared=metrics_folder(settings) if settings.workers > 1 else None,
            ),
            clock,
            Visitors(settings.bot_decisions_per_minute),
            pulse,
        )
        try:
            yield
        finally:
            pulse.stop()
            if service is None:
                await run_in_threadpool(opened.close)

    app = Application(
        title="Nextoffer",
        version=version("nextoffer"),
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
        exception_handlers={HTTPException: _http_error, Exception: _unexpected},
    )
    app.router.routes.extend(operation.route() for operation in OPERATIONS)
    app.router.routes.extend(personalizer.routes())
    app.router.routes.extend(ofrep.routes())
    app.outermost = OperationDispatch(app.inner, OPERATIONS)
    if settings.cors_origins:
        app.outermost = CORSMiddleware(
            app.outermost,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "idempotency-key", "if-none-match", "nextoffer-key"],
            expose_headers=["etag", "retry-after", "x-request-id"],
        )

    def documented() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document(
                OPERATIONS, title=app.title, version=app.version, description=_DESCRIPTION
            )
        return app.openapi_schema

    app.openapi = documented  # type: ignore[method-assign]  # FastAPI's own way to extend the document
    return app


def keys_path(settings: Settings) -> Path:
    """File of key hashes."""
    return settings.home / "keys.json"


def _open(settings: Settings, clock: Callable[[], datetime]) -> DecisionService:
    secret = None if settings.draw_secret is None else settings.draw_secret.get_secret_value().encode()
    opened = open_service(
        settings.home,
        url=settings.database_url,
        secret=secret,
        secret_version=settings.secret_version,
        clock=clock,
        policy_deadline_s=settings.policy_deadline_ms / 1e3,
        writer=settings.writer,
    )
    opened.follow()
    return opened


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = {
        404: f"there is nothing at {request.url.path[:200]}; the addresses are listed in /openapi.json",
        405: f"{request.method} is not possible at {request.url.path[:200]}; the methods are listed in /openapi.json",
    }.get(error.status_code, str(error.detail))
    body = error_body(code, message, request_id=request_id_of(first_headers(request.scope)))
    return json_response(body, status=error.status_code, headers=error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    request_id = request_id_of(first_headers(request.scope))
    _log.error("request %s failed", request_id, exc_info=error)
    message = f"something went wrong on our side; the log holds it under request {request_id}"
    return json_response(error_body("internal", message, request_id=request_id), status=500)
