"""News of running experiments that somebody should hear of without looking: a verdict, a broken split.

Each is told once: the log of changes holds what was told last, so that several consoles, or one that was started anew, do not repeat it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from engine.experiments.audit import read_audit
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import read_experiment
from engine.store.database import Database, record_change
from engine.store.facts import to_us

ACTION = "alert"


@dataclass(frozen=True, slots=True)
class Alert:
    """One piece of news.

    Parameters
    ----------
    decision, reason
        Of the verdict, for programs; ``sentence`` is for people.
    """

    experiment: str
    decision: str
    reason: str
    sentence: str
    in_simulation: bool


def news(database: Database, *, at: datetime, in_simulation: bool) -> list[Alert]:
    """Verdicts other than *keep running* that differ from what was told last."""
    out = []
    for experiment in Experiments(database).list(state="running"):
        reading = read_experiment(database, experiment, as_of=at, in_simulation=in_simulation, n_points=0)
        if reading.found is None:
            continue
        now = reading.found.now
        is_told = reading.is_planned or now.split.is_broken
        if not is_told or now.verdict.decision == "keep running":
            continue
        last = read_audit(database, what=f"experiment {experiment.id}", action=ACTION, limit=1)
        if last and last[0].document.get("verdict") == [now.verdict.decision, now.verdict.reason]:
            continue
        out.append(Alert(experiment.id, now.verdict.decision, now.verdict.reason, now.sentence(), in_simulation))
    return out


def mark_told(database: Database, alert: Alert, *, at: datetime) -> None:
    """Remember that somebody was told."""
    with database.writing() as connection:
        record_change(
            connection,
            at_us=to_us(at),
            actor="schedule",
            action=ACTION,
            what=f"experiment {alert.experiment}",
            document={"verdict": [alert.decision, alert.reason], "reason": alert.sentence},
        )
