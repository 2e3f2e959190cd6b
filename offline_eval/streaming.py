"""Logs that do not fit into memory: reward models fitted on a sample, with folds that hold in every part."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from offline_eval.moments import UIntArray, hash_numbers, hash_text
from offline_eval.one_pass import DistributedLog, Log
from offline_eval.reward_models import MAX_FIT_ROWS, CrossFitted, FitReward, stratified_folds
from policies.errors import InvalidInputError
from policies.records import DecisionTable, IntArray, InteractionBatch
from policies.stacking import concatenate


@dataclass(frozen=True, slots=True, eq=False)
class UnitFolds(CrossFitted):
    """Cross-fitted models whose folds are found by the unit: a subject, or a row's number where no subjects are known.

    Attributes
    ----------
    units, unit_folds
        Units of the rows the models were fitted on, ascending, and their folds: the folds of a log in memory. A unit that is
        not among them was seen by no model; its fold comes from its hash.
    """

    units: UIntArray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    unit_folds: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def folds_of(self, table: DecisionTable, start: int) -> IntArray:
        """Folds of the rows of a table that begins at row ``start`` of the log."""
        units = _units(table, np.arange(start, start + len(table)))
        place = np.minimum(np.searchsorted(self.units, units), len(self.units) - 1)
        by_hash = np.asarray(hash_numbers(units >> np.uint64(7)) % np.uint64(len(self.models)), dtype=np.int64)
        return np.where(self.units[place] == units, self.unit_folds[place], by_hash)


def cross_fit_stream(log: Log, fit: FitReward, *, n_folds: int, seed: int = 0) -> UnitFolds:
    """Fit a model for each fold on a bounded, evenly spread sample of the other folds' rows.

    A log of at most 400,000 rows is its own sample, and gets the folds and models that it would get in memory.

    Raises
    ------
    InvalidInputError
        If the log has no rows or fewer subjects than folds, or is read in parts of no order and has no subjects.
    """
    samples: list[InteractionBatch] = []
    numbers: list[NDArray[np.int64]] = []
    held, start, every = 0, 0, 1
    for batch in log.chunks(1 << 16):
        rows = np.arange(0, len(batch), every)
        samples.append(batch.take(rows))
        numbers.append(start + rows)
        held += len(rows)
        if held > 2 * MAX_FIT_ROWS:  # thin what is held, and take fewer from here on
            samples = [s.take(np.arange(0, len(s), 2)) for s in samples]
            numbers = [n[::2] for n in numbers]
            held, every = sum(len(s) for s in samples), every * 2
        start += len(batch)
    if not samples:
        raise InvalidInputError("the log has no rows; expected at least two decisions with rewards")
    if samples[0].table.subjects is None and isinstance(log, DistributedLog):
        raise InvalidInputError(
            "the log has no subjects; expected them for folds that hold in every part: add a subject column, or pass reward_model="
        )
    whole = concatenate(samples)
    units = _units(whole.table, np.concatenate(numbers))
    folds = stratified_folds(units, whole.reward, n_folds=n_folds, seed=seed)
    models = [fit(whole.take(np.flatnonzero(folds != fold))) for fold in range(n_folds)]
    distinct, first = np.unique(units, return_index=True)
    return UnitFolds(models, np.zeros(0, dtype=np.int64), distinct, folds[first])


def _units(table: DecisionTable, numbers: NDArray[np.int64]) -> UIntArray:
    return numbers.astype(np.uint64) if table.subjects is None else hash_text(table.subjects)
