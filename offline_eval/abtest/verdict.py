"""Ship, stop, keep running or broken: the rule, and the sentence in plain words and money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from offline_eval.abtest.split_check import SplitCheck
from offline_eval.report.formatting import Interval, Unit, format_value

if TYPE_CHECKING:
    from offline_eval.abtest.analysis import MetricReading, PowerReading
    from offline_eval.abtest.records import ExperimentPlan, Look, Metric

Decision = Literal["ship", "stop", "keep running", "broken"]
Reason = Literal[
    "broken_split",
    "imbalance",
    "too_early",
    "not_decided",
    "better",
    "worse",
    "guardrail",
    "guardrail_open",
    "no_difference",
]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do, and why.

    Parameters
    ----------
    variant
        Which treatment to ship; None unless the decision is to ship.
    reason
        A word for programs; ``sentence`` is for people.
    """

    decision: Decision
    reason: Reason
    sentence: str
    variant: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"decision": self.decision, "reason": self.reason, "variant": self.variant, "sentence": self.sentence}


def decide_verdict(
    plan: ExperimentPlan, readings: Sequence[MetricReading], split: SplitCheck, power: PowerReading, *, looks: Sequence[Look], is_ready: bool
) -> Verdict:  # fmt: skip
    """Apply the rule.

    Broken wins over everything: with a wrong split no figure means what it says. Then harm (a guardrail, or the primary
    metric, proven worse), then a proven gain whose guardrails hold, then the planned end without an answer.
    """
    if split.is_broken:
        return Verdict(
            "broken", "broken_split", f"Do not read this experiment: {split.sentence()}. Find the cause and start anew."
        )
    unlike = [r for r in readings if r.is_imbalanced]
    if unlike:
        what = unlike[0].metric.covariate
        return Verdict(
            "broken",
            "imbalance",
            f"Do not read this experiment: {what} differed between the variants before it began. Find the cause and start anew.",
        )
    if not is_ready:
        return Verdict("keep running", "too_early", _too_early(plan, power))
    fates = {t: _fate([r for r in readings if r.treatment == t], looks) for t in plan.treatments}
    primary = {r.treatment: r for r in readings if r.metric.role == "primary"}
    winners = [t for t, fate in fates.items() if fate == "better"]
    if winners:
        best = max(winners, key=lambda t: primary[t].effect.estimate * plan.primary.sign)
        return Verdict("ship", "better", f"Ship {best}: {_gain(plan, readings, best)}.", best)
    if any(fate == "guardrail_open" for fate in fates.values()):
        best = next(t for t, fate in fates.items() if fate == "guardrail_open")
        return Verdict("keep running", "guardrail_open", _guardrail_open(plan, readings, best))
    if all(fate in ("worse", "guardrail") for fate in fates.values()):
        worst = plan.treatments[0]
        harmed = [r for r in readings if r.treatment == worst and r.is_worse]
        reason: Reason = "guardrail" if fates[worst] == "guardrail" else "worse"
        words = _change(plan, harmed[0])
        names = " and ".join(plan.treatments)
        return Verdict("stop", reason, f"Stop {names}: {words}{_per(plan)}.")
    if looks and looks[-1].fraction >= 1.0:
        return Verdict("stop", "no_difference", _no_difference(plan, primary, power))
    return Verdict("keep running", "not_decided", _not_decided(plan, primary, power))


def _fate(readings: Sequence[MetricReading], looks: Sequence[Look]) -> Reason:
    primary = next((r for r in readings if r.metric.role == "primary"), None)
    guardrails = [r for r in readings if r.metric.role == "guardrail"]
    if any(r.is_worse for r in guardrails):
        return "guardrail"
    if primary is None or not (primary.is_better or primary.is_worse):
        return "not_decided"
    if primary.is_worse:
        return "worse"
    return "better" if all(_holds(r) for r in guardrails) else "guardrail_open"


def _holds(reading: MetricReading) -> bool:
    """Whether a guardrail excludes the loss that would not be accepted; without a tolerance no proof of harm is enough."""
    if reading.metric.tolerance is None:
        return True
    low = min(reading.metric.sign * reading.always.low, reading.metric.sign * reading.always.high)
    return low > -reading.metric.tolerance


def _gain(plan: ExperimentPlan, readings: Sequence[MetricReading], treatment: str) -> str:
    """The primary metric and, beside it, the money."""
    own = [r for r in readings if r.treatment == treatment]
    parts = [_change(plan, r) for r in own if r.metric.role == "primary"]
    parts += [_change(plan, r) for r in own if r.metric.role == "guardrail" and r.metric.unit.kind == "money"]
    return " and ".join(parts) + _per(plan)


