"""What the visitors of a stretch of time brought because of a variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.experiments.parts import HOUR_US
from engine.experiments.reading import Reading
from engine.store.facts import to_us
from offline_eval.abtest import MetricReading
from offline_eval.abtest.confidence_sequence import sequence_interval
from offline_eval.report.formatting import Interval, Unit

WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Gain:
    """One metric, in its own unit.

    Parameters
    ----------
    interval
        Of the difference times the visitors that the variant had; holds at all times.
    """

    metric: MetricReading
    n_subjects: int
    interval: Interval


def visitors_since(reading: Reading, since: datetime, *, variant: str | None = None) -> int:
    """Visitors first exposed since a moment (by the hour), in all variants or in one."""
    cells = reading.cells.where(reading.cells.hour > to_us(since) // HOUR_US)
    return int(cells.n.sum() if variant is None else cells.n[cells.variant == variant].sum())


def gains(reading: Reading, *, since: datetime) -> list[Gain]:
    """The primary metric, then the guardrails, of the variant to ship, or of the first treatment; none under a broken split."""
    if reading.found is None or reading.found.now.split.is_broken:
        return []
    now = reading.found.now
    treatment = now.verdict.variant or now.plan.treatments[0]
    n = visitors_since(reading, since, variant=treatment)
    told = [
        m
        for role in ("primary", "guardrail")
        for m in now.metrics
        if m.metric.role == role and m.treatment == treatment
    ]
    return [Gain(m, n, m.always.scaled(float(n))) for m in told] if n else []


@dataclass(frozen=True, slots=True)
class MoneyGain:
    """What all experiments brought together, in money.

    Parameters
    ----------
    interval
        Holds at all times for the sum: each part has its share of the error, so that the limits add up.
    experiments
        Whose money is in it.
    waiting
        Experiments whose margin cannot be told yet: nobody has been followed long enough, or the split is broken.
    """

    interval: Interval
    unit: Unit
    experiments: tuple[str, ...]
    waiting: tuple[str, ...]


def money_gain(readings: Sequence[Reading], *, since: datetime) -> MoneyGain | None:
    """Margin that the variants' visitors since a moment brought, over all experiments; None where none can tell.

    Each experiment's interval is made at an equal part of 5 %, so that the sum of the limits holds for the sum (union bound).
    Experiments in other currencies than the first are left out, among those that wait.
    """
    known: dict[str, Gain] = {}
    for reading in readings:
        for gain in gains(reading, since=since):
            if gain.metric.metric.unit.kind == "money" and not _is_early(reading):
                known.setdefault(reading.experiment.id, gain)
    if not known:
        return None
    unit = next(iter(known.values())).metric.metric.unit
    told = {name: g for name, g in known.items() if g.metric.metric.unit == unit}
    planned = {r.experiment.id: r.plan.planned_subjects for r in readings}
    parts = [_at(g, planned[name], alpha=0.05 / len(told)) for name, g in told.items()]
    total = Interval(sum(p.estimate for p in parts), sum(p.low for p in parts), sum(p.high for p in parts))
    waiting = tuple(r.experiment.id for r in readings if r.experiment.id not in told)
    return MoneyGain(total, unit, tuple(told), waiting)


def _is_early(reading: Reading) -> bool:
    return reading.found is None or reading.found.now.verdict.reason == "too_early"


def _at(gain: Gain, planned: int, *, alpha: float) -> Interval:
    effect = gain.metric.effect
    n = effect.n_control + effect.n_treatment
    interval = sequence_interval(effect.estimate, effect.standard_error, n=float(n), planned=planned, alpha=alpha)
    return interval.scaled(float(gain.n_subjects))
