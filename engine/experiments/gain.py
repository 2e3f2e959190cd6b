"""What the visitors of a stretch of time brought because of a variant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from engine.experiments.parts import HOUR_US
from engine.experiments.reading import Reading
from engine.store.facts import to_us
from offline_eval.abtest import MetricReading
from offline_eval.report.formatting import Interval

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
    """The primary metric and the guardrails of the variant to ship, or of the first treatment; none under a broken split."""
    if reading.found is None or reading.found.now.split.is_broken:
        return []
    now = reading.found.now
    treatment = now.verdict.variant or now.plan.treatments[0]
    n = visitors_since(reading, since, variant=treatment)
    told = [m for m in now.metrics if m.metric.role in ("primary", "guardrail") and m.treatment == treatment]
    return [Gain(m, n, m.always.scaled(float(n))) for m in told] if n else []
