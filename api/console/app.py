"""The console's application: pages rendered on the server, nothing fetched from elsewhere, no script at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.console import pages
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import Reading, latest_moment, read_experiment
from engine.experiments.records import Experiment
from engine.offers.placement import placement_from_json
from engine.store import tables
from engine.store.database import Database
from offline_eval.report import Callout, Section
from offline_eval.report.page import render_blocks, stylesheet
from policies.errors import NextofferError, UnknownNameError

MENU = (("/", "Home"), ("/experiments", "Experiments"), ("/offers", "Offers"))
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"private, no-store"),
)


def create_console(
    database: Database, *, is_sandbox: bool, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> ASGIApp:
    """Make the console over an open store.

    Parameters
    ----------
    is_sandbox
        Whether time and visitors are made up: pages say so, and read as of the newest fact.
    """
    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.get_template("page.html.j2")
    app = FastAPI(title="Nextoffer console", docs_url=None, redoc_url=None, openapi_url=None)
    lifecycle = Experiments(database)

    def now() -> datetime:
        return (latest_moment(database) if is_sandbox else None) or clock()

    def read(experiment: Experiment, at: datetime) -> Reading:
        return read_experiment(database, experiment, as_of=at, in_simulation=is_sandbox)

    def show(view: pages.View, *, here: str, links: Mapping[str, str] | None = None, status: int = 200) -> HTMLResponse:
        html = template.render(view=view, here=here, menu=MENU, links=links or {}, render=render_blocks)
        return HTMLResponse(html, status_code=status)

    @app.get("/")
    def home() -> HTMLResponse:
        at = now()
        readings = [read(e, at) for e in lifecycle.list(state="running")]
        return show(
            pages.home(readings, in_simulation=is_sandbox), here="/", links=_links(r.experiment.id for r in readings)
        )

    @app.get("/experiments")
    def experiments() -> HTMLResponse:
        at = now()
        readings = [read(e, at) for e in lifecycle.list()]
        links = _links(r.experiment.id for r in readings)
        return show(pages.experiments(readings, in_simulation=is_sandbox), here="/experiments", links=links)

    @app.get("/experiments/{experiment_id}")
    def experiment(experiment_id: str) -> HTMLResponse:
        return show(
            pages.experiment(read(lifecycle.get(experiment_id), now()), in_simulation=is_sandbox), here="/experiments"
        )

    @app.get("/experiments/{experiment_id}/reading.json")
    def reading_json(experiment_id: str) -> Response:
        import json

        found = read(lifecycle.get(experiment_id), now())
        told = None if found.found is None else found.found.now.to_json()
        body = {
            "experiment": experiment_id,
            "is_planned": found.is_planned,
            "in_simulation": is_sandbox,
            "reading": told,
        }
        return Response(json.dumps(body, allow_nan=False), media_type="application/json")

    @app.get("/offers")
    def offers() -> HTMLResponse:
        import json

        with database.reading() as connection:
            rows = connection.execute(tables.placements.select().order_by(tables.placements.c.id)).all()
        return show(pages.offers([placement_from_json(json.loads(r.document)) for r in rows]), here="/offers")

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in ("report.css", "console.css"):
            return Response(status_code=404)
        return Response(stylesheet() if name == "report.css" else _asset("console.css"), media_type="text/css")

    @app.exception_handler(NextofferError)
    def failed(request: Request, error: Exception) -> HTMLResponse:
        is_missing = isinstance(error, UnknownNameError)
        text = str(error)
        view = pages.View(
            "Not found" if is_missing else "That did not work",
            [Section("Why", [Callout(text[:1].upper() + text[1:], tone="warning")], in_simulation=False)],
        )
        return show(view, here="", status=404 if is_missing else 500)

    return _Guarded(app)


class _Guarded:
    """Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        await self._app(scope, receive, guarded)


def _links(ids: object) -> dict[str, str]:
    return {str(i): f"/experiments/{quote(str(i), safe='')}" for i in ids}  # type: ignore[attr-defined]


def _asset(name: str) -> str:
    return files("api.console").joinpath(name).read_text(encoding="utf-8")
