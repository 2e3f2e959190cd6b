"""What an experiment has shown so far, per subject: the randomised unit, in the phase and variant of its first exposure."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from engine.rewards.definition import DAY_S
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us
from engine.subjects.links import everybody
from policies.records import BoolArray, FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class OutcomeKinds:
    """Which outcomes the metrics are made of, and how long after first exposure they count.

    Parameters
    ----------
    subscribed
        Kind of the outcome that says a subject subscribed.
    kept
        Kind that says it is still active 30 days after subscribing.
    margin_eur
        Kind whose values add up to the margin earned with a subject.
    conversion_window_s
        A subscription this long after first exposure counts, and only subjects exposed that long ago are counted.
    kept_window_s
        The same for ``kept`` and margin: the conversion window, 30 days, and a day for billing to tell.
    """

    subscribed: str = "subscribed"
    kept: str = "active_30d"
    margin_eur: str = "margin_eur"
    conversion_window_s: float = 7 * DAY_S
    kept_window_s: float = 38 * DAY_S


@dataclass(frozen=True, slots=True, eq=False)
class ExperimentOutcomes:
    """One row per exposed subject, ordered by first exposure.

    Attributes
    ----------
    subjects, variants
        Shape ``(n,)``.
    phases
        Number of the phase of first exposure: the stratum, shape ``(n,)``.
    variant_probability
        Probability of the variant in that phase, shape ``(n,)``.
    exposed_at
        Shape ``(n,)``, ``datetime64[us]`` in UTC.
    subscribed, kept
        0 or 1, shape ``(n,)``; meaningful where the matching ``is_…_matured``.
    margin_eur
        Shape ``(n,)``; meaningful where ``is_kept_matured``.
    is_conversion_matured, is_kept_matured
        Whether the window of the subject is over, shape ``(n,)``; false is *unknown*, never "no".
    """

    subjects: NDArray[np.str_]
    variants: NDArray[np.str_]
    phases: IntArray
    variant_probability: FloatArray
    exposed_at: NDArray[np.datetime64]
    subscribed: FloatArray
    kept: FloatArray
    margin_eur: FloatArray
    is_conversion_matured: BoolArray
    is_kept_matured: BoolArray

    def __len__(self) -> int:
        return len(self.subjects)


def experiment_results(
    database: Database, experiment: str, *, as_of: datetime, kinds: OutcomeKinds | None = None
) -> ExperimentOutcomes:
    """Outcomes of all subjects that an experiment has exposed by a moment.

    Ids that are linked are one subject: it has the phase, variant and time of the first exposure of any of them, and the
    outcomes of all.
    """
    kinds = kinds or OutcomeKinds()
    as_of_us = to_us(as_of)
    assignments, outcomes = tables.assignments, tables.outcomes
    with database.reading() as connection:
        rows = connection.execute(
            select(assignments)
            .where(assignments.c.experiment == experiment, assignments.c.at_us <= as_of_us)
            .order_by(assignments.c.at_us, assignments.c.subject)
        ).all()
        names = everybody(connection)
        assigned = {r.subject for r in rows}
        first = {names.get(r.subject, r.subject): r for r in reversed(rows)}
        rows = [r for r in rows if first[names.get(r.subject, r.subject)] is r]
        found: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
        wanted = select(outcomes.c.subject, outcomes.c.kind, outcomes.c.at_us, outcomes.c.value).where(
            outcomes.c.kind.in_([kinds.subscribed, kinds.kept, kinds.margin_eur]), outcomes.c.at_us <= as_of_us
        )
        queries = [
            wanted.join(assignments, assignments.c.subject == outcomes.c.subject).where(
                assignments.c.experiment == experiment, assignments.c.at_us <= as_of_us
            )
        ]
        others = sorted(id_ for id_, name in names.items() if name in first and id_ not in assigned)
        queries += [wanted.where(outcomes.c.subject.in_(others[i : i + 500])) for i in range(0, len(others), 500)]
        for query in queries:
            for subject, kind, at_us, value in connection.execute(query):
                found[names.get(subject, subject)].append((kind, at_us, value))
    n = len(rows)
    exposed_us = np.asarray([r.at_us for r in rows], dtype=np.int64)
    conversion_us, kept_us = round(kinds.conversion_window_s * 1e6), round(kinds.kept_window_s * 1e6)
    subscribed, kept, margin = np.zeros(n), np.zeros(n), np.zeros(n)
    for i, row in enumerate(rows):
        for kind, at_us, value in found.get(names.get(row.subject, row.subject), ()):
            since_us = at_us - row.at_us
            if since_us < 0:
                continue
            if kind == kinds.subscribed and since_us <= conversion_us and value > 0:
                subscribed[i] = 1.0
            elif kind == kinds.kept and since_us <= kept_us and value > 0:
                kept[i] = 1.0
            elif kind == kinds.margin_eur and since_us <= kept_us:
                margin[i] += value
    return ExperimentOutcomes(
        subjects=np.asarray([r.subject for r in rows], dtype=np.str_),
        variants=np.asarray([r.variant for r in rows], dtype=np.str_),
        phases=np.asarray([r.phase for r in rows], dtype=np.int64),
        variant_probability=np.asarray([r.probability for r in rows], dtype=np.float64),
        exposed_at=exposed_us.astype("datetime64[us]"),
        subscribed=subscribed,
        kept=kept * subscribed,
        margin_eur=margin,
        is_conversion_matured=exposed_us + conversion_us <= as_of_us,
        is_kept_matured=exposed_us + kept_us <= as_of_us,
    )
