"""What happens to experiments by itself: scheduled starts, ramps that hold and look before each step, planned ends.

Called every so often by whoever looks after experiments (``keeper``); two callers at once harm nothing, because each change needs
the revision that was read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Literal

from engine.experiments.audit import read_audit
from engine.experiments.lifecycle import Experiments
from engine.experiments.records import Experiment
from engine.store.changes import Change
from engine.store.database import Database
from policies.errors import ConflictError, NextofferError, StoreUnavailableError

ACTOR = "schedule"
_log = logging.getLogger("nextoffer.experiments")
_WHAT = "experiment "
_DONE: tuple[tuple[str, Literal["started", "stopped"]], ...] = (("start", "started"), ("stop", "stopped"))
_LATEST = 50


@dataclass(frozen=True, slots=True)
class Happened:
    """What was done by itself, or could not be.

    Parameters
    ----------
    kind
        ``held``: a ramp stays where it is; ``refused``: what was due may not be done as things are.
    text
        For logs, and for ``held`` and ``refused`` the reason.
    """

    experiment: str
    kind: Literal["started", "stopped", "ramped", "held", "refused"]
    text: str


def tick(database: Database, *, at: datetime) -> list[Happened]:
    """Do what is due; returns what happened."""
    experiments = Experiments(database)
    done: list[Happened] = []
    for experiment in experiments.list(state="scheduled"):
        if experiment.starts_at is not None and experiment.starts_at <= at:
            done += _try(_start, experiments, experiment, at=at)
    for experiment in experiments.list(state="running"):
        if experiment.ends_at is not None and experiment.ends_at <= at:
            done += _try(_end, experiments, experiment, at=at)
        elif experiment.ramp is not None:
            done += _try(partial(_step, database), experiments, experiment, at=at)
    return done


def lately_done(database: Database, *, since: datetime) -> list[Happened]:
    """Starts and ends that came by themselves after a moment, the oldest first."""
    done = [
        (row, kind)
        for action, kind in _DONE
        for row in read_audit(database, action=action, limit=_LATEST)
        if row.actor == ACTOR and row.at > since and row.what.startswith(_WHAT)
    ]
    return [
        Happened(row.what.removeprefix(_WHAT), kind, row.reason) for row, kind in sorted(done, key=lambda d: d[0].id)
    ]


def due(database: Database, *, at: datetime) -> frozenset[str]:
    """Experiments for which something is to be done by now, or to be looked at; cheap, and loads no statistics."""
    experiments = Experiments(database)
    starts = {e.id for e in experiments.list(state="scheduled") if e.starts_at is not None and e.starts_at <= at}
    running = experiments.list(state="running")
    ends = {e.id for e in running if e.ends_at is not None and e.ends_at <= at}
    return frozenset(starts | ends | {e.id for e in running if is_step_due(database, e, at=at)})


def is_step_due(database: Database, experiment: Experiment, *, at: datetime) -> bool:
    """Whether a ramp has held its step for long enough; cheap, and says nothing about whether it may go on."""
    if experiment.ramp is None or next_step(experiment) is None:
        return False
    return at >= _last_step(database, experiment) + timedelta(seconds=experiment.ramp.hold_s)


def next_step(experiment: Experiment) -> float | None:
    """Coverage that a ramp goes to next; None where it is at its end."""
    if experiment.ramp is None or not experiment.phases:
        return None
    now = experiment.phases[-1].coverage
    return next((s for s in experiment.ramp.steps if s > now), None)


def _try(
    step: Callable[..., Happened | None], experiments: Experiments, experiment: Experiment, *, at: datetime
) -> list[Happened]:
    try:
        happened = step(experiments, experiment, at=at)
    except ConflictError:
        return []  # somebody else was faster, and the next round sees what they did
    except StoreUnavailableError:
        raise
    except NextofferError as error:
        return [Happened(experiment.id, "refused", str(error))]
    except Exception:  # whatever ails one experiment must not keep the others waiting
        _log.exception("experiment %s could not be looked after", experiment.id)
        return []
    return [] if happened is None else [happened]


def _start(experiments: Experiments, experiment: Experiment, *, at: datetime) -> Happened:
    experiments.start(experiment.id, revision=experiment.revision, change=Change(at, ACTOR, "its time had come"))
    return Happened(experiment.id, "started", "its time had come")


def _end(experiments: Experiments, experiment: Experiment, *, at: datetime) -> Happened:
    reason = "its planned end was reached"
    experiments.stop(experiment.id, revision=experiment.revision, change=Change(at, ACTOR, reason))
    return Happened(experiment.id, "stopped", reason)


def _step(database: Database, experiments: Experiments, experiment: Experiment, *, at: datetime) -> Happened | None:
    step = next_step(experiment)
    if step is None or not is_step_due(database, experiment, at=at):
        return None
    held = why_held(database, experiment, at=at)
    if held:
        told = read_audit(database, what=f"experiment {experiment.id}", limit=1)
        if not told or told[0].reason != held:  # said once, not at every round
            experiments.note(experiment.id, held, change=Change(at, ACTOR))
        return Happened(experiment.id, "held", held)
    experiments.ramp(
        experiment.id,
        revision=experiment.revision,
        coverage=step,
        change=Change(at, ACTOR, "the step was held and nothing is worse"),
    )
    return Happened(experiment.id, "ramped", f"{step:.0%} of visitors take part")


def why_held(database: Database, experiment: Experiment, *, at: datetime) -> str:
    """What keeps a ramp from its next step; "" where nothing does."""
    from engine.experiments.reading import take_reading  # statistics, which a server does without

    reading = take_reading(database, experiment, as_of=at, in_simulation=False, n_points=0)
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
