"""An experiment's reading as sections of a report."""

from __future__ import annotations

from offline_eval.abtest.analysis import ExperimentReading, MetricReading
from offline_eval.report import (
    COUNT,
    DAYS,
    POINTS,
    RELATIVE,
    SHARE,
    Callout,
    Cell,
    Column,
    Details,
    Interval,
    KeyFigure,
    KeyFigures,
    Section,
    Table,
    Unit,
    interval_chart,
)
from offline_eval.report.blocks import Block, Tone, format_cell

_TONES: dict[str, Tone] = {"ship": "good", "stop": "bad", "keep running": "warning", "broken": "bad"}


def verdict_callout(reading: ExperimentReading) -> Callout:
    """The sentence, in the colour of the decision."""
    tone = _TONES[reading.verdict.decision]
    if reading.verdict.reason == "no_difference":
        tone = "note"
    return Callout(reading.verdict.sentence, tone=tone)


def key_figures(reading: ExperimentReading, *, is_planned: bool = True) -> KeyFigures:
    """Differences that count, for the first treatment (or the one to ship).

    ``is_planned`` is False where no plan was fixed: then no planned sample is shown.
    """
    treatment = reading.verdict.variant or reading.plan.treatments[0]
    figures = [
        KeyFigure(
            m.metric.title,
            m.interval,
            difference_unit(m),
            f"{treatment} against {reading.plan.control}",
            tone=tone_of(m),
        )
        for m in reading.metrics
        if m.treatment == treatment and m.metric.role != "descriptive"
    ]
    planned = f"of {reading.power.planned:,} planned" if is_planned else "no plan was fixed"
    figures.append(KeyFigure("subjects followed", reading.power.matured, COUNT, planned))
    return KeyFigures(figures)


def experiment_section(
    reading: ExperimentReading, *, title: str = "Experiment", with_verdict: bool = True, is_planned: bool = True
) -> Section:
    """Everything one look says: the sentence, a forest plot, the table, guardrails, retention, split and power.

    Parameters
    ----------
    with_verdict
        False where the sentence stands above the section already.
    is_planned
        False where no plan was fixed: no sentence, planned looks or power are shown then.
    """
    blocks: list[Block] = [verdict_callout(reading)] if with_verdict and is_planned else []
    blocks += [Callout(w, tone="warning") for w in reading.warnings]
    lifts = {
        _name(reading, m): lift for m in reading.metrics if (lift := m.effect.lift) and m.metric.role != "descriptive"
    }
    if lifts:
        blocks.append(
            interval_chart(
                "Relative change against the control",
                lifts,
                unit=RELATIVE,
                axis="relative change",
                note="95 % intervals for a single look; the verdict uses the wider ones in the table.",
            )
        )
    blocks += [
        _metric_table(reading, is_planned=is_planned),
        _retention_table(reading),
        Details("Split and power", [_split_table(reading), *([_power_table(reading)] if is_planned else [])]),
    ]
    return Section(
        title,
        [b for b in blocks if not (isinstance(b, Table) and not b.rows)],
        in_simulation=reading.in_simulation,
        lead=f"{reading.plan.experiment}: {' and '.join(reading.plan.treatments)} against {reading.plan.control}.",
    )


def difference_unit(reading: MetricReading) -> Unit:
    """Unit of a difference: percentage points where the metric is a share."""
    return POINTS if reading.metric.unit.kind == "share" else reading.metric.unit


def _metric_table(reading: ExperimentReading, *, is_planned: bool) -> Table:
    rows: list[dict[str, Cell]] = []
    for m in reading.metrics:
        if m.metric.role == "descriptive":
            continue
        unit = m.metric.unit
        difference = m.interval
        shown = difference_unit(m)
        rows.append(
            {
                "metric": _name(reading, m),
                "role": m.metric.role,
                "control": format_cell(m.effect.control, unit),
                "treatment": format_cell(m.effect.treatment, unit),
                "difference": format_cell(difference.estimate, shown, signed=True),
                "interval": f"{format_cell(difference.low, shown, signed=True)} to {format_cell(difference.high, shown, signed=True)}",
                "lift": m.effect.lift,
            }
        )
    return Table(
        [
            Column("metric", "metric"),
            Column("role", "role"),
            Column("control", reading.plan.control),
            Column("treatment", "treatment"),
            Column("difference", "difference"),
            Column("interval", "may be looked at any time"),
            Column("lift", "relative", RELATIVE, note="single look"),
        ],
        rows,
        caption="Every metric, per visitor",
        note=_interval_note(reading) if is_planned else "Only subjects whose window has closed are counted.",
    )


