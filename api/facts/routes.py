"""HTTP of rewards, outcomes and events."""

from __future__ import annotations

from typing import Any

from api.call import Call
from api.facts.schemas import EventBody, EventReply, OutcomeBody, OutcomeReply, RewardBody, RewardReply
from api.operation import Operation
from engine.decisions.requests import EventRequest, OutcomeRequest, RewardReceipt, RewardRequest, Uncounted
from engine.learner.progress import learned_from


async def reward(call: Call, body: RewardBody) -> dict[str, Any]:
    """Report what came of a decision.

    From a page's script that a known machine runs, nothing is recorded and ``status`` is ``ignored``.
    """
    if call.is_from_machine:
        message = "the visitor is a machine, so this reward is accepted and ignored"
        reward_id = body.id or f"{body.decision}:{body.kind}"
        return {
            "id": reward_id,
            "decision": body.decision,
            "status": "ignored",
            "joined": False,
            "offset": None,
            "learned_in": None,
            "counts": False,
            "message": message,
        }
    await call.allow_decision(body.decision)
    receipt = await call.service.areward(
        RewardRequest(
            body.decision, body.kind, body.value, id=body.id or call.idempotency_key, at=call.fact_at(body.at)
        )
    )
    # A new reward cannot have been learned from: the window of its decision is open, or it is too late.
    asked_again = receipt.status == "repeat" and receipt.joined
    learned = await call.in_thread(learned_from, call.service.database, receipt.decision) if asked_again else None
    uncounted = None
    if receipt.joined and not call.service.counts_everywhere(body.kind):
        uncounted = await call.in_thread(call.service.uncounted, receipt.decision, body.kind)
    return {
        "id": receipt.id,
        "decision": receipt.decision,
        "status": receipt.status,
        "joined": receipt.joined,
        "offset": receipt.offset,
        "learned_in": learned,
        "counts": receipt.status != "ignored" and uncounted is None,
        "message": _in_words(receipt, learned, body.kind, uncounted),
    }


async def outcome(call: Call, body: OutcomeBody) -> dict[str, Any]:
    """Report what became known of a subject."""
    receipt = await call.service.aoutcome(
        OutcomeRequest(
            body.subject, body.kind, body.value, id=body.id or call.idempotency_key, at=call.fact_at(body.at)
        )
    )
    return {
        "id": receipt.id,
        "status": receipt.status,
        "attributed_to": list(receipt.attributed_to),
        "offset": receipt.offset,
    }


async def event(call: Call, body: EventBody) -> dict[str, Any]:
    """Report what a subject did; the next decision knows it."""
    receipt = await call.service.aevent(
        EventRequest(
            body.subject, body.kind, body.item, body.value, id=body.id or call.idempotency_key, at=call.fact_at(body.at)
        )
    )
    return {
        "id": receipt.event.id,
        "subject": receipt.event.subject,
        "status": receipt.status,
        "offset": receipt.offset,
    }


OPERATIONS = (
    Operation(
        "POST",
        "/v1/rewards",
        "What came of a decision",
        "reward",
        reward,
        body=RewardBody,
        reply=RewardReply,
        tag="facts",
        is_public=True,
    ),
    Operation(
        "POST",
        "/v1/outcomes",
        "What became known of a subject",
        "reward",
        outcome,
        body=OutcomeBody,
        reply=OutcomeReply,
        tag="facts",
    ),
    Operation(
        "POST", "/v1/events", "What a subject did", "reward", event, body=EventBody, reply=EventReply, tag="facts"
    ),
)


def _in_words(receipt: RewardReceipt, learned: int | None, kind: str, uncounted: Uncounted | None) -> str:
    if receipt.status == "ignored":
        return f"decision {receipt.decision} was not recorded, so this reward is accepted and ignored"
    again = " (it had arrived before; counted once)" if receipt.status == "repeat" else ""
    if not receipt.joined:
        return f"reward waits for decision {receipt.decision}"
    if uncounted is not None:
        return (
            f"reward joined to decision {receipt.decision}{again}, but nothing learns from kind {kind!r}: the reward definition "
            f"of placement {uncounted.placement!r} names {', '.join(uncounted.kinds)}"
        )
    where = f", learned in snapshot {learned}" if learned is not None else ""
    return f"reward joined to decision {receipt.decision}{again}{where}"
