"""What visitors do: each variant of a running experiment against its control, at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.experiments.reading import take_reading
from engine.monitoring.records import Check
from engine.monitoring.window import Window
from engine.store.database import Database
from offline_eval.report.formatting import Interval

METRICS = ("conversion", "kept", "margin")


@dataclass(frozen=True, slots=True)
class Band:
    """One metric of one variant against the holdout: an interval of the difference that holds at all moments at once."""

    experiment: str
    treatment: str
    metric: str
    interval: Interval
    is_worse: bool


def bands(database: Database, window: Window) -> list[Band]:
    """Conversion, kept and margin of every variant of the running experiments of a placement."""
    out = []
    for experiment in window.watched.experiments:
        if experiment.state != "running":
            continue
        reading = take_reading(database, experiment, as_of=window.as_of, in_simulation=False, n_points=0)
        if reading.found is None or reading.found.now.split.is_broken:
            continue
        for m in reading.found.now.metrics:
            if m.metric.name in METRICS:
                out.append(
                    Band(
                        experiment.id,
                        m.treatment,
                        m.metric.name,
                        m.always,
                        m.is_worse and _is_below(m.always, m.metric.sign),
                    )
                )
    return out


def _is_below(interval: Interval, sign: float) -> bool:
    return max(sign * interval.low, sign * interval.high) < 0


def worse(found: Sequence[Band]) -> Check:
    """Whether a variant is worse than what it is compared with, by a band that may be read at any time."""
    if not found:
        return Check("worse", "off", "No experiment runs here that holds anybody out.")
    bad = [b for b in found if b.is_worse]
    where = tuple(_line(b) for b in bad or found)
    told = f"A variant is worse: {where[0]}." if bad else "No variant is worse than what it is compared with."
    return Check("worse", "ringing" if bad else "ok", told, float(len(bad)), 1.0, where)


def _line(band: Band) -> str:
    i = band.interval
    return f"{band.experiment}, {band.treatment}: {band.metric} {i.estimate:+.4g} [{i.low:+.4g}, {i.high:+.4g}]"
