"""A log that lies in Spark: read by the executors, partition by partition, and merged into one panel.

Nothing here imports pyspark: the data frame brings it, as a pandas frame brings pandas.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from offline_eval.candidates import Candidate
from offline_eval.estimators.base import Estimator
from offline_eval.interop import reading
from offline_eval.interop.arrow import from_arrow
from offline_eval.interop.columns import Columns
from offline_eval.one_pass import Model, Pass, read_once
from offline_eval.reward_models import MAX_FIT_ROWS
from policies.errors import InvalidInputError
from policies.records import FloatArray, InteractionBatch, OfferSet


@dataclass(frozen=True, eq=False)
class SparkLog:
    """A Spark data frame as a log for ``evaluate``.

    Each partition leaves totals, not rows, behind (``Pass``); the driver adds them up. The result is that of
    ``ParquetLog`` or of memory on the same rows up to the order of additions; without subjects and decision ids, resamples and
    degrees of freedom also depend on how rows are dealt out to partitions.

    Parameters
    ----------
    frame
        A ``pyspark.sql.DataFrame`` with a column per ``Columns``.
    catalogue
        All offers; None asks the frame for those that were shown or could have been.
    columns
        What the columns are called.
    """

    frame: Any
    catalogue: OfferSet | Sequence[str] | None = None
    columns: Columns | None = None

    @property
    def offers(self) -> OfferSet:
        """Offers of all rows.

        Raises
        ------
        SchemaError
            If the frame lacks a column.
        """
        known = self.__dict__.get("_offers")
        if known is None:
            reading.need(self.frame.limit(0).toArrow().schema, self._names, ("offer", "reward", "propensity"))
            known = reading.catalogue_of(sorted(self._distinct()) if self.catalogue is None else self.catalogue)
            self.__dict__["_offers"] = known
        assert isinstance(known, OfferSet)
        return known

    def _distinct(self) -> set[str]:
        """Ids of all offers that were shown or could have been, found where the rows lie."""
        names = self._names
        columns = [c for c in (names.offer, names.eligible, names.probabilities) if c in self.frame.columns]

        def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            found: set[str] = set()
            for batch in batches:
                found |= reading.distinct_offers(pa.Table.from_batches([batch]), names)
            yield pa.record_batch({"offer": pa.array(sorted(found), pa.string())})

        return {row[0] for row in self.frame.select(columns).mapInArrow(read, "offer string").distinct().collect()}

    def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
        """An even sample of at most about 400,000 rows, which is what reward models are fitted on."""
        n = self.frame.count()
        share = 2 * MAX_FIT_ROWS / max(n, 1)
        sample = (self.frame if share >= 1 else self.frame.sample(fraction=share, seed=0)).toArrow()
        for start in range(0, sample.num_rows, n_rows):
            part = _part(sample.slice(start, n_rows), self.offers, self._names)
            if part is not None:
                yield part

    def read_once(
        self,
        candidates: Mapping[str, Candidate | None],
        estimators: Sequence[Estimator],
        *,
        model: Model | None,
        explore_share: float,
    ) -> Pass:
        """Let the executors read, and merge what each leaves behind.

        Raises
        ------
        InvalidInputError
            If a candidate or the model is an array: rows of a data frame have no numbers to find it by.
        """
        for name, value in [*candidates.items(), ("the reward model", model)]:
            if isinstance(value, np.ndarray):
                raise InvalidInputError(
                    f"{name!r} is an array; expected a policy or a model, for the rows of a Spark data frame have no order"
                )
        edges = self._calibration_edges(model)
        offers, names = self.offers, self._names

        def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            rows = _Partition(batches, offers, names)
            if rows.is_empty:
                return
            found = read_once(
                rows, candidates, estimators, model=model, explore_share=explore_share, calibration_edges=edges
            )
            yield pa.record_batch({"pass": pa.array([pickle.dumps(found)], pa.binary())})

        parts = self.frame.mapInArrow(read, "pass binary").toLocalIterator()
        merged = reduce(lambda a, b: b if a is None else a.merge(b), (pickle.loads(bytes(r[0])) for r in parts), None)
        if merged is None:
            raise InvalidInputError("the log has no rows; expected at least two decisions with rewards")
        assert isinstance(merged, Pass)
        return merged

    @property
    def _names(self) -> Columns:
        return self.columns or Columns()

    def _calibration_edges(self, model: Model | None) -> FloatArray | None:
        """Tenths of the model's values on the first rows, so that all partitions use the same bins."""
        if model is None:
            return None
        first = _part(self.frame.limit(4096).toArrow(), self.offers, self._names)
        if first is None:
            return np.zeros(0)
        found = read_once(first, {"log": None}, (), model=model, explore_share=0.0)
        assert found.log.calibration is not None
        return found.log.calibration.edges


class _Partition:
    """The rows of one partition as a log."""

    def __init__(self, batches: Iterator[pa.RecordBatch], offers: OfferSet, names: Columns) -> None:
        self.offers, self._names = offers, names
        self._batches = iter(batches)
        self._first = next((b for b in self._batches if b.num_rows), None)
        self.is_empty = self._first is None

    def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
        """The batches as they come."""
        del n_rows
        if self._first is None:
            return
        for batch in chain([self._first], self._batches):
            part = _part(pa.Table.from_batches([batch]), self.offers, self._names)
            if part is not None:
                yield part


def _part(table: pa.Table, offers: OfferSet, names: Columns) -> InteractionBatch | None:
    """Rows as a log; None where no reward window has closed among them."""
    if names.matured in table.column_names:
        table = table.filter(pc.fill_null(table[names.matured], False))
    return from_arrow(table, offers=offers, columns=names) if table.num_rows else None
