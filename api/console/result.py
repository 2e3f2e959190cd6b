"""What an experiment has shown, in blocks of the report kit and in the words of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from api.console.shown import difference
from api.console.words import Words
from engine.experiments.audit import AuditRow
from engine.experiments.parts import HOUR_US
from engine.experiments.reading import Reading, read_segments
from engine.store.facts import to_us
from offline_eval.abtest import ExperimentReading, MetricReading
from offline_eval.abtest.pages import difference_unit, tone_of
from offline_eval.abtest.replay import Replay
from offline_eval.report import (
    COUNT,
    PROBABILITY,
    RELATIVE,
    SHARE,
    Cell,
    Column,
    Interval,
    KeyFigure,
    KeyFigures,
    Line,
    LinePoint,
    Table,
    format_value,
    interval_chart,
    line_chart,
)
from offline_eval.report.blocks import Block, Tone, format_cell
from offline_eval.report.page import render_blocks

COHORT_DAYS = 7
_TONES: dict[str, Tone] = {"ship": "good", "stop": "bad", "keep running": "note", "broken": "bad"}


@dataclass(frozen=True, slots=True)
class Banner:
    """The one sentence above everything."""

    title: str
    text: str
    tone: str


def told(t: Words, reading: Reading, rows: Sequence[AuditRow]) -> dict[str, Any]:
    """All that a page of an experiment says, by the names of its template."""
    now = None if reading.found is None else reading.found.now
    noted = notes(rows)
    return {
        "now": now,
        "banner": banner(t, reading),
        "figures": key_figures(t, reading),
        "forest": "" if now is None else forest(t, now),
        "over_time": "" if now is None else over_time(t, reading, noted),
        "guardrails": [] if now is None else guardrails(t, now),
        "segments": segments(t, reading),
        "cohorts": cohorts(t, reading) if len(reading.cells) else "",
        "notes": noted,
    }


def banner(t: Words, reading: Reading) -> Banner:
    """What to do."""
    experiment = reading.experiment
    if reading.found is None:
        if experiment.state == "draft":
            return Banner(t("A draft: nobody sees it yet"), t("Go through the checklist, then start it."), "note")
        if experiment.state == "scheduled":
            return Banner(t("It starts by itself"), "", "note")
        return Banner(t("Nobody has seen it yet"), "", "note")
    now = reading.found.now
    tone = "note" if now.verdict.reason == "no_difference" else _TONES[now.verdict.decision]
    if now.split.is_broken:
        return Banner(t.sentence(now), "", "bad")
    if not reading.is_planned:
        text = t("How long it runs and which change matters were not fixed before the start. The intervals below hold at any time; what to do with them is yours to decide.")  # fmt: skip
        return Banner(t("No plan, no verdict"), text, "warning")
    late = t("The plan was fixed after the start: whoever had seen figures by then may have chosen it to fit.")
    return Banner(t.sentence(now), late if reading.plan.is_late else "", tone)


def word(t: Words, reading: Reading) -> str:
    """The verdict in a word, for lists."""
    if reading.found is None:
        return "–"
    if not reading.is_planned and not reading.found.now.split.is_broken:
        return t("no plan")
    verdict = reading.found.now.verdict
    return t(verdict.decision) + (f" {verdict.variant}" if verdict.variant else "")


def key_figures(t: Words, reading: Reading) -> str:
    """Differences that count, for the first treatment or the one to ship."""
    if reading.found is None:
        return ""
    now = reading.found.now
    treatment = now.verdict.variant or now.plan.treatments[0]
    figures = [
        KeyFigure(t.metric(m), m.interval, difference_unit(m), t("{variant} against {control}", variant=treatment, control=now.plan.control), tone=tone_of(m))
        for m in now.metrics
        if m.treatment == treatment and m.metric.role != "descriptive"
    ]  # fmt: skip
    planned = (
        t("of {n} planned", n=format_value(now.power.planned, COUNT)) if reading.is_planned else t("no plan was fixed")
    )
    figures.append(KeyFigure(t("visitors followed"), now.power.matured, COUNT, planned))
    return render_blocks([KeyFigures(figures)], in_simulation=False)


def forest(t: Words, now: ExperimentReading) -> str:
    """Relative changes of all metrics of all treatments."""
    several = len(now.plan.treatments) > 1
    rows: dict[str, Interval] = {}
    for m in now.metrics:
        if m.metric.role != "descriptive" and m.effect.lift is not None:
            rows[f"{t.metric(m)} · {m.treatment}" if several else t.metric(m)] = m.effect.lift
    if not rows:
        return ""
    chart = interval_chart(
        t("Relative change against {control}", control=now.plan.control),
        rows,
        unit=RELATIVE,
        axis=t("relative change"),
        reference_label=t("no difference"),
        note=t("95 % intervals for a single look; the verdict uses the wider ones in the table."),
        say=t,
    )
    return render_blocks([chart, _metrics(t, now)], in_simulation=False)


def over_time(t: Words, reading: Reading, notes: Sequence[AuditRow] = ()) -> str:
    """The primary metric day by day with the notes' moments, and what was said at each planned look."""
    assert reading.found is not None
    now = reading.found.now
    lines = []
    for treatment in now.plan.treatments:
        points = [
            LinePoint(day, m.effect.estimate, m.always.low, m.always.high)
            for day, then in reading.found.over_time
            if (m := _primary(then, treatment)) is not None and then.power.matured >= then.plan.min_subjects
        ]
        if len(points) > 1:
            lines.append(Line(treatment, points))
    blocks: list[Block] = []
    if lines:
        blocks.append(
            line_chart(
                t("{metric}: difference to {control}", metric=t(now.plan.primary.title), control=now.plan.control),
                lines,
                unit=difference_unit(now.of(now.plan.primary.name)),
                axis=t("difference"),
                x_axis=t("day of the experiment"),
                reference=0.0,
                marks=_marks(reading, notes, first=lines[0].points[0].x),
                note=t("The band holds at every day at once, so it may be read as often as you like."),
                say=t,
            )
        )
    if reading.is_planned and reading.found.looks:
        blocks.append(looks_table(t, reading.found, reading.plan.n_looks))
    return render_blocks(blocks, in_simulation=False)


