"""One request to the console: who asks, what they typed, and how a page is answered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from api.auth import KeyFile
from api.console.page import Page
from api.console.words import Words
from engine.accounts.accounts import Account, Accounts, Role, Session
from engine.decisions.service import DecisionService
from engine.monitoring.thresholds import Thresholds
from engine.store.changes import Change
from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from api.console.oidc import OpenId
    from api.console.sample import Sample

COOKIE = "nextoffer_session"
LANGUAGE_COOKIE = "nextoffer_language"


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What every page works with; made once for one's own store and once for the sample.

    Parameters
    ----------
    home
        Data folder that goes with the store; None where a test has none.
    openid
        Provider that signs people in; None where there are local accounts only.
    own
        The parts over one's own store, where these are the sample's.
    """

    service: DecisionService
    accounts: Accounts
    keys: KeyFile
    templates: Environment
    clock: Callable[[], datetime]
    is_sandbox: bool
    setup_token: str
    pages: Sequence[Page]
    home: Path | None = None
    sample: Sample | None = None
    is_sample: bool = False
    openid: OpenId | None = None
    own: Parts | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)


@dataclass(slots=True, eq=False)
class Ask:
    """One request on its way through a page."""

    request: Request
    parts: Parts
    words: Words
    session: Session | None = None
    form: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def service(self) -> DecisionService:
        """The service over the console's store; it decides nothing here but on trial."""
        return self.parts.service

    @property
    def account(self) -> Account:
        """Who is signed in."""
        assert self.session is not None  # pages that need somebody are never reached without
        return self.session.account

    @property
    def actor(self) -> str:
        """Who is named in audit rows."""
        return f"account:{self.account.name}"

    def change(self, reason: str = "") -> Change:
        """What is changed here is changed now, by who has signed in."""
        return Change(self.now, self.actor, reason)

    @property
    def now(self) -> datetime:
        """The moment at which changes happen."""
        return self.parts.clock()

    def may(self, role: Role) -> bool:
        """Whether whoever asks has a role."""
        return self.session is not None and self.session.account.may(role)

    def menu(self, part: str) -> list[Page]:
        """Pages of a part of the menu that whoever asks may open."""
        return [p for p in self.parts.pages if p.menu == part and (p.role is None or self.may(p.role))]

    def path(self, name: str) -> str:
        """A part of the path, decoded."""
        return str(self.request.path_params[name])

    def query(self, name: str) -> str:
        """A value of the address."""
        return self.request.query_params.get(name, "")

    def text(self, name: str, default: str = "") -> str:
        """What was typed into a field."""
        return self.form.get(name, [default])[0].strip()

    def texts(self, name: str) -> list[str]:
        """What was typed into all fields of a name."""
        return [v.strip() for v in self.form.get(name, [])]

    def number(self, name: str, *, what: str) -> float | None:
        """A number that was typed in, with either sign of decimals; None where the field was left empty."""
        text = self.text(name).replace("\u00a0", "").replace(" ", "").replace(",", ".")
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not abs(value) < 1e12:
            raise InvalidInputError(
                self.words(
                    "{what} is {text}; expected a number", what=self.words(what), text=repr(self.text(name)[:40])
                )
            )
        return value

    def whole(self, name: str, *, what: str) -> int | None:
        """A whole number that was typed in."""
        value = self.number(name, what=what)
        if value is not None and value != int(value):
            raise InvalidInputError(
                self.words(
                    "{what} is {text}; expected a whole number", what=self.words(what), text=repr(self.text(name)[:40])
                )
            )
        return None if value is None else int(value)

    @property
    def revision(self) -> int:
        """Revision that the form was filled in from; of what is no number 0, which nothing stands at."""
        text = self.text("revision")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0

    def moment(self, name: str, *, what: str) -> datetime | None:
        """A date and a time, in UTC."""
        text = self.text(name)
        if not text:
            return None
        try:
            found = datetime.fromisoformat(text)
        except ValueError as error:
            raise InvalidInputError(
                self.words("{what} is {text}; expected a date and a time", what=self.words(what), text=repr(text[:40]))
            ) from error
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found

    def page(self, template: str, *, title: str, here: str = "", status: int = 200, **values: Any) -> Response:
        """A whole page."""
        return HTMLResponse(self.render(template, title=title, here=here, **values), status_code=status)

    def render(self, template: str, **values: Any) -> str:
        """A template with what every page shows."""
        return self.parts.templates.get_template(template).render(
            t=self.words,
            language=self.words.language,
            session=self.session,
            may=self.may,
            menu=self.menu,
            is_sandbox=self.parts.is_sandbox,
            is_sample=self.parts.is_sample,
            has_sample=self.parts.sample is not None,
            is_paused=self.session is not None and self.service.controls().is_paused,
            path=self.request.url.path,
            said=self.query("said"),
            **values,
        )


def go_to(path: str, *, said: str = "") -> Response:
    """Send the browser on after a change, so that reloading repeats nothing."""
    return RedirectResponse(path + (f"?said={quote(said)}" if said else ""), status_code=303)


def experiment_path(experiment_id: str) -> str:
    """Address of an experiment."""
    return f"/experiments/{quote(experiment_id, safe='')}"
