"""Put events that a batch job gathered into the store that decisions are made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from engine.decisions.requests import EventReceipt, EventRequest
from policies.errors import InvalidInputError

_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class Backfilled:
    """How many events were new, were there already, and of how many subjects."""

    n_recorded: int
    n_repeated: int
    n_subjects: int


def backfill(take_in: Callable[[Sequence[EventRequest]], list[EventReceipt]], folder: Path) -> Backfilled:
    """Take in the events of ``engine.sequences.recent`` through the service's own door; a second run changes nothing.

    Parameters
    ----------
    take_in
        ``DecisionService.event_many``.
    folder
        Parquet files with ``subject, id, at, kind, item, value``.

    Raises
    ------
    InvalidInputError
        If there are no files.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InvalidInputError(f"{folder} holds no Parquet files; write them with `python -m engine.sequences.recent`")
    recorded = repeated = 0
    subjects: set[str] = set()
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=_BATCH):
            columns = batch.to_pydict()
            requests = [
                EventRequest(subject=subject, kind=kind, item=item, value=value, id=event_id, at=at)
                for subject, event_id, at, kind, item, value in zip(
                    *(columns[name] for name in ("subject", "id", "at", "kind", "item", "value")), strict=True
                )
            ]
            receipts = take_in(requests)
            recorded += sum(r.status == "recorded" for r in receipts)
            repeated += sum(r.status == "repeat" for r in receipts)
            subjects.update(r.subject for r in requests)
    return Backfilled(recorded, repeated, len(subjects))
