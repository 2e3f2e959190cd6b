"""The sample: filled by one click, looked at in place of one's own data, and thrown away whole."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from api.console.page import Page
from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService
from engine.experiments.moments import clock_of
from engine.sample.folder import SampleFolder

if TYPE_CHECKING:
    from api.console.ask import Ask, Parts

COOKIE = "nextoffer_look"
_SAMPLE, _OWN = "sample", "own"


class Sample:
    """The sample of an installation: its folder, and the service over it while somebody looks.

    Parameters
    ----------
    is_first
        Whether a browser that has not chosen looks at the sample.
    """

    def __init__(self, home: Path, *, is_first: bool = False) -> None:
        self.folder = SampleFolder(home)
        self._is_first = is_first
        self._service: DecisionService | None = None
        self._lock = threading.Lock()

    def parts(self, request: Request, own: Parts) -> Parts:
        """What pages work with in this browser: the sample's store where it was chosen and is there, else one's own.

        Accounts and keys are always one's own.
        """
        chosen = request.cookies.get(COOKIE, _SAMPLE if self._is_first else _OWN)
        return (self.made(own) or own) if chosen == _SAMPLE else own

    def made(self, own: Parts) -> Parts | None:
        """What pages work with in the sample; None where it is not there."""
        if self.folder.state().state != "ready":
            return None
        service = self._opened()
        return replace(
            own,
            service=service,
            clock=clock_of(service.database, is_sandbox=True),
            is_sandbox=True,
            is_sample=True,
            home=self.folder.path,
            own=own,
        )

    def remove(self) -> None:
        """Throw it away."""
        self.close()
        self.folder.remove()

    def close(self) -> None:
        """Let go of its store, and stop filling it."""
        self.folder.stop()
        with self._lock:
            if self._service is not None:
                self._service.close()
                self._service = None

    def _opened(self) -> DecisionService:
        with self._lock:
            if self._service is None:
                self._service = open_service(self.folder.path)
            return self._service


def sample(ask: Ask) -> Response:
    """How the sample stands, and what may be done with it."""
    return ask.page("sample.html.j2", title=ask.words("Sample data"), here="/sample", filling=_of(ask).folder.state())


def progress(ask: Ask) -> Response:
    """How far it is, for the page that waits."""
    filling = _of(ask).folder.state()
    if filling.state != "filling":
        return Response(status_code=204, headers={"HX-Redirect": "/sample"})
    return HTMLResponse(ask.render("sample_progress.html.j2", filling=filling))


def begin(ask: Ask) -> Response:
    """Fill it."""
    _of(ask).folder.begin(ask.words.language)
    return _go_to("/sample")


def look(ask: Ask) -> Response:
    """Look at the sample from now on in this browser, or at one's own data again."""
    answer = _go_to("/")
    answer.set_cookie(COOKIE, _SAMPLE if ask.text("at") == _SAMPLE else _OWN, httponly=True, samesite="lax")
    return answer


def remove(ask: Ask) -> Response:
    """Throw it away."""
    _of(ask).remove()
    answer = _go_to("/sample?said=removed")
    answer.set_cookie(COOKIE, _OWN, httponly=True, samesite="lax")
    return answer


def _of(ask: Ask) -> Sample:
    assert ask.parts.sample is not None  # the pages of the sample are there only where it is
    return ask.parts.sample


def _go_to(path: str) -> Response:
    return Response(status_code=303, headers={"location": path})


PAGES = (
    Page("sample", "/sample", sample, title="Sample data", menu="learn"),
    Page("sample_progress", "/sample/progress", progress),
    Page("fill_sample", "/sample/fill", begin, "experimenter", ("POST",)),
    Page("look_at_sample", "/sample/look", look, "viewer", ("POST",)),
    Page("remove_sample", "/sample/remove", remove, "experimenter", ("POST",)),
)
