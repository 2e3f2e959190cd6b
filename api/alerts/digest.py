"""The weekly digest: what needs somebody, what the week brought, what runs; in plain words and money."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from api.alerts.news import address, in_all_languages
from api.alerts.reading import read_or_log
from api.console.home import amounts
from api.console.words import Words
from engine.alerts.message import News, Text
from engine.experiments.audit import AuditRow, read_audit
from engine.experiments.automation import is_step_due, why_held
from engine.experiments.controls import controls_of
from engine.experiments.gain import WEEK, gains, visitors_since
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import Reading
from engine.experiments.records import Experiment
from engine.store.database import Database
from offline_eval.report.formatting import COUNT, format_value

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
# One that could not be written in time is still worth reading so much later.
STILL_USEFUL = timedelta(days=2)
TOPIC = "digest"


def due_at(at: datetime, *, day: str, hour: int) -> datetime | None:
    """Moment of the digest that should have been written by now; None where there is none, or it is too late for it."""
    if day not in DAYS:
        return None
    behind = timedelta(days=(at.weekday() - DAYS.index(day)) % 7)
    due = (at - behind).replace(hour=hour, minute=0, second=0, microsecond=0)
    due = due if due <= at else due - WEEK
    return due if at - due < STILL_USEFUL else None


def digest(database: Database, *, at: datetime, in_simulation: bool, link: str = "") -> News | None:
    """The week that ends at a moment; None where no experiment ran in it and nothing waits for anybody.

    Parameters
    ----------
    at
        When it is due: figures are those of then, whenever it is written.
    """
    experiments = Experiments(database)
    running = experiments.list(state="running")
    begun = [e for e in running if e.started_at is not None and e.started_at <= at]
    tried = {e.id: read_or_log(database, e, as_of=at, in_simulation=in_simulation) for e in begun}
    readings = [r for r in tried.values() if r is not None]
    unread = [name for name, r in tried.items() if r is None]
    ended = [
        e for e in experiments.list(state="stopped") if e.stopped_at is not None and at - WEEK < e.stopped_at <= at
    ]
    scheduled = experiments.list(state="scheduled")
    drafts = experiments.list(state="draft") if controls_of(database).needs_approval else []
    waiting = [e for e in drafts if not e.approved_by]
    if not (tried or ended or scheduled or waiting):
        return None
    held = {
        r.experiment.id: why_held(database, r.experiment, at=at)
        for r in readings
        if is_step_due(database, r.experiment, at=at)
    }
    needs_you = [r for r in readings if _needs_somebody(r) or held.get(r.experiment.id)]
    is_paused = controls_of(database).is_paused

    def text(t: Words) -> Text:
        say = _SAY[t.language]
        lines: list[str] = []
        if in_simulation:
            lines += [say["simulated"], ""]
        lines += [say["needs"]]
        lines += [f"· {say['paused']}"] if is_paused else []
        lines += [
            f"· {r.experiment.id}: {_what_to_do(t, r, held.get(r.experiment.id, ''))}{address(link, r.experiment.id)}"
            for r in needs_you
        ]
        lines += [f"· {name}: {say['unread']}{address(link, name)}" for name in unread]
        lines += [f"· {e.id}: {say['approve']}{address(link, e.id)}" for e in waiting]
        lines += [] if needs_you or unread or waiting or is_paused else [say["nothing"]]
        lines += ["", say["gain"], *_gain_lines(t, readings, at)]
        lines += ["", say["running"], *([_running_line(t, r, at) for r in readings] or [say["none"]])]
        for title, rows in (
            (say["ended"], [_ended_line(e, database) for e in ended]),
            (say["soon"], [_soon_line(e) for e in scheduled]),
        ):
            lines += ["", title, *rows] if rows else []
        return Text(_title(t, at, len(tried), len(needs_you) + len(unread) + len(waiting)), "\n".join(lines))

    return News(
        topic=TOPIC,
        state=at.date().isoformat(),
        kind="digest",
        texts=in_all_languages(text),
        document={
            "until": at.isoformat(),
            "in_simulation": in_simulation,
            "running": list(tried),
            "needs_you": [r.experiment.id for r in needs_you] + unread + [e.id for e in waiting],
            "gains": [
                {"experiment": r.experiment.id, "metric": g.metric.metric.name, "treatment": g.metric.treatment, "visitors": g.n_subjects, **g.interval.to_json()}
                for r in readings for g in gains(r, since=at - WEEK)
            ],
        },
    )  # fmt: skip


_SAY = {
    "en": {
        "simulated": "Time and visitors of this store are made up (in simulation).",
        "needs": "What needs you",
        "nothing": "Nothing. Everything runs as planned.",
        "paused": "All experiments are paused: every place answers with its own policy.",
        "approve": "a draft that waits for somebody's approval.",
        "unread": "it could not be read; the log of the process that looks after experiments says why.",
        "gain": "What this week's visitors brought, compared with the control",
        "no_gain": "Too little is known yet to say.",
        "running": "What is running",
        "none": "No experiment.",
        "ended": "What ended this week",
        "soon": "What starts by itself",
        "no_plan": "no plan was fixed, so there will be no verdict; give it one, or stop it.",
        "title": "Nextoffer, week to {day}: {running}, {needs}",
    },
    "ru": {
        "simulated": "Время и посетители здесь придуманы (в симуляции).",
        "needs": "Что ждёт вас",
        "nothing": "Ничего. Всё идёт по плану.",
        "paused": "Все эксперименты на паузе: каждое место отвечает своим обычным способом.",
        "approve": "черновик, который ждёт одобрения.",
        "unread": "его не удалось прочитать; причина в журнале процесса, который следит за экспериментами.",
        "gain": "Что принесли посетители этой недели, по сравнению с контролем",
        "no_gain": "Пока известно слишком мало.",
        "running": "Что идёт",
        "none": "Ни одного эксперимента.",
        "ended": "Что закончилось за неделю",
        "soon": "Что начнётся само",
        "no_plan": "план не задан, поэтому вердикта не будет; задайте план или остановите.",
        "title": "Nextoffer, неделя до {day}: {running}, {needs}",
    },
}


def _needs_somebody(reading: Reading) -> bool:
    if reading.found is None:
        return False
    now = reading.found.now
    return not reading.is_planned or now.split.is_broken or now.verdict.decision != "keep running"


def _what_to_do(t: Words, reading: Reading, held: str) -> str:
    assert reading.found is not None or held
    if reading.found is not None and _needs_somebody(reading):
        now = reading.found.now
        if reading.is_planned or now.split.is_broken:
            return t.sentence(now)
        return _SAY[t.language]["no_plan"]
    return f"{t(held)}." if t.language == "en" else f"расширение остановлено ({t(held)})."


def _gain_lines(t: Words, readings: Sequence[Reading], at: datetime) -> list[str]:
    lines = []
    for r in readings:
        for g in gains(r, since=at - WEEK):
            size, limits = amounts(t, g.interval, g.metric.metric.unit)
            noun = t(g.metric.metric.noun or g.metric.metric.title)
            among = _visitors(t, g.n_subjects)
            lines.append(f"· {r.experiment.id}, {g.metric.treatment}: {size} {noun} ({limits}), {among}")
    return lines or [_SAY[t.language]["no_gain"]]


def _running_line(t: Words, reading: Reading, at: datetime) -> str:
    experiment = reading.experiment
    assert experiment.started_at is not None
    days = (at - experiment.started_at).days
    new = _visitors(t, visitors_since(reading, at - WEEK))
    is_en = t.language == "en"
    parts = [f"day {days + 1}" if is_en else f"день {days + 1}", new + (" this week" if is_en else " за неделю")]
    if reading.is_planned and reading.found is not None:
        power = reading.found.now.power
        share = format_value(min(1.0, power.fraction) * 100, COUNT)
        parts.append(f"{share} % of the planned information" if is_en else f"{share} % запланированных сведений")
        if power.days_left is not None and reading.found.now.verdict.decision == "keep running":
            left = format_value(power.days_left, COUNT)
            parts.append(f"about {left} more days" if is_en else f"ещё примерно {left} дн.")
    return f"· {experiment.id}: {', '.join(parts)}"


def _ended_line(experiment: Experiment, database: Database) -> str:
    stops: list[AuditRow] = read_audit(database, what=f"experiment {experiment.id}", action="stop", limit=1)
    reason = stops[0].reason if stops else ""
    return f"· {experiment.id}" + (f": {reason}" if reason else "")


def _soon_line(experiment: Experiment) -> str:
    assert experiment.starts_at is not None
    return f"· {experiment.id}: {experiment.starts_at:%Y-%m-%d %H:%M} UTC"


def _visitors(t: Words, n: int) -> str:
    shown = format_value(float(n), COUNT)
    if t.language == "en":
        return f"{shown} visitor{'' if n == 1 else 's'}"
    return f"{shown} {_plural(n, 'посетитель', 'посетителя', 'посетителей')}"


def _title(t: Words, at: datetime, n_running: int, n_needs: int) -> str:
    day = at.date().isoformat()
    if t.language == "en":
        running = f"{n_running} experiment{' runs' if n_running == 1 else 's run'}"
        needs = "nothing needs you" if not n_needs else f"{n_needs} need{'s' if n_needs == 1 else ''} you"
    else:
        noun = _plural(n_running, "эксперимент", "эксперимента", "экспериментов")
        running = f"{_plural(n_running, 'идёт', 'идут', 'идут')} {n_running} {noun}"
        needs = "ничто не ждёт вас" if not n_needs else f"{_plural(n_needs, 'ждёт', 'ждут', 'ждут')} вас: {n_needs}"
    return _SAY[t.language]["title"].format(day=day, running=running, needs=needs)


def _plural(n: int, one: str, few: str, many: str) -> str:
    """The Russian form of a noun after a number."""
    if n % 10 == 1 and n % 100 != 11:
        return one
    return few if n % 10 in (2, 3, 4) and n % 100 not in (12, 13, 14) else many
