"""Decisions that another system made, with what came of them, in the log of a placement: one history before and after a move.

They are logged as that system's (policy name and version from the batch), with the distribution it drew from. Nothing here learns from
them online, since no policy of ours made them; exports, evaluations and training see them like any other decision. An audit names
them as not recomputed.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np

from engine.decisions.configuration import offer_set_document
from engine.decisions.service import DecisionService
from engine.store import facts
from engine.store.facts import FactRow, decision_row, digest_of, reward_row
from policies.errors import InvalidInputError
from policies.records import (
    Decision,
    DecisionId,
    InteractionBatch,
    OfferId,
    PlacementId,
    PolicyRef,
    Reward,
    SubjectId,
)

IMPORTED = "imported"
_PART = 1_000


def take_in(service: DecisionService, placement_id: str, log: InteractionBatch) -> int:
    """Put a log into a placement's; return how many decisions were new. Again is harmless: ids count once.

    A reward that is the placement's default is none; others become facts of the first kind that the placement counts, at the
    moment of their decision.

    Raises
    ------
    UnknownNameError
        If there is no such placement.
    InvalidInputError
        If the log lacks ids, times, subjects, policies or whole distributions.
    """
    placement, _ = service.placement(placement_id)
    term = placement.reward.terms[0]
    if not term.weight:
        raise InvalidInputError(f"kind {term.kind!r} of placement {placement_id!r} has weight 0; give it another")
    rows: list[FactRow] = []
    for decision in _decisions(log, placement_id):
        digest = digest_of([decision.placement, decision.subject, decision.offer, decision.propensity])
        rows.append(
            decision_row(
                decision,
                digest=digest,
                offer_set=(log.table.offers.revision, offer_set_document(log.table.offers)) if not rows else None,
            )
        )
    n_new = 0
    for start in range(0, len(rows), _PART):
        n_new += sum(r.status == facts.NEW for r in service.log.wait(rows[start : start + _PART]))
    rewards = [
        reward_row(
            Reward(f"{row.id}:{term.kind}", DecisionId(row.id), term.kind, value / term.weight, _moment(at)),
            must_join=True,
        )
        for row, value, at in zip(rows, log.reward.tolist(), _times(log), strict=True)
        if value != placement.reward.default
    ]
    for start in range(0, len(rewards), _PART):
        service.log.wait(rewards[start : start + _PART])
    return n_new


def _decisions(log: InteractionBatch, placement_id: str) -> list[Decision]:
    table = log.table
    if log.decision_ids is None or log.policies is None or log.probabilities is None or table.subjects is None:
        raise InvalidInputError(
            "the log lacks decision ids, policies, subjects or whole distributions; it cannot be taken in"
        )
    out = []
    for i, at in enumerate(_times(log)):
        kept = np.flatnonzero(table.eligible[i])
        name, _, version = str(log.policies[i]).partition("@")
        out.append(
            Decision(
                id=DecisionId(str(log.decision_ids[i])),
                placement=PlacementId(placement_id),
                subject=SubjectId(str(table.subjects[i])),
                at=_moment(at),
                offers=tuple(OfferId(table.offers.ids[k]) for k in kept),
                probabilities=tuple(log.probabilities[i, kept].tolist()),
                chosen=int(np.flatnonzero(kept == log.chosen[i])[0]),
                offer_set_revision=table.offers.revision,
                policy=PolicyRef(name, version),
                snapshot=version,
                rung=IMPORTED,
                explore_share=0.0,
                uniform=0.0,
                secret_version=0,
                feature_space="",
                context={n: v for n, column in table.columns.items() if (v := _value(column[i])) is not None},
                vectors={},
                event_cursor=0,
            )
        )
    return out


def _times(log: InteractionBatch) -> list[datetime]:
    if log.table.at is None:
        raise InvalidInputError("the log lacks the times of its decisions; it cannot be taken in")
    return list(log.table.at.tolist())


def _moment(at: datetime) -> datetime:
    return at.replace(tzinfo=UTC)


def _value(value: Any) -> str | float | None:
    """A feature as a request would have sent it; missing is None."""
    if isinstance(value, np.str_):
        return str(value) or None
    return None if np.isnan(value) else float(value)
