"""What an experiment has shown so far, per subject: the randomised unit, in the phase and variant of its first exposure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from engine.experiments.lifecycle import Experiments
from engine.experiments.rollup import refresh
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us
from policies.records import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentOutcomes:
    """One row per exposed subject, ordered by first exposure; subjects seen in several variants are left out.

    Attributes
    ----------
    subjects, variants
        Shape ``(n,)``.
    phases
        Number of the phase of first exposure: the stratum, shape ``(n,)``.
    exposed_at
        When the subject first saw what the experiment chose, shape ``(n,)``, ``datetime64[us]`` in UTC.
    subscribed, kept
        0 or 1, shape ``(n,)``; 0 where not matured.
    margin, revenue
        Shape ``(n,)``; 0 where not matured.
    covariate
        What the plan adjusts for, shape ``(n,)``; 0 where there is none.
    is_conversion_matured, is_kept_matured
        Whether the window of the subject is over, shape ``(n,)``; false is *unknown*, never "no".
    """

    subjects: NDArray[np.str_]
    variants: NDArray[np.str_]
    phases: IntArray
    exposed_at: NDArray[np.datetime64]
    subscribed: FloatArray
    kept: FloatArray
    margin: FloatArray
    revenue: FloatArray
    covariate: FloatArray
    is_conversion_matured: BoolArray
    is_kept_matured: BoolArray

    def __len__(self) -> int:
        return len(self.subjects)


def experiment_results(database: Database, experiment_id: str, *, as_of: datetime) -> ExperimentOutcomes:
    """Outcomes of all subjects that an experiment has exposed by a moment."""
    experiment = Experiments(database).get(experiment_id)
    refresh(database, experiment)
    table, as_of_us = tables.exposures, to_us(as_of)
    with database.reading() as connection:
        rows = connection.execute(
            select(table)
            .where(table.c.experiment == experiment_id, table.c.exposed_us <= as_of_us, table.c.variant != "")
            .order_by(table.c.exposed_us, table.c.subject)
        ).all()

    def column(name: str, dtype: Any) -> NDArray[Any]:
        return np.asarray([getattr(r, name) for r in rows], dtype=dtype)

    exposed_us = column("exposed_us", np.int64)
    counting = experiment.counting
    converted = exposed_us + round(counting.conversion_window_s * 1e6) <= as_of_us
    kept = exposed_us + round(counting.kept_window_s * 1e6) <= as_of_us
    return ExperimentOutcomes(
        subjects=column("subject", np.str_),
        variants=column("variant", np.str_),
        phases=column("phase", np.int64),
        exposed_at=exposed_us.astype("datetime64[us]"),
        subscribed=column("subscribed", np.float64) * converted,
        kept=column("kept", np.float64) * kept,
        margin=column("margin", np.float64) * kept,
        revenue=column("revenue", np.float64) * kept,
        covariate=column("covariate", np.float64),
        is_conversion_matured=converted,
        is_kept_matured=kept,
    )