def guardrails(t: Words, now: ExperimentReading) -> list[dict[str, str]]:
    """Each guardrail: whether it holds, and what it shows."""
    out = []
    for m in now.metrics:
        if m.metric.role != "guardrail":
            continue
        shown, limits = difference(m.interval, difference_unit(m))
        state = "worse" if m.is_worse else "better" if m.is_better else "holds"
        tone = {"worse": "bad", "better": "good", "holds": "note"}[state]
        text = {"worse": t("is worse"), "better": t("is better"), "holds": t("no loss is proven")}[state]
        out.append(
            {
                "metric": t.metric(m),
                "variant": m.treatment,
                "shown": shown,
                "limits": limits,
                "text": text,
                "tone": tone,
            }
        )
    return out


def segments(t: Words, reading: Reading) -> str:
    """The primary metric by part of the visitors."""
    found = read_segments(reading)
    if not found or reading.found is None:
        return ""
    primary = reading.found.now.plan.primary
    several = len(reading.found.now.plan.treatments) > 1
    unit = difference_unit(reading.found.now.of(primary.name))
    rows = {
        f"{s.name}: {s.value} ({format_value(s.n_subjects, COUNT)})"
        + (f" · {s.treatment}" if several else ""): s.interval
        for s in found
    }
    chart = interval_chart(
        t("{metric} by segment", metric=t(primary.title)),
        rows,
        unit=unit,
        axis=t("difference"),
        reference_label=t("no difference"),
        note=t(
            "The intervals are wide enough for all segments together; a segment that stands out by chance does not count."
        ),
        say=t,
    )
    return render_blocks([chart], in_simulation=False)


def cohorts(t: Words, reading: Reading) -> str:
    """Visitors by week of first exposure; a week whose windows are open has no figures yet."""
    c, counting = reading.cells, reading.experiment.counting
    week = (c.hour - c.hour.min()) // (24 * COHORT_DAYS)
    variants = [v.key for v in reading.experiment.variants]
    rows: list[dict[str, Cell]] = []
    for w in np.unique(week):
        mine = c.where(week == w)
        row: dict[str, Cell] = {"week": t("week {n}", n=w + 1), "visitors": int(mine.n.sum())}
        for i, variant in enumerate(variants):
            own = mine.where(mine.variant == variant)
            converted = own.where(own.is_matured(counting.conversion_window_s, reading.as_of))
            kept = own.where(own.is_matured(counting.kept_window_s, reading.as_of))
            row[f"c{i}"] = float(converted.n_subscribed.sum() / converted.n.sum()) if len(converted) else None
            row[f"k{i}"] = float(kept.n_kept.sum() / kept.n.sum()) if len(kept) else None
        rows.append(row)
    columns = [Column("week", t("first seen in")), Column("visitors", t("visitors"), COUNT)]
    columns += [Column(f"c{i}", f"{t('conversion')} · {v}", SHARE) for i, v in enumerate(variants)]
    columns += [Column(f"k{i}", f"{t('kept per visitor')} · {v}", SHARE) for i, v in enumerate(variants)]
    note = t("Only visitors whose window has closed are counted in a share; a dash is not known yet.")
    table = Table(columns, rows, caption=t("By week of the first visit"), note=note)
    return render_blocks([table, *_stays(t, reading)], in_simulation=False)


