"""From the store to a reading: rows per subject, the plan, every look replayed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from api.console.plans import PlanChoices, build_plan, read_choices
from engine.experiments.lifecycle import Experiment
from engine.experiments.results import ExperimentOutcomes, experiment_results
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import from_us
from offline_eval.abtest import SubjectOutcomes
from offline_eval.abtest.replay import Replay, replay
from policies.errors import InvalidInputError

# Without a plan only intervals are shown; these choices make them narrowest about here and never lead to a verdict.
UNPLANNED = PlanChoices(planned_subjects=10_000, effect=0.01)


@dataclass(frozen=True, slots=True)
class Reading:
    """One experiment as the pages need it.

    Parameters
    ----------
    found
        None before there is anything to compare.
    is_planned
        Whether a plan was fixed; without one there is no verdict.
    """

    experiment: Experiment
    outcomes: ExperimentOutcomes
    found: Replay | None
    choices: PlanChoices
    is_planned: bool
    as_of: datetime


def subject_outcomes(outcomes: ExperimentOutcomes, *, as_of: datetime) -> SubjectOutcomes:
    """The store's rows as the statistics take them; days count from the first exposure."""
    if len(outcomes) == 0:
        raise InvalidInputError("nobody has been exposed yet; there is nothing to read")
    start = outcomes.exposed_at.min()
    day = np.timedelta64(86_400_000_000, "us")
    now = np.datetime64(as_of.astimezone(UTC).replace(tzinfo=None), "us")
    return SubjectOutcomes(
        variants=outcomes.variants,
        values={"subscribed": outcomes.subscribed, "kept": outcomes.kept, "margin": outcomes.margin_eur},
        phases=outcomes.phases.astype(np.str_),
        exposed_day=np.asarray((outcomes.exposed_at - start) / day, dtype=np.float64),
        as_of_day=float((now - start) / day),
    )


def read_experiment(
    database: Database, experiment: Experiment, folder: Path, *, as_of: datetime, in_simulation: bool
) -> Reading:
    """Read one experiment as of a moment."""
    choices = read_choices(folder, experiment.id)
    used = choices or UNPLANNED
    outcomes = experiment_results(database, experiment.id, as_of=as_of)
    found = None
    if len(outcomes):
        data = subject_outcomes(outcomes, as_of=as_of)
        found = replay(data, build_plan(experiment, used), in_simulation=in_simulation)
    return Reading(experiment, outcomes, found, used, choices is not None, as_of)


def latest_moment(database: Database) -> datetime | None:
    """Time of the newest assignment or outcome; a sandbox whose time is injected is read as of then."""
    with database.reading() as connection:
        times = [
            connection.execute(select(func.max(t.c.at_us))).scalar() for t in (tables.assignments, tables.outcomes)
        ]
    known = [t for t in times if t is not None]
    return from_us(max(known)) if known else None
