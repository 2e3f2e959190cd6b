"""The health of each placement: a line an alarm, what rings first, and what has rung lately."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from api.console.ask import Ask
from api.console.page import Page
from engine.monitoring.episodes import Episode, newest_episodes
from engine.monitoring.health import check_health
from engine.monitoring.records import Check, HealthReport, State

_ORDER: dict[State, int] = {"ringing": 0, "explained": 1, "ok": 2, "unknown": 3, "off": 4}
_TONES: dict[State, str] = {"ringing": "bad", "explained": "warning", "ok": "good", "unknown": "note", "off": "note"}
_WORDS: dict[State, str] = {
    "ringing": "rings",
    "explained": "explained by another",
    "ok": "quiet",
    "unknown": "too little to tell",
    "off": "not watched here",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One alarm on the page."""

    check: Check
    tone: str
    word: str
    figure: str


@dataclass(frozen=True, slots=True)
class Health:
    """One placement on the page."""

    report: HealthReport
    lines: tuple[Line, ...]


def health(ask: Ask) -> Response:
    """Give the page."""
    wanted = ask.query("placement")
    names = [n for n in ask.service.placements() if wanted in ("", n)]
    found = [_read(ask, name) for name in names]
    return ask.page(
        "health.html.j2",
        title=ask.words("Health"),
        here="/health",
        found=found,
        episodes=_told(newest_episodes(ask.service.database, limit=20), wanted),
    )


def _told(episodes: list[Episode], wanted: str) -> list[Episode]:
    return [e for e in episodes if wanted in ("", e.placement)]


def _read(ask: Ask, placement: str) -> Health:
    service = ask.service
    report = check_health(
        service.database, placement, ask.now, registry=service.policies, thresholds=ask.parts.thresholds
    )
    lines = [Line(c, _TONES[c.state], ask.words(_WORDS[c.state]), _figure(c)) for c in report.checks]
    # The order of alarms stands within each state.
    return Health(report, tuple(sorted(lines, key=lambda line: _ORDER[line.check.state])))


def _figure(check: Check) -> str:
    if check.value is None or check.limit is None:
        return ""
    return f"{check.value:,.4g} / {check.limit:,.4g}"


PAGES = (Page("health", "/health", health, title="Health", menu="experts"),)
