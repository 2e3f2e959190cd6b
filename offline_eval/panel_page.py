"""A panel as a report page: the verdict first, then estimates, checks, and what lies under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from offline_eval.diagnostics import Check, calibration_table
from offline_eval.panel_figures import MIN_ROWS_OF_A_STRETCH, offer_figures, over_time
from offline_eval.report import (
    Bar,
    Block,
    Callout,
    Cell,
    Column,
    Details,
    KeyFigure,
    KeyFigures,
    Line,
    LinePoint,
    Page,
    Section,
    Table,
    bar_chart,
    interval_chart,
    line_chart,
    reliability_chart,
    weight_histogram,
)
from offline_eval.report import Interval as Shown
from offline_eval.report.blocks import Tone
from offline_eval.report.formatting import COUNT, SHARE, format_value

if TYPE_CHECKING:
    from offline_eval.estimates import Estimate
    from offline_eval.intervals import Bounds
from offline_eval.panel import Panel

_TONES = {
    "recommend": "good",
    "caution": "warning",
    "do not use": "bad",
    "this log cannot answer": "bad",
}
_ORDER = {"fail": 0, "warn": 1, "not known": 2, "pass": 3}
MAX_OFFERS_SHOWN = 15
# More lines than these cannot be told apart.
MAX_LINES = 5


def panel_page(panel: Panel, *, title: str, in_simulation: bool) -> Page:
    """The page of a panel; its JSON twin holds the same figures, unrounded."""
    summary: list[Callout | KeyFigures] = []
    for name in panel.verdicts:
        summary += [_verdict(panel, name), _key_figures(panel, name)]
    sections = [
        Section(
            f"Estimates of {name}" if number == 1 else f"Estimates of {name} ({number})",
            _estimate_blocks(panel, name),
            in_simulation=in_simulation,
            lead=_lead(panel, name),
        )
        for name, number in _numbered(list(panel.verdicts))
    ]
    sections.append(
        Section(
            "Checks",
            _check_blocks(panel),
            in_simulation=in_simulation,
            lead="What to know before a number is believed.",
        )
    )
    for heading, blocks in (
        ("Weights and support", _weight_blocks(panel)),
        ("Who loses: the whole distribution", _distribution_blocks(panel)),
        ("Reward model and time", _under_blocks(panel)),
    ):
        if blocks:
            sections.append(Section(heading, blocks, in_simulation=in_simulation))
    return Page(
        title,
        sections,
        in_simulation=in_simulation,
        subtitle=f"{format_value(panel.n_rows)} logged decisions of {_subjects(panel)}; incumbent: {panel.incumbent}; "
        f"verdicts rest on {panel.headline}",
        summary=summary,
        facts={
            "rows": panel.n_rows,
            "subjects": None if panel.data.moments.rows_are_units else panel.n_units,
            "mean reward of the log": panel.mean_reward,
            "confidence": 1 - panel.alpha,
            **panel.settings,
            **{f"note {i}": note for i, note in enumerate(panel.notes, start=1)},
        },
    )


def _subjects(panel: Panel) -> str:
    if panel.data.moments.rows_are_units:
        return "unnamed subjects, each row for itself"
    return "many subjects" if panel.n_units is None else f"{format_value(panel.n_units)} subjects"


def _verdict(panel: Panel, name: str) -> Callout:
    verdict = panel.verdicts[name]
    points = [*verdict.reasons[1:], *(f"What would settle it: {w}" for w in verdict.would_settle)]
    tone = _TONES[verdict.word]
    return Callout(f"{name}: {verdict.word}", verdict.reasons[0], tone=tone, points=points)  # type: ignore[arg-type]  # tones above are the literal's


def _key_figures(panel: Panel, name: str) -> KeyFigures:
    difference = panel.differences[name][panel.headline]
    rows = KeyFigure(
        "effective rows", round(panel.effective_rows[name]), COUNT, note=f"of {format_value(panel.n_rows)}"
    )
    incumbent = KeyFigure(f"value of {panel.incumbent}", _shown(panel.estimates[panel.incumbent][panel.headline]))
    if panel.verdicts[name].word == "this log cannot answer":  # no large figure that invites belief
        return KeyFigures(
            [replace(rows, tone="bad"), KeyFigure("largest weight", panel.largest_weight[name]), incumbent]
        )
    figures = [
        KeyFigure(f"difference to {panel.incumbent}", _shown(difference), tone=_side(difference), signed=True),
        KeyFigure("estimated value", _shown(panel.estimates[name][panel.headline])),
        incumbent,
        rows,
    ]
    return KeyFigures(figures)


def _side(difference: Estimate) -> Tone:
    if difference.bounds is None:
        return "note"
    return "good" if difference.bounds.low > 0 else ("bad" if difference.bounds.high < 0 else "note")


def _shown(e: Estimate | None) -> Shown | None:
    return None if e is None else _interval(e.value, e.bounds)


def _interval(value: float | None, bounds: Bounds | None) -> Shown | None:
    if value is None or bounds is None:
        return None
    return Shown(value, bounds.low, bounds.high)


def _numbered(names: Sequence[str]) -> list[tuple[str, int]]:
    """Names that differ in punctuation only would be one address on the page: the later ones get a number."""
    plain = ["".join(c.lower() if c.isalnum() else " " for c in name).split() for name in names]
    return [(name, 1 + plain[:i].count(plain[i])) for i, name in enumerate(names)]


def _lead(panel: Panel, name: str) -> str:
    said = f"Per decision, and less {panel.incumbent}, judged on the same rows."
    is_refused = panel.verdicts[name].word == "this log cannot answer"
    return f"The log cannot answer: none of these figures is one to act on. {said}" if is_refused else said


def _estimate_blocks(panel: Panel, name: str) -> list[Block]:
    blocks: list[Block] = []
    chart: dict[str, Shown] = {}
    for key, e in panel.differences[name].items():
        shown = _shown(e)
        if shown is not None:
            chart[key] = shown
    if chart:
        blocks.append(interval_chart("Difference to the incumbent, by estimator", chart))
    columns = [
        Column("estimator", "estimator"),
        Column("difference", "difference", signed=True),
        Column("value", "value"),
    ]
    others = [Column("estimator", "estimator"), Column("bootstrap", "bootstrap"), Column("wide", "bias-aware")]
    rows: list[dict[str, Cell]] = []
    more: list[dict[str, Cell]] = []
    for key, e in panel.estimates[name].items():
        rows.append(
            {"estimator": key, "difference": _shown(panel.differences[name].get(key)), "value": _shown(e) or e.note}
        )
        more.append(
            {
                "estimator": key,
                "bootstrap": _interval(e.value, e.bootstrap),
                "wide": _interval(e.value, e.bias_aware),
            }
        )
    refused = panel.verdicts[name].word == "this log cannot answer"
    blocks.append(Table(columns, rows, caption="In figures", highlight="" if refused else panel.headline))
    note = "Bias-aware: moved out by the largest bias that shrinking the weights can cause; for a shrunk estimator, read this one."
    blocks.append(Details("Other intervals of the value", [Table(others, more, note=note)]))
    return blocks


def _check_blocks(panel: Panel) -> list[Block]:
    blocks: list[Block] = []
    for name, checks in [("The log", panel.log_checks), *panel.checks.items()]:
        loud = [c for c in checks if c.status in ("fail", "warn")]
        quiet = [c for c in checks if c.status not in ("fail", "warn")]
        if loud:
            blocks.append(_checks(name, loud))
        passed = sum(c.status == "pass" for c in quiet)
        rest = "" if passed == len(quiet) else f", {len(quiet) - passed} cannot be known from this log"
        told = f"{name}: {passed} check{'' if passed == 1 else 's'} passed{rest}"
        blocks.append(Details(told, [_checks("", quiet)]))
    return blocks


def _checks(caption: str, checks: Sequence[Check]) -> Table:
    columns = [
        Column("check", "check"),
        Column("status", "status", is_status=True),
        Column("meaning", "what it means"),
        Column("rule", "rule"),
    ]
    rows: list[dict[str, Cell]] = [
        {"check": c.name, "status": c.status, "meaning": c.sentence, "rule": c.threshold}
        for c in sorted(checks, key=lambda c: _ORDER[c.status])
    ]
    return Table(columns, rows, caption=caption)


def _weight_blocks(panel: Panel) -> list[Block]:
    blocks: list[Block] = []
    counts = panel.data.log.counts
    assert counts is not None
    logged = counts.shown / max(counts.rows, 1)
    for name, record in panel.data.candidates.items():
        weights = record.sample.values()
        if name == panel.incumbent and weights.min() == weights.max():
            continue
        if (weights > 0).any():
            drawn = "" if record.sample.step == 1 else f" One row in {record.sample.step} is drawn."
            note = (
                f"{record.n_rows:,} weights, {record.n_rows - record.n_shown:,} of them zero, the largest "
                f"{format_value(record.largest)}, mean {format_value(record.weight / record.n_rows)}.{drawn}"
            )
            blocks.append(weight_histogram(f"Weights of {name}", weights, note=note))
        target = record.target_by_offer
        if target is not None:
            top = np.argsort(-np.maximum(target, logged))[:MAX_OFFERS_SHOWN]
            bars = [Bar(str(panel.offer_ids[int(j)]), float(target[j]), mark=float(logged[j])) for j in top]
            blocks.append(
                bar_chart(
                    f"What {name} would show", bars, unit=SHARE, axis="share of decisions",
                    note="The black tick is what the log showed."
                    + ("" if len(target) <= len(top) else f" The {len(top)} largest of {len(target)} offers."),
                )
            )  # fmt: skip
    blocks.append(Details("Every offer in figures", [_offer_table(panel)]))
    return blocks


def _offer_table(panel: Panel) -> Table:
    columns = [
        Column("offer", "offer"),
        Column("rows", "rows in the log"),
        Column("stands", "rows stand for", note="1 if propensities are true"),
    ]
    columns += [Column(f"share {c}", f"share under {c}", unit=SHARE) for c in panel.verdicts]
    rows: list[dict[str, Cell]] = [
        {
            "offer": found["offer"],
            "rows": found["rows"],
            "stands": found["rows_stand_for"],
            **{f"share {name}": found["shares"][name] for name in panel.verdicts},
        }
        for found in offer_figures(panel)
    ]
    note = "Mean of 1 / propensity over the rows in which the offer could be shown, counting those that showed it."
    return Table(columns, rows, note=note)


def _distribution_blocks(panel: Panel) -> list[Block]:
    if not panel.distributions:
        return []
    shares = [t.share for t in next(iter(panel.distributions.values())).quantiles]
    columns = [Column("policy", "policy"), Column("worst", f"mean of the worst {_tenth(panel):.0%}")]
    columns += [Column(f"q{s}", f"{s:.0%} earn at most") for s in shares]
    rows: list[dict[str, Cell]] = []
    for name, found in panel.distributions.items():
        row: dict[str, Cell] = {"policy": name, "worst": _interval(found.worst.value, found.worst.bounds)}
        row |= {f"q{t.share}": _interval(t.value, t.bounds) for t in found.quantiles}
        rows.append(row)
    table = Table(
        columns,
        rows,
        caption="In figures",
        note=f"Weighted by the candidate; intervals by bootstrap. {panel.distributions_note}",
    )
    lines = [
        Line(name, [LinePoint(share, value) for share, value in found.curve], is_dashed=name == panel.incumbent)
        for name, found in list(panel.distributions.items())[:MAX_LINES]
    ]
    chart = line_chart(
        "Reward of a decision, from the worst to the best",
        lines,
        x_axis="share of decisions that earn at most this",
        axis="reward",
        note="Where a line lies lower on the left, the worst off earn less, whatever the mean says.",
    )
    return [chart, table]


def _tenth(panel: Panel) -> float:
    return next(iter(panel.distributions.values())).worst.share


def _under_blocks(panel: Panel) -> list[Block]:
    blocks: list[Block] = []
    table = calibration_table(panel.data.log)
    if table:
        predicted, observed = (np.asarray([row[key] for row in table]) for key in ("predicted", "observed"))
        counts = np.asarray([int(row["rows"]) for row in table])
        model = "reward model"
        blocks.append(
            reliability_chart(
                "Model's values against rewards", {model: predicted}, {model: observed}, {model: counts},
                x_axis="model's value of the shown offer", axis="mean reward",
            )
        )  # fmt: skip
    chart = _time_chart(panel)
    return [*blocks, chart] if chart is not None else blocks


def _time_chart(panel: Panel) -> Block | None:
    """Value of every candidate in consecutive stretches of the log's time."""
    found = over_time(panel)
    start = min((np.datetime64(p["from"]) for p in found["log"]), default=None)
    if start is None or len(found["log"]) < 2:
        return None

    def line(name: str, shown: str) -> Line:
        points = [
            LinePoint(
                float((np.datetime64(p["from"]) - start) / np.timedelta64(1, "D")),
                p["mean"],
                p["mean"] - 1.96 * p["standard_error"],
                p["mean"] + 1.96 * p["standard_error"],
            )
            for p in found[name]
        ]
        return Line(shown, points, is_dashed=name == panel.incumbent)

    names = sorted(panel.data.candidates, key=lambda name: name != panel.incumbent)[:MAX_LINES]
    lines = [line(name, name) for name in names if len(found[name]) > 1]
    if panel.data.candidates and not lines:
        lines = [line("log", "what the log earned")]
    return line_chart(
        "Value over the log's time", lines, x_axis="days since the log began", axis="reward of a decision",
        note="Stretches of equal numbers of rows, each at its beginning, by self-normalised weights with 95 % intervals that take rows "
        f"for independent; dashed: the incumbent. Stretches that tell as little as {MIN_ROWS_OF_A_STRETCH} rows are left out.",
    )  # fmt: skip
