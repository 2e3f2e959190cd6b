"""Runs of retrainings as they were recorded, and what each believed of experiments, so that the next can say what has changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select

from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import take_reading
from engine.gate.records import GateVerdict
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us
from policies.errors import UnknownNameError


@dataclass(frozen=True, slots=True)
class Run:
    """What a retraining came to.

    Parameters
    ----------
    is_new
        False where the same inputs had been through before: then nothing has changed.
    done, skipped
        Steps of this call.
    late
        What late truth has changed in what earlier runs learned from, by reward.
    restated
        Experiments as the last run read them, and as they read now as of that moment.
    """

    id: str
    placement: str
    at: datetime
    is_new: bool
    verdict: GateVerdict
    done: tuple[str, ...]
    skipped: tuple[str, ...]
    late: Mapping[str, Any]
    restated: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "id": self.id,
            "placement": self.placement,
            "at": self.at.isoformat(),
            "is_new": self.is_new,
            "verdict": self.verdict.to_json(),
            "done": list(self.done),
            "skipped": list(self.skipped),
            "late_truth": dict(self.late),
            "restated": [dict(r) for r in self.restated],
        }


def runs(database: Database, *, placement: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """Runs that changed something, the newest first, as they were recorded."""
    table = tables.retrain_runs
    query = select(table.c.document).order_by(table.c.at_us.desc(), table.c.id).limit(limit)
    if placement is not None:
        query = query.where(table.c.placement == placement)
    with database.reading() as connection:
        return [json.loads(text) for text in connection.execute(query).scalars()]


def last_run(database: Database, placement: str) -> dict[str, Any] | None:
    """The newest run of a placement."""
    found = runs(database, placement=placement, limit=1)
    return found[0] if found else None


def last_run_id(database: Database, inputs: str) -> str | None:
    """Id of the recorded run of these inputs, if there is one."""
    table = tables.retrain_runs
    with database.reading() as connection:
        return connection.execute(select(table.c.id).where(table.c.id == inputs[:16])).scalar()


def record_run(database: Database, made: Run, experiments: list[dict[str, Any]]) -> None:
    """Write a run down, with what it believed of experiments; the same run again changes nothing."""
    table = tables.retrain_runs
    document = {**made.to_json(), "experiments": experiments}
    with database.writing() as connection:
        if connection.execute(select(table.c.id).where(table.c.id == made.id)).first() is None:
            connection.execute(
                insert(table).values(
                    id=made.id, placement=made.placement, at_us=to_us(made.at), document=json.dumps(document)
                )
            )


def experiments_now(database: Database, placement: str, *, at: datetime, in_simulation: bool) -> list[dict[str, Any]]:
    """Running experiments as they read now, so that the next run can say what late truth has changed."""
    out = []
    for experiment in Experiments(database).list(state="running"):
        if experiment.placement == placement:
            reading = take_reading(database, experiment, as_of=at, in_simulation=in_simulation, n_points=0)
            if reading.found is not None:
                out.append(
                    {"experiment": experiment.id, "as_of": at.isoformat(), "metrics": _metrics(reading.found.now)}
                )
    return out


def _metrics(now: Any) -> dict[str, Any]:
    return {
        f"{m.treatment}: {m.metric.name}": {"control": m.effect.control, "treatment": m.effect.treatment}
        for m in now.metrics
    }


def restated_since(
    database: Database, previous: Mapping[str, Any] | None, *, at: datetime, in_simulation: bool
) -> tuple[Mapping[str, Any], ...]:
    """What the last run believed of experiments, beside what is true of the same subjects and the same moment now."""
    out = []
    for told in () if previous is None else previous.get("experiments", ()):
        try:
            experiment = Experiments(database).get(told["experiment"])
        except UnknownNameError:
            continue
        then = datetime.fromisoformat(told["as_of"])
        reading = take_reading(database, experiment, as_of=then, in_simulation=in_simulation, n_points=0)
        if reading.found is None:
            continue
        now = _metrics(reading.found.now)
        changed = {k: {"believed": v, "now": now[k]} for k, v in told["metrics"].items() if k in now and now[k] != v}
        out.append({"experiment": experiment.id, "as_of": told["as_of"], "changed": changed})
    return tuple(out)
