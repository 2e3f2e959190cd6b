"""Signing in and out, the first account, and the language."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from urllib.parse import quote

from starlette.responses import Response

from api.console.ask import COOKIE, LANGUAGE_COOKIE, Ask, go_to
from api.console.page import Page
from api.console.words import LANGUAGES
from api.errors import ForbiddenError
from engine.accounts.accounts import SESSION
from engine.store.changes import Change

_YEAR_S = 366 * 86_400


def to_sign_in(ask: Ask) -> Response:
    """Send somebody unknown to the form, and back to where they wanted to go."""
    if ask.request.method != "GET":
        return go_to("/sign-in")
    return go_to(f"/sign-in?next={quote(ask.request.url.path, safe='/')}")


def sign_in_form(ask: Ask) -> Response:
    """Give the form."""
    if ask.session is not None:
        return go_to("/")
    is_new = not ask.parts.accounts.list()
    return ask.page(
        "sign_in.html.j2", title=ask.words("Sign in"), next=ask.query("next"), failed=False, name="", is_new=is_new,
        has_openid=ask.parts.openid is not None,
    )  # fmt: skip


def sign_in(ask: Ask) -> Response:
    """Open a session."""
    name = ask.text("name")
    cookie = ask.parts.accounts.sign_in(name, ask.form.get("password", [""])[0], at=datetime.now(UTC))
    if cookie is None:
        return ask.page(
            "sign_in.html.j2",
            title=ask.words("Sign in"),
            status=401,
            next=ask.text("next"),
            failed=True,
            name=name,
            is_new=False,
            has_openid=ask.parts.openid is not None,
        )
    return signed_in(ask, cookie, ask.text("next"))


def sign_out(ask: Ask) -> Response:
    """End the session."""
    cookie = ask.request.cookies.get(COOKIE)
    if cookie is not None:
        ask.parts.accounts.sign_out(cookie)
    answer = go_to("/sign-in")
    answer.delete_cookie(COOKIE)
    return answer


def setup_form(ask: Ask) -> Response:
    """Give the form for the first account, to whoever has the word that the console printed when it started."""
    _check_setup(ask, ask.query("token"))
    return ask.page("setup.html.j2", title=ask.words("Make the first account"), token=ask.query("token"))


def setup(ask: Ask) -> Response:
    """Make the first account, and sign in."""
    _check_setup(ask, ask.text("token"))
    password = ask.form.get("password", [""])[0]
    ask.parts.accounts.create(ask.text("name"), role="admin", password=password, change=Change(ask.now, "setup"))
    cookie = ask.parts.accounts.sign_in(ask.text("name"), password, at=datetime.now(UTC))
    return go_to("/sign-in") if cookie is None else signed_in(ask, cookie, "/")


def choose_language(ask: Ask) -> Response:
    """Remember a language in this browser."""
    chosen = ask.text("language")
    answer = go_to(local(ask.text("next")))
    if chosen in LANGUAGES:
        answer.set_cookie(LANGUAGE_COOKIE, chosen, max_age=_YEAR_S, samesite="lax", httponly=True)
    return answer


def _check_setup(ask: Ask, token: str) -> None:
    expected = ask.parts.setup_token
    if not expected or not secrets.compare_digest(token.encode(), expected.encode()) or ask.parts.accounts.list():
        raise ForbiddenError(
            ask.words("The first account has been made, or this address is an old one; ask an admin for an account")
        )


def signed_in(ask: Ask, cookie: str, then: str) -> Response:
    """Give the browser its session, and send it on."""
    answer = go_to(local(then))
    answer.set_cookie(
        COOKIE, cookie, max_age=int(SESSION.total_seconds()), httponly=True, samesite="lax", secure=is_secure(ask)
    )
    return answer


def is_secure(ask: Ask) -> bool:
    """Whether the browser came by TLS."""
    return ask.request.url.scheme == "https" or ask.request.headers.get("x-forwarded-proto") == "https"


def local(path: str) -> str:
    """A path of this site and nothing else."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) else "/"


PAGES = (
    Page("sign_in_form", "/sign-in", sign_in_form, None),
    Page("sign_in", "/sign-in", sign_in, None, ("POST",)),
    Page("sign_out", "/sign-out", sign_out, "viewer", ("POST",)),
    Page("setup_form", "/setup", setup_form, None),
    Page("setup", "/setup", setup, None, ("POST",)),
    Page("language", "/language", choose_language, None, ("POST",)),
)
