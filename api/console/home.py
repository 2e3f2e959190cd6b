"""The first page: what needs somebody, what runs, what this week's visitors gained, and the switch that pauses everything."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from api.console.ask import Ask, experiment_path, go_to
from api.console.page import Page
from api.console.result import Banner, banner, key_figures
from api.console.words import Words
from engine.experiments.controls import set_controls
from engine.experiments.gain import WEEK, MoneyGain, gains, money_gain
from engine.experiments.reading import Reading, take_reading
from offline_eval.report.formatting import Interval, Unit


@dataclass(frozen=True, slots=True)
class Card:
    """One running experiment on the first page."""

    reading: Reading
    banner: Banner
    figures: str
    path: str
    needs_someone: bool


@dataclass(frozen=True, slots=True)
class Gain:
    """What the variants of a week's visitors brought, against the control."""

    experiment: str
    what: str
    amount: str
    limits: str
    tone: str


@dataclass(frozen=True, slots=True)
class Total:
    """What all experiments brought together, in money."""

    amount: str
    limits: str
    tone: str
    experiments: tuple[str, ...]
    waiting: tuple[str, ...]


def home(ask: Ask) -> Response:
    """Give the page."""
    readings = [_read(ask, e.id) for e in ask.service.experiments.list(state="running")]
    cards = [_card(ask, r) for r in readings]
    week = [g for r in readings for g in week_gains(ask, r)]
    since = ask.now - WEEK
    total = money_gain(readings, since=since)
    scheduled = ask.service.experiments.list(state="scheduled")
    return ask.page(
        "home.html.j2",
        title=ask.words("Home"),
        here="/",
        cards=cards,
        gains=week,
        total=_total(ask.words, total),
        scheduled=scheduled,
    )


def pause(ask: Ask) -> Response:
    """Take everybody out of all experiments, or let them in again."""
    is_paused = ask.text("pause") == "on"
    set_controls(ask.service.database, change=ask.change(ask.text("reason")), is_paused=is_paused)
    ask.service.refresh()
    return go_to("/", said="paused" if is_paused else "resumed")


def week_gains(ask: Ask, reading: Reading) -> list[Gain]:
    """Difference of the primary metric and of money, times the visitors that the variants had in the last seven days."""
    return [
        Gain(
            reading.experiment.id,
            ask.words(g.metric.metric.noun or g.metric.metric.title),
            *amounts(ask.words, g.interval, g.metric.metric.unit),
            _tone(g.metric.always, g.metric.metric.sign),
        )
        for g in gains(reading, since=reading.as_of - WEEK)
    ]


def _total(t: Words, found: MoneyGain | None) -> Total | None:
    if found is None:
        return None
    shown, limits = amounts(t, found.interval, found.unit)
    return Total(shown, limits, _tone(found.interval, 1.0), found.experiments, found.waiting)


def amounts(t: Words, scaled: Interval, unit: Unit) -> tuple[str, str]:
    """A gain, and its limits."""
    is_large = abs(scaled.estimate) >= 10
    if unit.kind == "money":
        shown = Unit("money", unit.symbol, 0 if is_large else unit.digits)
    else:
        shown = Unit("count") if is_large else Unit("number", "", 1)
    sign = "+" if scaled.estimate >= 0 else "−"
    return sign + t.amount(
        abs(scaled.estimate), shown
    ), f"{t.amount(scaled.low, shown)} … {t.amount(scaled.high, shown)}"


def _tone(interval: Interval, sign: float) -> str:
    if not interval.excludes(0.0):
        return "note"
    return "good" if interval.estimate * sign > 0 else "bad"


def _read(ask: Ask, experiment_id: str) -> Reading:
    experiment = ask.service.experiments.get(experiment_id)
    return take_reading(ask.service.database, experiment, as_of=ask.now, in_simulation=ask.parts.is_sandbox, n_points=0)


def _card(ask: Ask, reading: Reading) -> Card:
    due = not reading.is_planned or (reading.found is not None and reading.found.now.verdict.decision != "keep running")
    return Card(
        reading,
        banner(ask.words, reading),
        key_figures(ask.words, reading),
        experiment_path(reading.experiment.id),
        due,
    )


PAGES = (Page("home", "/", home), Page("pause", "/pause", pause, "experimenter", ("POST",)))