def _stays(t: Words, reading: Reading) -> list[Block]:
    """How long subscribers stay, once somebody is known to have left."""
    curves = reading.survival()
    if not any((c.share < 1).any() for c in curves.values()):
        return []
    lines = [
        Line(variant, [LinePoint(float(d) + 1, *v) for d, *v in zip(c.day, c.share, c.low, c.high, strict=True)])
        for variant, c in curves.items()
        if len(c.day) > 1
    ]
    note = t("Kaplan and Meier's curve. It describes: who subscribes may differ between the variants.")
    chart = line_chart(
        t("Subscribers still there"), lines, unit=SHARE, axis=t("share of subscribers"), x_axis=t("days since subscribing"),
        note=note, say=t,
    )  # fmt: skip
    return [chart] if lines else []


def notes(rows: Sequence[AuditRow]) -> list[AuditRow]:
    """Notes of an experiment, oldest first, as they are numbered on the chart."""
    return sorted((r for r in rows if r.action == "note"), key=lambda r: r.at)


def _marks(reading: Reading, notes: Sequence[AuditRow], *, first: float) -> dict[str, float]:
    """Day of each note by its number, as far as the chart reaches."""
    start = int(reading.cells.hour.min()) * HOUR_US
    days = {str(i): (to_us(n.at) - start) / (HOUR_US * 24) for i, n in enumerate(notes, start=1)}
    last = (to_us(reading.as_of) - start) / (HOUR_US * 24)
    return {label: day for label, day in days.items() if first <= day <= last}


def _metrics(t: Words, now: ExperimentReading) -> Table:
    rows: list[dict[str, Cell]] = []
    for m in now.metrics:
        shown, limits = difference(m.interval, difference_unit(m))
        rows.append(
            {
                "metric": t.metric(m) + ("" if len(now.plan.treatments) == 1 else f" · {m.treatment}"),
                "role": t(m.metric.role),
                "control": format_cell(m.effect.control, m.metric.unit),
                "treatment": format_cell(m.effect.treatment, m.metric.unit),
                "difference": shown,
                "interval": limits,
            }
        )
    columns = [
        Column("metric", t("metric")),
        Column("role", t("role")),
        Column("control", now.plan.control),
        Column("treatment", now.plan.treatments[0] if len(now.plan.treatments) == 1 else t("variant")),
        Column("difference", t("difference")),
        Column("interval", t("holds at all times")),
    ]
    note = t("Retention among subscribers describes and decides nothing: it looks only at those who subscribed.")
    if now.plan.primary.covariate:
        note += " " + t(
            "All others are adjusted for {name}, as visitors had it before.", name=now.plan.primary.covariate
        )
    for metric in now.plan.metrics:
        if metric.cap is not None:
            cap = format_cell(metric.cap, metric.unit)
            note += " " + t(
                "{metric}: more than {cap} of one visitor counts as {cap}.", metric=t(metric.title), cap=cap
            )
    return Table(columns, rows, caption=t("Every metric"), note=note)


def looks_table(t: Words, found: Replay, n_looks: int) -> Table:
    """Each planned look: what a test that ignores looking would have said, and what was said."""
    treatment = found.now.plan.treatments[0]
    rows: list[dict[str, Cell]] = [
        {
            "look": t("{i} of {n}", i=i, n=n_looks),
            "day": f"{day:.0f}",
            "visitors": then.power.matured,
            "single": _single(t, then, treatment),
            "said": t(then.verdict.decision) + (f" {then.verdict.variant}" if then.verdict.variant else ""),
        }
        for i, (day, then) in enumerate(found.looks, start=1)
    ]
    columns = [
        Column("look", t("planned look")),
        Column("day", t("day")),
        Column("visitors", t("visitors followed"), COUNT),
        Column("single", t("a test that ignores looking would say")),
        Column("said", t("verdict")),
    ]
    return Table(columns, rows, caption=t("What was said at each planned look"))


def _single(t: Words, reading: ExperimentReading, treatment: str) -> str:
    m = _primary(reading, treatment)
    if m is None:
        return "–"
    p = format_value(m.effect.p_value, PROBABILITY)
    return (f"p {p}" if p.startswith("<") else f"p = {p}") + (t(", “significant”") if m.effect.p_value < 0.05 else "")


def _primary(reading: ExperimentReading, treatment: str) -> MetricReading | None:
    name = reading.plan.primary.name
    return next((m for m in reading.metrics if m.metric.name == name and m.treatment == treatment), None)
