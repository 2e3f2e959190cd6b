"""What happens to experiments by itself: scheduled starts, ramps that hold and look before each step, planned ends.

Called every so often by whoever runs beside the service (the console does); two callers at once harm nothing, because each change
needs the revision that was read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial

from engine.experiments.audit import read_audit
from engine.experiments.lifecycle import Experiments
from engine.experiments.reading import read_experiment
from engine.experiments.records import Experiment
from engine.store.database import Database
from policies.errors import ConflictError, NextofferError

ACTOR = "schedule"
_log = logging.getLogger("nextoffer.experiments")


def tick(database: Database, *, at: datetime) -> list[str]:
    """Do what is due; returns a line for each thing done."""
    experiments = Experiments(database)
    done: list[str] = []
    for experiment in experiments.list(state="scheduled"):
        if experiment.starts_at is not None and experiment.starts_at <= at:
            done += _try(_start, experiments, experiment, at=at)
    for experiment in experiments.list(state="running"):
        if experiment.ends_at is not None and experiment.ends_at <= at:
            done += _try(_end, experiments, experiment, at=at)
        elif experiment.ramp is not None:
            done += _try(partial(_step, database), experiments, experiment, at=at)
    return done


def next_step(experiment: Experiment) -> float | None:
    """Coverage that a ramp goes to next; None where it is at its end."""
    if experiment.ramp is None or not experiment.phases:
        return None
    now = experiment.phases[-1].coverage
    return next((s for s in experiment.ramp.steps if s > now), None)


def _try(
    change: Callable[..., str | None], experiments: Experiments, experiment: Experiment, *, at: datetime
) -> list[str]:
    try:
        line = change(experiments, experiment, at=at)
    except ConflictError:
        return []  # somebody else was faster, and the next round sees what they did
    except NextofferError as error:
        _log.warning("an experiment could not be changed by schedule: %s", error)
        return []
    return [] if line is None else [line]


def _start(experiments: Experiments, experiment: Experiment, *, at: datetime) -> str:
    experiments.start(experiment.id, revision=experiment.revision, at=at, actor=ACTOR, reason="its time had come")
    return f"{experiment.id} started"


def _end(experiments: Experiments, experiment: Experiment, *, at: datetime) -> str:
    experiments.stop(
        experiment.id, revision=experiment.revision, at=at, actor=ACTOR, reason="its planned end was reached"
    )
    return f"{experiment.id} stopped at its planned end"


def _step(database: Database, experiments: Experiments, experiment: Experiment, *, at: datetime) -> str | None:
    step = next_step(experiment)
    assert experiment.ramp is not None
    if step is None or at < _last_step(database, experiment) + timedelta(seconds=experiment.ramp.hold_s):
        return None
    held = why_held(database, experiment, at=at)
    if held:
        told = read_audit(database, what=f"experiment {experiment.id}", limit=1)
        if not told or told[0].reason != held:  # said once, not at every round
            experiments.note(experiment.id, held, at=at, actor=ACTOR)
        return None
    experiments.ramp(
        experiment.id,
        revision=experiment.revision,
        coverage=step,
        at=at,
        actor=ACTOR,
        reason="the step was held and nothing is worse",
    )
    return f"{experiment.id} at {step:.0%}"


def why_held(database: Database, experiment: Experiment, *, at: datetime) -> str:
    """What keeps a ramp from its next step; "" where nothing does."""
    reading = read_experiment(database, experiment, as_of=at, in_simulation=False)
    if reading.found is None:
        return "the ramp waits: nobody has been exposed at this step yet"
    now = reading.found.now
    if now.split.is_broken:
        return f"the ramp is held: {now.split.sentence()}"
    worse = [m for m in now.metrics if m.is_worse]
    return f"the ramp is held: {worse[0].metric.title} is worse with {worse[0].treatment}" if worse else ""


def _last_step(database: Database, experiment: Experiment) -> datetime:
    for row in read_audit(database, what=f"experiment {experiment.id}"):
        if row.action in ("start", "ramp", "reweight"):
            return row.at
    return experiment.phases[-1].started_at
