"""Time is the judge: what is old is learned from, what is new is judged on, and nobody is on both sides."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.retrain.records import MIN_ROWS
from policies.errors import InvalidInputError
from policies.records import IntArray, InteractionBatch


def by_time(batch: InteractionBatch, *, held_out_share: float, window_days: float = 0.0) -> tuple[IntArray, IntArray]:
    """Rows to learn from and, later, rows of other subjects to be judged on.

    Parameters
    ----------
    window_days
        Leave out what is older than so many days before the newest decision; 0: nothing.

    Raises
    ------
    InvalidInputError
        If either side has fewer than 200 rows.
    """
    at = batch.table.at
    if at is None:
        raise InvalidInputError("the log has no times; held-out time needs them")
    rows = remembered(batch, np.arange(len(batch)), days=window_days)
    cut = np.sort(at[rows])[int((1.0 - held_out_share) * (len(rows) - 1))]
    learn, judge = rows[at[rows] < cut], rows[at[rows] >= cut]
    subjects = batch.table.subjects
    if subjects is not None:
        judge = judge[~np.isin(subjects[judge], np.unique(subjects[learn]))]
    for what, rows in (("to learn from", learn), ("to be judged on", judge)):
        if len(rows) < MIN_ROWS:
            raise InvalidInputError(
                f"the log leaves {len(rows)} decisions {what}; it takes {MIN_ROWS}: wait for more closed windows"
            )
    return learn, judge


def same_decisions(batch: InteractionBatch, ids: NDArray[np.str_] | None) -> IntArray:
    """Rows of a log that are of some decisions, wherever in it they lie.

    Raises
    ------
    InvalidInputError
        If either log has no ids of decisions.
    """
    if ids is None or batch.decision_ids is None:
        raise InvalidInputError("a log has no ids of decisions; logs of other rewards are put beside it by them")
    return np.flatnonzero(np.isin(batch.decision_ids, ids))


def remembered(batch: InteractionBatch, rows: IntArray, *, days: float) -> IntArray:
    """Those of some rows that lie at most so many days before the newest of them; all where ``days`` is 0."""
    if not days:
        return rows
    at = batch.table.at
    assert at is not None
    since = at[rows].max() - np.timedelta64(round(days * 86_400e6), "us")
    return np.asarray(rows[at[rows] >= since], dtype=np.int64)
