"""A panel as a report page: the verdict first, then differences, values, checks, and what lies under them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from offline_eval.diagnostics import calibration_table, value_over_time
from offline_eval.report import (
    Bar,
    Block,
    Callout,
    Cell,
    Chart,
    Column,
    Line,
    LinePoint,
    Page,
    Section,
    Table,
    bar_chart,
    interval_chart,
    line_chart,
    weight_histogram,
)
from offline_eval.report import Interval as Shown

if TYPE_CHECKING:
    from offline_eval.panel import Estimate, Panel

_TONES = {
    "recommend": "good",
    "caution": "warning",
    "do not use": "bad",
    "this log cannot answer": "bad",
}


def panel_page(panel: Panel, *, title: str, in_simulation: bool) -> Page:
    """The page of a panel; its JSON twin holds the same figures, unrounded."""
    summary = [_verdict(panel, name) for name in panel.verdicts]
    sections = [
        Section(
            "Differences to the incumbent",
            _difference_blocks(panel),
            in_simulation=in_simulation,
            lead=f"Candidate less {panel.incumbent}, per decision, judged on the same rows.",
        ),
        Section(
            "Values", _value_blocks(panel), in_simulation=in_simulation, lead="Per decision, in the unit of the reward."
        ),
        Section(
            "Checks",
            _check_blocks(panel),
            in_simulation=in_simulation,
            lead="What to know before a number is believed.",
        ),
        Section("Weights and support", _weight_blocks(panel), in_simulation=in_simulation),
    ]
    under = _under_blocks(panel)
    if under:
        sections.append(Section("Reward model and time", under, in_simulation=in_simulation))
    return Page(
        title,
        sections,
        in_simulation=in_simulation,
        subtitle=f"{panel.n_rows:,} logged decisions; incumbent: {panel.incumbent}; verdicts rest on {panel.headline}",
        summary=summary,
        facts={"rows": panel.n_rows, "subjects": panel.n_units, "mean reward of the log": panel.mean_reward},
    )


def _verdict(panel: Panel, name: str) -> Callout:
    verdict = panel.verdicts[name]
    text = " ".join(verdict.reasons)
    if verdict.would_settle:
        text += " It would be settled by: " + " ".join(verdict.would_settle)
    tone = _TONES[verdict.word]
    return Callout(f"{name}: {verdict.word}", text, tone=tone)  # type: ignore[arg-type]  # tones above are the literal's


def _shown(e: Estimate | None) -> Shown | None:
    if e is None or e.value is None or e.bounds is None:
        return None
    return Shown(e.value, e.bounds.low, e.bounds.high)


def _difference_blocks(panel: Panel) -> list[Block]:
    blocks: list[Block] = []
    chart = {name: shown for name in panel.differences if (shown := _shown(panel.differences[name][panel.headline]))}
    if chart:
        blocks.append(interval_chart(f"Difference by {panel.headline}", chart))
    blocks.append(_table("All estimators", panel, panel.differences))
    return blocks


def _value_blocks(panel: Panel) -> list[Block]:
    chart = {
        f"{name}, {key}": shown
        for name, found in panel.estimates.items()
        for key, e in found.items()
        if (shown := _shown(e)) is not None
    }
    blocks: list[Block] = []
    if chart:
        blocks.append(interval_chart("Estimates", chart, reference=None))
    blocks.append(_table("Estimates in figures", panel, panel.estimates))
    return blocks


def _table(title: str, panel: Panel, what: Mapping[str, Mapping[str, Estimate]]) -> Table:
    names = [e.name for e in next(iter(panel.data.estimators.values()))]
    rows: list[dict[str, Cell]] = [
        {"candidate": name, **{key: _shown(found.get(key)) for key in names}} for name, found in what.items()
    ]
    return Table([Column("candidate", "candidate"), *(Column(key, key) for key in names)], rows, caption=title)


def _check_blocks(panel: Panel) -> list[Block]:
    columns = [
        Column("status", "status"),
        Column("check", "check"),
        Column("meaning", "what it means"),
        Column("rule", "rule"),
    ]
    blocks: list[Block] = []
    for name, checks in [("the log", panel.log_checks), *panel.checks.items()]:
        rows: list[dict[str, Cell]] = [
            {"status": c.status, "check": c.name, "meaning": c.sentence, "rule": c.threshold} for c in checks
        ]
        blocks.append(Table(columns, rows, caption=f"Checks of {name}"))
    return blocks


def _weight_blocks(panel: Panel) -> list[Block]:
    blocks: list[Block] = []
    for name, record in panel.data.candidates.items():
        weights = record.sample.values()
        if name == panel.incumbent and weights.min() == weights.max():
            continue
        if (weights > 0).any():
            blocks.append(weight_histogram(f"Weights of {name}", weights))
        if record.target_by_offer is not None:
            top = np.argsort(-record.target_by_offer)[:20]
            bars = [Bar(str(panel.offer_ids[int(j)]), float(record.target_by_offer[j])) for j in top]
            blocks.append(bar_chart(f"What {name} would show", bars, axis="share of decisions"))
    return blocks


def _under_blocks(panel: Panel) -> list[Block]:
    blocks: list[Block] = []
    table = calibration_table(panel.data.log)
    if table:
        line = Line("reward model", [LinePoint(row["predicted"], row["observed"]) for row in table])
        blocks.append(_line("Model's values against rewards", [line], "model's value", "mean reward"))
    parts = value_over_time(panel.data.log)
    if parts:
        points = [
            LinePoint(
                float(i + 1), p["mean"], p["mean"] - 1.96 * p["standard_error"], p["mean"] + 1.96 * p["standard_error"]
            )
            for i, p in enumerate(parts)
        ]
        blocks.append(
            _line("Reward over the log's time", [Line("mean reward", points)], "tenth of the log", "mean reward")
        )
    return blocks


def _line(title: str, lines: list[Line], x_axis: str, axis: str) -> Chart:
    return line_chart(title, lines, x_axis=x_axis, axis=axis)
