"""Shadow: a version answers the decisions that others take, and nobody sees what it says.

The log holds what every decision rested on, whole, so that a shadow is asked afterwards, from the log and in the form in which a
server asks: no visitor waits for it, and it costs the decision plane nothing. What it would have seen but the log does not hold
does not exist: decisions are drawn from what is logged.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select

from engine.learner.audit import table_of
from engine.rewards.seen import is_for_people
from engine.store import tables
from engine.store.database import Database
from engine.store.facts import decision_from_values, to_us
from policies.errors import NextofferError
from policies.protocols import Policy
from policies.records import OfferSet
from policies.sampling import decide_one

MAX_ASKED = 1_000


@dataclass(frozen=True, slots=True)
class ShadowReading:
    """What a shadow did on the newest decisions since it began.

    Parameters
    ----------
    n_failed, first_failure
        Decisions it could not answer, and why not.
    agreement
        Mean probability that it gives to the offer that was shown.
    same_choice
        Share of decisions in which its own draw, from the same uniform, shows the same offer.
    p99_ms
        Processor time.
    """

    n: int
    n_failed: int
    first_failure: str
    agreement: float
    same_choice: float
    p99_ms: float

    def sentence(self) -> str:
        """In words."""
        if not self.n:
            return "it has met no decision yet"
        if self.n_failed:
            return f"it failed on {self.n_failed} of {self.n} decisions: {self.first_failure}"
        return (
            f"it answered {self.n} live decisions, {self.p99_ms:.2g} ms for 99 of 100, and would have shown the same offer in "
            f"{self.same_choice:.0%}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


def read_shadow(
    database: Database, policy: Policy, placement: str, *, since: datetime, as_of: datetime, limit: int = MAX_ASKED
) -> ShadowReading:
    """Ask a version about the newest decisions of visitors since it became a shadow."""
    table = tables.decisions
    query = (
        select(table)
        .where(table.c.placement == placement, table.c.at_us > to_us(since), table.c.at_us <= to_us(as_of))
        .where(is_for_people(table.c.policy))
        .order_by(table.c.at_us.desc(), table.c.ledger_offset.desc())
        .limit(limit)
    )
    with database.reading() as connection:
        rows = connection.execute(query).all()
    cache: dict[str, OfferSet] = {}
    spent: list[float] = []
    failed: list[str] = []
    agreement: list[float] = []
    same: list[bool] = []
    for row in rows:
        if not row.body:
            continue
        decision = decision_from_values(row[1:])
        asked = table_of(database, decision, cache)
        start = time.thread_time_ns()
        try:
            distribution, chosen = decide_one(
                policy, asked, uniform=decision.uniform, explore_share=decision.explore_share
            )
        except (NextofferError, ValueError, KeyError, IndexError, TypeError) as error:
            failed.append(f"{type(error).__name__}: {error}")
            continue
        spent.append((time.thread_time_ns() - start) / 1e6)
        shown = asked.offers.index_of(decision.offer)
        agreement.append(float(distribution[shown]))
        same.append(chosen == shown)
    return ShadowReading(
        n=len(spent) + len(failed),
        n_failed=len(failed),
        first_failure=failed[0] if failed else "",
        agreement=float(np.mean(agreement)) if agreement else 0.0,
        same_choice=float(np.mean(same)) if same else 0.0,
        p99_ms=float(np.quantile(spent, 0.99)) if spent else 0.0,
    )
