"""What the promotion asks of the log's health: sentences that say its integrity fails, none where it holds."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import numpy as np
import orjson
from sqlalchemy import select

from engine.rewards.seen import is_for_people
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import to_us

Health = Callable[[Database, str, datetime, datetime], tuple[str, ...]]
MAX_DECISIONS = 50_000
# Looked at every few seconds for weeks: a false alarm takes a good policy out.
ALPHA = 1e-7


def integrity(database: Database, placement: str, since: datetime, as_of: datetime) -> tuple[str, ...]:
    """Compare how often each policy showed each offer with the sum of the probabilities it logged for it.

    A client that shows another offer than was chosen, or a draw that does not follow its distribution, makes every figure of the
    log wrong: canary and live policies go back at once.
    """
    table = tables.decisions
    query = (
        select(table.c.policy, table.c.offer, table.c.body)
        .where(table.c.placement == placement, table.c.at_us >= to_us(since), table.c.at_us <= to_us(as_of))
        .where(is_for_people(table.c.policy))
        .order_by(table.c.at_us.desc())
        .limit(MAX_DECISIONS)
    )
    with database.reading() as connection:
        rows = [tuple(r) for r in connection.execute(query) if r.body]
    sums: dict[tuple[str, str], np.ndarray] = {}
    for policy, shown, raw in rows:
        body = orjson.loads(raw)
        for offer, p in zip(body["o"], body["p"], strict=True):
            cell = sums.setdefault((policy, offer), np.zeros(3))
            cell += (offer == shown, p, p * (1 - p))
    out = []
    limit = np.log(2 * max(len(sums), 1) / ALPHA)
    for (policy, offer), (n, expected, variance) in sums.items():
        # Bernstein's bound holds for few draws as for many.
        gap = abs(n - expected)
        if gap**2 / (2 * (variance + gap / 3) + 1e-12) > limit:
            out.append(
                f"{policy} showed {offer} {int(n):,} times where its logged probabilities sum to {expected:,.1f}: the log is not what happened"
            )
    return tuple(out)
