"""The console's application: pages made on the server, behind accounts, in a process of its own."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs, quote

from jinja2 import Environment, FunctionLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.alerts.looking import Habits, looking
from api.auth import KeyFile
from api.console import (
    admin,
    drafts,
    experiments,
    health,
    home,
    lesson,
    links,
    models,
    offers,
    oidc,
    reports,
    rules,
    sample,
    signing,
    visitors,
)
from api.console.ask import COOKIE, LANGUAGE_COOKIE, Ask, Parts
from api.console.page import Page
from api.console.shown import filters
from api.console.words import LANGUAGES, Language, Words
from api.errors import ForbiddenError
from engine.accounts.accounts import Accounts
from engine.decisions.service import DecisionService
from engine.experiments.moments import clock_of
from engine.monitoring.thresholds import Thresholds
from offline_eval.report.page import stylesheet
from policies.errors import ConflictError, NextofferError, UnknownNameError

MAX_FORM = 256 * 1024
_STATIC = {
    "report.css": "text/css",
    "console.css": "text/css",
    "console.js": "text/javascript",
    "htmx.min.js": "text/javascript",
}
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: https:; connect-src 'self'; "
        b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"private, no-store"),
)
_log = logging.getLogger("nextoffer.console")
# A module of pages is added here; a page that says so (``menu``) then stands in the menu by itself.
PAGES: tuple[Page, ...] = (
    *signing.PAGES,
    *oidc.PAGES,
    *home.PAGES,
    *offers.PAGES,
    *drafts.PAGES,
    *experiments.PAGES,
    *links.PAGES,
    *visitors.PAGES,
    *reports.PAGES,
    *rules.PAGES,
    *sample.PAGES,
    *lesson.PAGES,
    *health.PAGES,
    *models.PAGES,
    *admin.PAGES,
)


def create_console(
    service: DecisionService,
    keys: KeyFile,
    *,
    is_sandbox: bool,
    setup_token: str = "",
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ticks: bool = True,
    habits: Habits | None = None,
    home: Path | None = None,
    sample_first: bool = False,
    openid: oidc.OpenId | None = None,
    thresholds: Thresholds | None = None,
) -> ASGIApp:
    """Make the console over an open service, which stays the caller's to close.

    Parameters
    ----------
    is_sandbox
        Whether time and visitors are made up: pages say so, and read as of the newest fact.
    setup_token
        Lets whoever knows it make the first account; only while there is none.
    ticks
        Whether scheduled starts, ramps, planned ends and news are looked after here.
    habits
        Whom to tell, and how; nobody by default.
    home
        Data folder of the service: reports lie there, and the sample beside the store; None: neither.
    sample_first
        Whether a browser that has not chosen looks at the sample.
    openid
        Signs people in beside local accounts.
    thresholds
        From where on alarms ring; the defaults if left out.
    """
    now = clock_of(service.database, is_sandbox=is_sandbox, otherwise=clock)
    shown = None if home is None else sample.Sample(home, is_first=sample_first)
    pages = tuple(p for p in PAGES if shown is not None or p not in (*sample.PAGES, *reports.PAGES, *links.PAGES))
    parts = Parts(
        service, Accounts(service.database), keys, _templates(), now, is_sandbox, setup_token, pages, home, shown,
        openid=openid, thresholds=thresholds or Thresholds(),
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        with ExitStack() as stack:
            if shown is not None:
                stack.callback(shown.close)
            if ticks:
                stack.enter_context(looking(service, habits or Habits(), clock=now, in_simulation=is_sandbox))
            yield

    routes = [Route(p.path, _endpoint(p, parts), methods=list(p.methods), name=p.name) for p in pages]
    routes.append(Route("/static/{name}", _static))
    routes.append(Route("/{rest:path}", _nowhere(parts)))
    return _Guarded(Starlette(routes=routes, lifespan=lifespan))


def setup_token() -> str:
    """A word that only whoever starts the console knows."""
    return secrets.token_urlsafe(16)


def _endpoint(page: Page, parts: Parts) -> Callable[[Request], object]:
    async def endpoint(request: Request) -> Response:
        raw = b""
        if request.method == "POST":
            async for chunk in request.stream():
                raw += chunk
                if len(raw) > MAX_FORM:
                    return HTMLResponse("too large", status_code=413)
        return await run_in_threadpool(_answer, page, parts, request, raw)

    return endpoint


def _answer(page: Page, parts: Parts, request: Request, raw: bytes) -> Response:
    ask = Ask(request, parts, Words(_language(request)))
    try:
        if parts.sample is not None:
            ask.parts = parts.sample.parts(request, parts)
        cookie = request.cookies.get(COOKIE)
        ask.session = None if cookie is None else parts.accounts.session(cookie, at=datetime.now(UTC))
        if page.role is not None and ask.session is None:
            return signing.to_sign_in(ask)
        if page.role is not None and not ask.may(page.role):
            raise ForbiddenError(ask.words("Your account may look here but not do this; ask an admin for another role"))
        if request.method == "POST":
            ask.form = parse_qs(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=2_000)
            _check_form(ask)
        return page.handler(ask)
    except NextofferError as error:
        return _failed(ask, error)
    except Exception:  # the outermost edge of a request: log it, and answer without a traceback
        _log.exception("page %s failed", request.url.path)
        return ask.page(
            "message.html.j2",
            title=ask.words("That did not work"),
            status=500,
            text=ask.words("Something went wrong on our side; the log holds it."),
            tone="bad",
        )


def _check_form(ask: Ask) -> None:
    """Refuse a form that another site sent."""
    origin = ask.request.headers.get("origin")
    own = f"{ask.request.url.scheme}://{ask.request.url.netloc}"
    is_ours = origin is None or origin == own
    if ask.session is not None:
        is_ours &= secrets.compare_digest(ask.text("form_key").encode(), ask.session.form_key.encode())
    if not is_ours:
        raise ForbiddenError(
            ask.words("This form did not come from an open page of yours; go back, reload the page and send it again")
        )


def _failed(ask: Ask, error: NextofferError) -> Response:
    status = 404 if isinstance(error, UnknownNameError) else 403 if isinstance(error, ForbiddenError) else 409 if isinstance(error, ConflictError) else 400  # fmt: skip
    text = ask.words.said(str(error))
    title = "Not found" if status == 404 else "That did not work"
    return ask.page(
        "message.html.j2", title=ask.words(title), status=status, text=text[:1].upper() + text[1:], tone="warning"
    )


def _language(request: Request) -> Language:
    chosen = request.cookies.get(LANGUAGE_COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    return "ru" if request.headers.get("accept-language", "").lower().startswith("ru") else "en"


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _STATIC:
        return Response(status_code=404)
    content = stylesheet() if name == "report.css" else _asset(f"static/{name}")
    return Response(content, media_type=_STATIC[name])


def _nowhere(parts: Parts) -> Callable[[Request], object]:
    nowhere = Page("nowhere", "/{rest:path}", _not_found, None)
    return _endpoint(nowhere, parts)


def _not_found(ask: Ask) -> Response:
    return ask.page(
        "message.html.j2",
        title=ask.words("Not found"),
        status=404,
        text=ask.words("There is no page at this address."),
        tone="note",
    )


def _templates() -> Environment:
    environment = Environment(
        loader=FunctionLoader(lambda name: _asset(f"templates/{name}")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(filters())
    environment.globals["quote"] = lambda text: quote(str(text), safe="")
    return environment


def _asset(name: str) -> str:
    return files("api.console").joinpath(name).read_text(encoding="utf-8")


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
