"""A sequence as a row of numbers: counts, recency, last events and bigrams, for models that take no sequences.

This is the baseline a sequence model has to beat, so it is given everything that is cheap to count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.models.dataset import SequenceDataset
from policies.records import IntArray

_DAY_S = 86_400.0
_WINDOWS_DAYS = (7, 30, 90)


@dataclass(frozen=True, slots=True)
class SequenceSummary:
    """Which types, items and pairs are counted, learned on the training split.

    Parameters
    ----------
    event_types, items
        Vocabulary ids that get a count of their own.
    bigrams
        Pairs of consecutive event types that get one, as ``(first, second)``.
    n_last
        How many last events are given as ids, newest first.
    """

    event_types: tuple[int, ...]
    items: tuple[int, ...]
    bigrams: tuple[tuple[int, int], ...]
    n_last: int

    @classmethod
    def fit(cls, data: SequenceDataset, *, n_items: int = 30, n_bigrams: int = 20, n_last: int = 3) -> Self:
        """Learn what is frequent."""
        row = np.repeat(np.arange(len(data)), data.lengths)
        same_row = row[1:] == row[:-1]
        base = int(data.event_type.max(initial=0)) + 1
        pairs = (data.event_type[:-1].astype(np.int64) * base + data.event_type[1:])[same_row]
        return cls(
            event_types=tuple(_frequent(data.event_type, 32)),
            items=tuple(_frequent(data.item, n_items)),
            bigrams=tuple((p // base, p % base) for p in _frequent(pairs, n_bigrams)),
            n_last=n_last,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column of ``encode``."""
        return (
            "sequence_length",
            "recency_days",
            "span_days",
            "mean_gap_days",
            "last_gap_days",
            "value_sum",
            "value_mean",
            "value_last",
            *(f"events_{d}d" for d in _WINDOWS_DAYS),
            *(f"value_{d}d" for d in _WINDOWS_DAYS),
            *(f"count_type_{t}" for t in self.event_types),
            *(f"count_item_{i}" for i in self.items),
            *(f"bigram_{a}_{b}" for a, b in self.bigrams),
            *(f"last_type_{i}" for i in range(self.n_last)),
            *(f"last_item_{i}" for i in range(self.n_last)),
        )

    def encode(self, data: SequenceDataset) -> NDArray[np.float32]:
        """Shape ``(n, len(names))``; ``nan`` where a row has no events to say it of."""
        n, lengths = len(data), data.lengths
        row = np.repeat(np.arange(n), lengths)
        has = lengths > 0
        last = np.where(has, data.offsets[1:] - 1, 0)
        seconds_before = _seconds_before(data, row)

        def per_row(weights: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(row, weights=weights, minlength=n).astype(np.float64)

        def known(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.where(has, values, np.nan)

        gaps, value = data.gap_s.astype(np.float64), data.value.astype(np.float64)
        span, total = per_row(gaps), per_row(value)
        columns: list[NDArray[Any]] = [
            lengths,
            known(data.gap_to_as_of_s / _DAY_S),
            known(span / _DAY_S),
            known(span / np.maximum(lengths - 1, 1) / _DAY_S),
            known(_at(gaps, last) / _DAY_S),
            total,
            known(total / np.maximum(lengths, 1)),
            known(_at(value, last)),
        ]
        recent = [seconds_before <= days * _DAY_S for days in _WINDOWS_DAYS]
        columns += [per_row(r) for r in recent]
        columns += [per_row(r * value) for r in recent]
        columns += [per_row(data.event_type == t) for t in self.event_types]
        columns += [per_row(data.item == i) for i in self.items]
        first, second = data.event_type[:-1], data.event_type[1:]
        same_row = row[1:] == row[:-1]
        for a, b in self.bigrams:
            columns.append(np.bincount(row[1:][same_row & (first == a) & (second == b)], minlength=n))
        for ids in (data.event_type, data.item):
            for back in range(self.n_last):
                columns.append(np.where(lengths > back, _at(ids, np.maximum(last - back, 0)), -1))
        return np.stack(columns, axis=1).astype(np.float32)

    def to_manifest(self) -> dict[str, Any]:
        """Plain JSON values that ``from_manifest`` reads back."""
        return {
            "event_types": list(self.event_types),
            "items": list(self.items),
            "bigrams": [list(pair) for pair in self.bigrams],
            "n_last": self.n_last,
        }

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> Self:
        """Read back what ``to_manifest`` wrote."""
        return cls(
            tuple(manifest["event_types"]),
            tuple(manifest["items"]),
            tuple((a, b) for a, b in manifest["bigrams"]),
            manifest["n_last"],
        )


def _frequent(ids: NDArray[Any], n: int) -> list[int]:
    values, counts = np.unique(ids, return_counts=True)
    return [int(v) for v in values[np.argsort(-counts, kind="stable")[:n]]]


def _at(values: NDArray[Any], positions: IntArray) -> NDArray[Any]:
    return values[positions] if len(values) else np.zeros(len(positions), values.dtype)


def _seconds_before(data: SequenceDataset, row: IntArray) -> NDArray[np.float64]:
    """Seconds from each event to its row's decision, shape ``(m,)``."""
    elapsed = np.cumsum(data.gap_s, dtype=np.float64)
    ends = np.where(data.lengths > 0, data.offsets[1:] - 1, 0)
    return (elapsed[ends][row] - elapsed if len(elapsed) else elapsed) + data.gap_to_as_of_s[row]
