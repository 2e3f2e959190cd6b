"""HTTP of rewards, outcomes and events."""

from __future__ import annotations

from typing import Any

from api.facts.schemas import EventBody, EventReply, OutcomeBody, OutcomeReply, RewardBody, RewardReply
from api.operation import Call, Operation
from engine.decisions.requests import EventRequest, OutcomeRequest, RewardReceipt, RewardRequest


async def reward(call: Call, body: RewardBody) -> dict[str, Any]:
    """Report what came of a decision."""
    receipt = await call.service.areward(
        RewardRequest(
            body.decision, body.kind, body.value, id=body.id or call.idempotency_key, at=call.fact_at(body.at)
        )
    )
    return {
        "id": receipt.id,
        "decision": receipt.decision,
        "status": receipt.status,
        "joined": receipt.joined,
        "offset": receipt.offset,
        "message": _in_words(receipt),
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


def _in_words(receipt: RewardReceipt) -> str:
    if receipt.status == "ignored":
        return f"decision {receipt.decision} was not recorded, so this reward is accepted and ignored"
    again = " (it had arrived before; counted once)" if receipt.status == "repeat" else ""
    return (
        f"reward joined to decision {receipt.decision}{again}"
        if receipt.joined
        else f"reward waits for decision {receipt.decision}"
    )
