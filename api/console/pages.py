"""What stands on each page, in blocks of the report kit; no HTML here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.experiments.reading import Reading
from engine.offers.placement import Placement
from offline_eval.abtest import ExperimentReading
from offline_eval.abtest.pages import difference_unit, experiment_section, key_figures, verdict_callout
from offline_eval.report import (
    COUNT,
    PROBABILITY,
    SHARE,
    Callout,
    Cell,
    Column,
    KeyFigure,
    KeyFigures,
    Line,
    LinePoint,
    Section,
    Source,
    Table,
    format_value,
    line_chart,
)
from offline_eval.report.blocks import Block

COHORT_DAYS = 7


@dataclass(frozen=True, slots=True)
class View:
    """A page of the console."""

    title: str
    sections: Sequence[Section]
    lead: str = ""
    in_simulation: bool = False


def home(readings: Sequence[Reading], *, in_simulation: bool) -> View:
    """What is running, and what needs somebody."""
    running = [r for r in readings if r.experiment.state == "running"]
    due = [r for r in running if _needs_someone(r)]
    sections = [
        Section(
            "What needs you",
            [_short(r) for r in due] or [Callout("Nothing right now", tone="good")],
            in_simulation=in_simulation,
        ),
    ]
    for r in running:
        blocks: list[Block] = [] if r in due else [_verdict(r)]
        if r.found is not None:
            blocks.append(key_figures(r.found.now, is_planned=r.is_planned))
        sections.append(Section(r.experiment.id, blocks, in_simulation=in_simulation, lead=r.experiment.hypothesis))
    if not running:
        sections.append(
            Section(
                "Experiments",
                [Callout("No experiment is running", "Create one over the API: POST /v1/experiments, then start it.")],
                in_simulation=in_simulation,
            )
        )
    lead = f"{len(running)} running, {len(due)} waiting for a decision of yours."
    return View("Home", sections, lead, in_simulation)


def experiments(readings: Sequence[Reading], *, in_simulation: bool) -> View:
    """All experiments in a table; the page links each of them."""
    order = {"running": 0, "scheduled": 1, "draft": 2, "stopped": 3, "archived": 4}
    rows: list[dict[str, Cell]] = [
        {
            "id": r.experiment.id,
            "state": r.experiment.state,
            "placement": r.experiment.placement,
            "variants": ", ".join(v.key for v in r.experiment.variants),
            "subjects": r.n_subjects,
            "verdict": _word(r),
        }
        for r in sorted(readings, key=lambda r: (order[r.experiment.state], r.experiment.id))
    ]
    columns = [
        Column("id", "experiment"),
        Column("state", "state"),
        Column("placement", "placement"),
        Column("variants", "variants"),
        Column("subjects", "visitors", COUNT),
        Column("verdict", "verdict"),
    ]
    blocks: list[Block] = [Table(columns, rows)] if rows else [Callout("There is no experiment yet")]
    return View("Experiments", [Section("All experiments", blocks, in_simulation=in_simulation)], "", in_simulation)


def experiment(reading: Reading, *, in_simulation: bool) -> View:
    """One experiment: the sentence first, then why."""
    blocks: list[Block] = [_verdict(reading)]
    if reading.plan.is_late:
        blocks.append(
            Callout(
                "The plan was written after the start",
                "Whoever had seen figures by then may have chosen it to fit.",
                "warning",
            )
        )
    sections = []
    if reading.found is None:
        sections.append(Section("Result", blocks, in_simulation=in_simulation))
    else:
        now = reading.found.now
        blocks.append(key_figures(now, is_planned=reading.is_planned))
        sections.append(Section("Result", blocks, in_simulation=in_simulation))
        over_time = _over_time(reading)
        if over_time:
            sections.append(Section("Over time", over_time, in_simulation=in_simulation))
        detail = experiment_section(now, title="Every metric", with_verdict=False, is_planned=reading.is_planned)
        sections += [detail, Section("Cohorts", [_cohorts(reading)], in_simulation=in_simulation)]
    sections.append(Section("Set-up", [_phases(reading), *_plan_hint(reading)], in_simulation=False))
    shown = reading.as_of.strftime("%Y-%m-%d %H:%M")
    return View(
        reading.experiment.id,
        sections,
        f"{reading.experiment.state.capitalize()}, read as of {shown} UTC.",
        in_simulation,
    )


def offers(placements: Sequence[Placement]) -> View:
    """What may be shown where."""
    sections = []
    for placement in placements:
        rows: list[dict[str, Cell]] = [
            {
                "offer": str(o.offer.payload.get("title") or o.offer.id),
                "id": o.offer.id,
                "from": o.starts_at.strftime("%Y-%m-%d") if o.starts_at else "always",
                "until": o.ends_at.strftime("%Y-%m-%d") if o.ends_at else "open",
                "stock": "unlimited" if o.stock is None else f"{o.stock:,}",
            }
            for o in placement.offers
        ]
        columns = [
            Column("offer", "offer"),
            Column("id", "id"),
            Column("from", "from"),
            Column("until", "until"),
            Column("stock", "stock"),
        ]
        note = f"{placement.explore_share:.0%} of decisions explore at random. Decided by {placement.policy or 'the baseline order'} outside experiments."
        sections.append(Section(placement.id, [Table(columns, rows, note=note)], in_simulation=False))
    return View("Offers", sections or [Section("Offers", [Callout("There is no placement yet")], in_simulation=False)])


def _needs_someone(r: Reading) -> bool:
    return not r.is_planned or (r.found is not None and r.found.now.verdict.decision != "keep running")


def _short(r: Reading) -> Callout:
    verdict = _verdict(r)
    return Callout(f"{r.experiment.id}: {verdict.title}", verdict.text, verdict.tone)


def _verdict(r: Reading) -> Callout:
    if r.found is None:
        return Callout(
            "Nobody has been exposed yet"
            if r.experiment.state != "draft"
            else "A draft: start it when the checklist is done"
        )
    if r.found.now.split.is_broken:
        return verdict_callout(r.found.now)
    if not r.is_planned:
        return Callout(
            "No plan, no verdict",
            "How long it runs and which change matters were not fixed before the start. The intervals below hold at any time; "
            "what to do with them is yours to decide.",
            "warning",
        )
    return verdict_callout(r.found.now)


def _word(r: Reading) -> str:
    if r.found is None:
        return "–"
    if not r.is_planned and not r.found.now.split.is_broken:
        return "no plan"
    verdict = r.found.now.verdict
    return f"ship {verdict.variant}" if verdict.variant else verdict.decision


def _over_time(r: Reading) -> list[Block]:
    """Difference of the primary metric with its band that holds at all times, and what was said at each planned look."""
    assert r.found is not None
    treatment = r.found.now.plan.treatments[0]
    points = []
    for day, reading in r.found.over_time:
        m = _primary(reading, treatment)
        if m is not None and reading.power.matured >= reading.plan.min_subjects:
            points.append(LinePoint(day, m.effect.estimate, m.always.low, m.always.high))
    blocks: list[Block] = []
    if len(points) > 1:
        primary = r.found.now.plan.primary
        blocks.append(
            line_chart(
                f"{primary.title}: {treatment} minus {r.found.now.plan.control}",
                [Line(treatment, points)],
                unit=difference_unit(r.found.now.of(primary.name)),
                axis="difference",
                x_axis="day of the experiment",
                reference=0.0,
                note="The band holds at every day at once, so it may be read as often as one likes.",
            )
        )
    if r.is_planned and r.found.looks:
        rows: list[dict[str, Cell]] = [
            {
                "look": f"{i} of {r.plan.n_looks}",
                "day": f"{day:.0f}",
                "visitors": reading.power.matured,
                "said": reading.verdict.decision + (f" {reading.verdict.variant}" if reading.verdict.variant else ""),
                "single": _single_look(reading, treatment),
            }
            for i, (day, reading) in enumerate(r.found.looks, start=1)
        ]
        columns = [
            Column("look", "planned look"),
            Column("day", "day"),
            Column("visitors", "visitors followed", COUNT),
            Column("single", "a test that ignores looking would say"),
            Column("said", "verdict"),
        ]
        blocks.append(Table(columns, rows, caption="What was said at each planned look"))
    return blocks


def _single_look(reading: ExperimentReading, treatment: str) -> str:
    m = _primary(reading, treatment)
    if m is None:
        return "–"
    p = format_value(m.effect.p_value, PROBABILITY)
    return (f"p {p}" if p.startswith("<") else f"p = {p}") + (", “significant”" if m.effect.p_value < 0.05 else "")


def _primary(reading: ExperimentReading, treatment: str):  # type: ignore[no-untyped-def]  # MetricReading or None
    name = reading.plan.primary.name
    return next((m for m in reading.metrics if m.metric.name == name and m.treatment == treatment), None)


def _cohorts(r: Reading) -> Table:
    """Visitors by week of first exposure; a week whose windows are open has no figures yet."""
    c = r.cells
    week = (c.hour - c.hour.min()) // (24 * COHORT_DAYS)
    rows: list[dict[str, Cell]] = []
    for w in np.unique(week):
        for variant in (v.key for v in r.experiment.variants):
            mine = c.where((week == w) & (c.variant == variant))
            converted, kept = (mine.where(mine.is_matured(s, r.as_of)) for s in _windows(r))
            rows.append(
                {
                    "week": f"week {w + 1}",
                    "variant": variant,
                    "visitors": int(mine.n.sum()),
                    "conversion": float(converted.n_subscribed.sum() / converted.n.sum()) if len(converted) else None,
                    "kept": float(kept.n_kept.sum() / kept.n.sum()) if len(kept) else None,
                }
            )
    columns = [
        Column("week", "first seen in"),
        Column("variant", "variant"),
        Column("visitors", "visitors", COUNT),
        Column("conversion", "conversion", SHARE),
        Column("kept", "kept per visitor", SHARE),
    ]
    return Table(
        columns,
        rows,
        caption="By week of the first visit",
        note="Only visitors whose window has closed are counted in a share; a dash is not known yet.",
    )


def _windows(r: Reading) -> tuple[float, float]:
    return r.experiment.counting.conversion_window_s, r.experiment.counting.kept_window_s


def _phases(r: Reading) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "phase": str(p.number),
            "from": p.started_at.strftime("%Y-%m-%d %H:%M"),
            "until": p.ended_at.strftime("%Y-%m-%d %H:%M") if p.ended_at else "now",
            "weights": ", ".join(f"{v.key} {v.weight_bp / 100:g} %" for v in p.variants),
            "coverage": p.coverage,
        }
        for p in r.experiment.phases
    ]
    columns = [
        Column("phase", "phase"),
        Column("from", "from"),
        Column("until", "until"),
        Column("weights", "split"),
        Column("coverage", "coverage", SHARE),
    ]
    policies = "; ".join(f"{v.key}: {v.policy}" for v in r.experiment.variants)
    return Table(
        columns,
        rows,
        caption="Phases",
        note=f"Who decides: {policies}. New weights open a new phase; phases are compared within themselves.",
    )


def _plan_hint(r: Reading) -> list[Block]:
    if r.is_planned:
        figures = [
            KeyFigure("planned visitors", r.plan.planned_subjects, COUNT),
            KeyFigure("planned looks", r.plan.n_looks, COUNT),
            KeyFigure("judged by", r.plan.primary),
        ]
        return [KeyFigures(figures)]
    command = f"nextoffer console plan {r.experiment.id} --planned-subjects 20000 --effect 0.01"
    return [Source(command, "Fix a plan (best before the start)")]
