"""The first page: what needs somebody, what runs, what this week's visitors gained, and the switch that pauses everything."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from api.console.ask import Ask, experiment_path, go_to
from api.console.page import Page
from api.console.result import Banner, banner, key_figures
from engine.experiments.controls import set_controls
from engine.experiments.reading import Reading, read_experiment
from engine.experiments.rollup import HOUR_US
from engine.store.facts import to_us
from offline_eval.abtest.verdict import amount
from offline_eval.report.formatting import Interval, Unit

WEEK_HOURS = 7 * 24


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


def home(ask: Ask) -> Response:
    """Give the page."""
    readings = [_read(ask, e.id) for e in ask.service.experiments.list(state="running")]
    cards = [_card(ask, r) for r in readings]
    gains = [g for r in readings for g in week_gains(ask, r)]
    scheduled = ask.service.experiments.list(state="scheduled")
    return ask.page("home.html.j2", title=ask.words("Home"), here="/", cards=cards, gains=gains, scheduled=scheduled)


def pause(ask: Ask) -> Response:
    """Take everybody out of all experiments, or let them in again."""
    is_paused = ask.text("pause") == "on"
    set_controls(ask.service.database, at=ask.now, actor=ask.actor, reason=ask.text("reason"), is_paused=is_paused)
    ask.service.refresh()
    return go_to("/", said="paused" if is_paused else "resumed")


def week_gains(ask: Ask, reading: Reading) -> list[Gain]:
    """Difference of the primary metric and of money, times the visitors that the variants had in the last seven days."""
    if reading.found is None or reading.found.now.split.is_broken:
        return []
    now = reading.found.now
    since = to_us(reading.as_of) // HOUR_US - WEEK_HOURS
    cells = reading.cells.where(reading.cells.hour > since)
    gains = []
    for m in now.metrics:
        if m.metric.role not in ("primary", "guardrail") or m.treatment != (
            now.verdict.variant or now.plan.treatments[0]
        ):
            continue
        n = float(cells.n[cells.variant == m.treatment].sum())
        if not n:
            continue
        scaled = m.always.scaled(n)
        gains.append(
            Gain(
                reading.experiment.id,
                ask.words(m.metric.noun or m.metric.title),
                *_amounts(scaled, m.metric.unit),
                _tone(m.always, m.metric.sign),
            )
        )
    return gains


def _amounts(scaled: Interval, unit: Unit) -> tuple[str, str]:
    shown = unit if unit.kind == "money" else Unit("count") if abs(scaled.estimate) >= 10 else Unit("number", "", 1)
    sign = "+" if scaled.estimate >= 0 else "−"
    return sign + amount(abs(scaled.estimate), shown), f"{amount(scaled.low, shown)} … {amount(scaled.high, shown)}"


def _tone(interval: Interval, sign: float) -> str:
    if not interval.excludes(0.0):
        return "note"
    return "good" if interval.estimate * sign > 0 else "bad"


def _read(ask: Ask, experiment_id: str) -> Reading:
    experiment = ask.service.experiments.get(experiment_id)
    return read_experiment(
        ask.service.database, experiment, as_of=ask.now, in_simulation=ask.parts.is_sandbox, n_points=0
    )


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