def _interval_note(reading: ExperimentReading) -> str:
    plan = reading.plan
    last = reading.looks[-1] if reading.looks else None
    looks = (
        f"{len(reading.looks)} of {plan.n_looks} planned looks taken"
        if last
        else f"none of {plan.n_looks} planned looks taken"
    )
    return (
        f"{looks}. The primary metric is judged at planned looks, the guardrails at all times; together they err with at most {plan.alpha:.0%}. "
        "Only subjects whose window has closed are counted."
    )


def _retention_table(reading: ExperimentReading) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "treatment": t,
            "control_share": r.control,
            "treatment_share": r.treatment,
            "difference": Interval(r.lee.estimate, r.lee.low, r.lee.high, r.lee.level, r.lee.method),
        }
        for t, r in reading.retention.items()
    ]
    return Table(
        [
            Column("treatment", "treatment"),
            Column("control_share", reading.plan.control, SHARE),
            Column("treatment_share", "treatment", SHARE),
            Column("difference", "difference", POINTS, note="bounds for the same people"),
        ],
        rows,
        caption="Retention among subscribers (descriptive)",
        note=(
            "Who subscribes depends on the variant, so these are different people; it decides nothing. Kept per visitor is the fair "
            "comparison. The bounds assume that one variant only adds subscribers (Lee 2009)."
        ),
    )


def _split_table(reading: ExperimentReading) -> Table:
    split = reading.split
    rows: list[dict[str, Cell]] = [
        {"variant": v, "seen": n, "expected": split.expected[v]} for v, n in split.observed.items()
    ]
    return Table(
        [Column("variant", "variant"), Column("seen", "subjects seen", COUNT), Column("expected", "expected", COUNT)],
        rows,
        caption="Is the traffic split as planned?",
        note=f"{split.sentence().capitalize()}. Sequential test, p = {split.p_value:.3f}, alarm at {split.alpha}.",
    )


def _power_table(reading: ExperimentReading) -> Table:
    p = reading.power
    effect = format_cell(reading.plan.effect, difference_unit_of_plan(reading)).lstrip("+")
    rows: list[dict[str, Cell]] = [
        {"what": "subjects followed long enough", "value": format_cell(p.matured, COUNT)},
        {"what": "planned", "value": format_cell(p.planned, COUNT)},
        {
            "what": f"needed to find a change of {effect} with {reading.plan.power:.0%} probability",
            "value": format_cell(p.required, COUNT),
        },
    ]
    if p.detectable is not None:
        found = format_cell(p.detectable, difference_unit_of_plan(reading)).lstrip("+")
        rows.append(
            {"what": f"change that so many subjects find with {reading.plan.power:.0%} probability", "value": found}
        )
    if p.days_left is not None:
        rows.append({"what": "to the planned end", "value": format_cell(p.days_left, DAYS)})
    if p.days_to_required is not None:
        rows.append({"what": "to the needed number", "value": format_cell(p.days_to_required, DAYS)})
    return Table(
        [Column("what", "power"), Column("value", "figure")],
        rows,
        caption="How far it is",
        note="Underpowered." if p.is_underpowered else "",
    )


def difference_unit_of_plan(reading: ExperimentReading) -> Unit:
    """Unit of the plan's effect."""
    unit = reading.plan.primary.unit
    return POINTS if unit.kind == "share" else unit


def _name(reading: ExperimentReading, m: MetricReading) -> str:
    return m.metric.title if len(reading.plan.treatments) == 1 else f"{m.metric.title} · {m.treatment}"


def tone_of(m: MetricReading) -> Tone:
    """How a reading is coloured: only a difference that is shown is good or bad."""
    if not (m.is_better or m.is_worse):
        return "note"
    return "good" if m.is_better else "bad"