def _change(plan: ExperimentPlan, reading: MetricReading) -> str:
    """``about 310 more subscriptions (between 120 and 500)``: the change in a month, or per 1,000 visitors."""
    metric = reading.metric
    if metric.kind == "ratio":
        shown = Unit("points") if metric.unit.kind == "share" else metric.unit
        low, high = (format_value(v, shown, signed=True) for v in (reading.interval.low, reading.interval.high))
        return f"{metric.title} {format_value(reading.effect.estimate, shown, signed=True)} (between {low} and {high})"
    visitors = plan.visitors_per_month or 1000.0
    scaled = reading.interval.scaled(visitors)
    unit = metric.unit if metric.unit.kind == "money" else Unit("count" if abs(scaled.estimate) >= 10 else "number")
    return (
        f"{amount(abs(scaled.estimate), unit)} {'more' if scaled.estimate >= 0 else 'less' if unit.kind == 'money' else 'fewer'} "
        + (f"{metric.noun or metric.title} ({between(scaled, unit)})")
    )


def between(interval: Interval, unit: Unit) -> str:
    """Limits in words."""
    return f"between {amount(interval.low, unit)} and {amount(interval.high, unit)}"


def amount(
    value: float, unit: Unit, *, thousand: str = "thousand", million: str = "million", billion: str = "billion"
) -> str:
    """A figure for a sentence: large money in thousands and millions, one digit after the point."""
    for least, size, word in ((1e9, 1e9, billion), (1e6, 1e6, million), (1e4, 1e3, thousand)):
        if unit.kind == "money" and abs(value) >= least:
            return format_value(value / size, Unit("money", f"{word} {unit.symbol}", 1))
    return format_value(value, unit)


def _per(plan: ExperimentPlan) -> str:
    return " a month" if plan.visitors_per_month else " per 1,000 visitors"


def _so_far(plan: ExperimentPlan, power: PowerReading) -> str:
    return f"{power.matured:,} of {power.planned:,} planned subjects have been followed long enough"


def _days(power: PowerReading) -> str:
    return "" if power.days_left is None else f", about {power.days_left:,.0f} more days at the planned traffic"


def _too_early(plan: ExperimentPlan, power: PowerReading) -> str:
    return f"Keep running: too early to tell anything, {_so_far(plan, power)}{_days(power)}."


def _not_decided(plan: ExperimentPlan, primary: dict[str, MetricReading], power: PowerReading) -> str:
    shown = "; ".join(f"{t} {_points(r.interval, r.metric)}" for t, r in primary.items())
    # Before the planned end every experiment is short of subjects; worth saying only where its end will not mend that.
    short = _underpowered(plan, power) if power.required is not None and power.required > power.planned else ""
    return (
        f"Keep running: not decided yet ({plan.primary.title}: {shown}); {_so_far(plan, power)}{_days(power)}{short}."
    )


def _no_difference(plan: ExperimentPlan, primary: dict[str, MetricReading], power: PowerReading) -> str:
    shown = "; ".join(f"{t} {_points(r.interval, r.metric)}" for t, r in primary.items())
    return (
        f"Stop and keep {plan.control}: the planned sample is complete and no difference was proven "
        f"({plan.primary.title}: {shown}){_underpowered(plan, power)}."
    )


def _guardrail_open(plan: ExperimentPlan, readings: Sequence[MetricReading], treatment: str) -> str:
    open_ones = [r for r in readings if r.treatment == treatment and r.metric.role == "guardrail" and not _holds(r)]
    worst = open_ones[0]
    loss = format_value(worst.metric.tolerance, worst.metric.unit)
    return (
        f"Keep running: {treatment} wins on {plan.primary.title}, but {worst.metric.title} could still be worse by more than the "
        f"{loss} you accept ({_points(worst.interval, worst.metric)})."
    )


def _underpowered(plan: ExperimentPlan, power: PowerReading) -> str:
    """Say so where the subjects so far could not have found the effect that matters."""
    if not power.is_underpowered or power.required is None:
        return ""
    days = "" if not power.days_to_required else f" or {power.days_to_required:,.0f} more days"
    effect = _size(plan.effect, plan.primary)
    return (
        f"; underpowered: a change of {effect} takes {power.required:,} subjects ({power.required - power.matured:,} more{days}) to be "
        f"found with {plan.power:.0%} probability"
    )


def _points(interval: Interval, metric: Metric) -> str:
    unit = Unit("points") if metric.unit.kind == "share" else metric.unit
    estimate, low, high = (format_value(v, unit, signed=True) for v in (interval.estimate, interval.low, interval.high))
    return f"{estimate}, between {low} and {high}"


def _size(value: float, metric: Metric) -> str:
    unit = Unit("points") if metric.unit.kind == "share" else metric.unit
    return format_value(value, unit).lstrip("+")
