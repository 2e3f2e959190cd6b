"""Reports that commands kept in the home folder, shown inside the console's frame."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.responses import Response

from api.console.ask import Ask
from api.console.page import Page
from engine.reports import REPORTS
from policies.errors import UnknownNameError

# The kit's page: what stands between its heading and its end is a fragment without scripts or inline styles, and the console's
# content policy would not let it run or style anything in any case.
_BODY = re.compile(r"</header>(.*?)</main>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Kept:
    """One report in the list."""

    name: str
    title: str
    subtitle: str
    kind: str
    made_at: datetime
    in_simulation: bool


def reports(ask: Ask) -> Response:
    """All of them, newest first."""
    found = sorted(_kept(ask), key=lambda r: r.made_at, reverse=True)
    return ask.page("reports.html.j2", title=ask.words("Reports"), here="/reports", reports=found)


def report(ask: Ask) -> Response:
    """One of them."""
    name = ask.path("report")
    known = {r.name: r for r in _kept(ask)}
    if name not in known:
        raise UnknownNameError("report", name, known)
    found = known[name]
    html = (_folder(ask) / f"{name}.html").read_text(encoding="utf-8")
    body = _BODY.search(html)
    return ask.page(
        "report.html.j2",
        title=found.title,
        here="/reports",
        report=found,
        body="" if body is None else body[1],
    )


def _folder(ask: Ask) -> Path:
    assert ask.parts.home is not None  # the pages of reports are there only where a home folder is
    return ask.parts.home / REPORTS


def _kept(ask: Ask) -> list[Kept]:
    out = []
    for page in _folder(ask).glob("*.html"):
        try:
            told = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
            title, subtitle, simulated = str(told["title"]), str(told["subtitle"]), bool(told["simulation_note"])
        except (OSError, ValueError, KeyError, TypeError):  # a file of somebody else's, or one being written
            continue
        made_at = datetime.fromtimestamp(page.stat().st_mtime, tz=UTC)
        out.append(Kept(page.stem, title, subtitle, page.stem.partition("-")[0], made_at, simulated))
    return out


PAGES = (
    Page("reports", "/reports", reports, title="Reports", menu="experts"),
    Page("report", "/reports/{report}", report),
)
