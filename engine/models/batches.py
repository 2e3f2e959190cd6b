"""Batches of rows with near-equal length: what makes training on ragged sequences fast in any framework."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from policies.records import IntArray


def bucketed_batches(
    lengths: IntArray,
    *,
    rows_per_batch: int,
    rng: np.random.Generator | None,
    batches_per_pool: int = 50,
    equal_tokens: bool = False,
) -> Iterator[IntArray]:
    """Rows in batches of near-equal length: sorted inside shuffled pools, then the batches shuffled.

    Without ``rng`` the rows are sorted once, for prediction.
    """
    if rng is None:
        order = np.argsort(lengths, kind="stable")
        yield from (order[i : i + rows_per_batch] for i in range(0, len(order), rows_per_batch))
        return
    order = rng.permutation(len(lengths))
    pool = rows_per_batch * batches_per_pool
    batches = []
    for start in range(0, len(order), pool):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        cuts = np.arange(rows_per_batch, len(part), rows_per_batch)
        if equal_tokens:
            events = np.cumsum(lengths[part] + 1)
            cuts = np.unique(np.searchsorted(events, np.linspace(0, events[-1], len(cuts) + 2)[1:-1]))
        batches += [batch for batch in np.split(part, cuts) if len(batch)]
    for i in rng.permutation(len(batches)):
        yield batches[i]
