"""Logs that do not fit into memory: read in parts, folds by a hash of the subject."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offline_eval.moments import hash_numbers, hash_text
from offline_eval.one_pass import Log
from offline_eval.reward_models import MAX_FIT_ROWS, CrossFitted, FitReward
from policies.errors import InvalidInputError
from policies.records import DecisionTable, IntArray, InteractionBatch


@dataclass(frozen=True, slots=True, eq=False)
class HashedFolds(CrossFitted):
    """Cross-fitted models whose folds come from a hash of the subject instead of a list."""

    n_folds: int = 3

    def folds_of(self, table: DecisionTable, start: int) -> IntArray:
        """Folds of the rows of a table that begins at row ``start`` of the log."""
        return _hashed_folds(table, start, self.n_folds)


def cross_fit_stream(log: Log, fit: FitReward, *, n_folds: int) -> HashedFolds:
    """Fit a model for each fold on a bounded, evenly spread sample of the other folds' rows.

    The first parts of the log are enough where they are long; otherwise every part gives rows.
    """
    from offline_eval.interop.tables import concatenate

    samples: list[InteractionBatch] = []
    held, start, every = 0, 0, 1
    for batch in log.chunks(1 << 16):
        rows = np.arange(0, len(batch), every)
        samples.append(batch.take(rows))
        held += len(rows)
        if held > 2 * MAX_FIT_ROWS:  # thin what is held, and take fewer from here on
            samples = [s.take(np.arange(0, len(s), 2)) for s in samples]
            held, every = sum(len(s) for s in samples), every * 2
        start += len(batch)
    if not samples:
        raise InvalidInputError("the log has no rows; expected at least two decisions with rewards")
    whole = concatenate(samples)
    folds = _hashed_folds(whole.table, 0, n_folds)
    if len(np.unique(folds)) < n_folds:
        raise InvalidInputError(
            f"the log's subjects fall into {len(np.unique(folds))} of {n_folds} folds; expected more subjects: pass reward_model="
        )
    models = [fit(whole.take(np.flatnonzero(folds != fold))) for fold in range(n_folds)]
    return HashedFolds(models, np.zeros(0, dtype=np.int64), n_folds)


def _hashed_folds(table: DecisionTable, start: int, n_folds: int) -> IntArray:
    if table.subjects is None:
        raise InvalidInputError(
            "the log has no subjects; expected them for folds that hold in every part: add a subject column, or pass reward_model="
        )
    # Another hash than the groups': folds and groups must not go together.
    return np.asarray(hash_numbers(hash_text(table.subjects) >> np.uint64(7)) % np.uint64(n_folds), dtype=np.int64)
