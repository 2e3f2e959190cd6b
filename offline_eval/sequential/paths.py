"""A log seen as one path of decisions per subject, of unequal lengths."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from offline_eval.moments import hash_text
from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray, InteractionBatch


@dataclass(frozen=True, slots=True, eq=False)
class Paths:
    """Rows of a log arranged by subject and step.

    Attributes
    ----------
    log
        The log, with the step as context column ``step``.
    path, step
        Path and step of each row, shape ``(n,)``; paths are numbered from 0.
    n_paths, horizon
        Number of paths, and the longest one's length.
    """

    log: InteractionBatch
    path: IntArray
    step: IntArray
    n_paths: int
    horizon: int

    @classmethod
    def of(cls, log: InteractionBatch) -> Paths:
        """Arrange a log whose table has subjects; rows of a subject are in order of time, or of the log without times.

        Raises
        ------
        InvalidInputError
            If the log has no subjects.
        """
        if log.table.subjects is None:
            raise InvalidInputError("the log has no subjects; expected them to tell whose decisions follow each other")
        _, path = np.unique(hash_text(log.table.subjects), return_inverse=True)
        path = np.asarray(path, dtype=np.int64).ravel()
        order = np.lexsort((np.arange(len(log)),) + ((log.table.at,) if log.table.at is not None else ()) + (path,))
        ordered = path[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        lengths = np.diff(np.concatenate((starts, [len(order)])))
        step = np.empty(len(log), dtype=np.int64)
        step[order] = np.arange(len(order)) - np.repeat(starts, lengths)
        table = replace(log.table, columns={**log.table.columns, "step": step.astype(np.float64)})
        return cls(replace(log, table=table), path, step, len(starts), int(lengths.max()))

    def grid(self, values: FloatArray, *, fill: float = 0.0) -> FloatArray:
        """Values of rows as a matrix by path and step, shape ``(n_paths, horizon)``; ``fill`` after a path's end."""
        out = np.full((self.n_paths, self.horizon), fill)
        out[self.path, self.step] = values
        return out
