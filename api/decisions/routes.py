"""HTTP of decisions."""

from __future__ import annotations

import asyncio
from typing import Any

from api.call import Call
from api.decisions.schemas import (
    ActivationBody,
    ActivationReply,
    AuditReply,
    BatchBody,
    BatchReply,
    DecideReply,
    DecisionBody,
)
from api.errors import answer_for
from api.operation import Operation
from engine.decisions.requests import DecisionAnswer, DecisionRequest, EventRequest, PageAnswer, PageRequest, Role, Slot
from engine.learner.progress import learned_from
from policies.errors import InvalidInputError, NextofferError
from policies.records import Offer, OfferId


async def decide(call: Call, body: DecisionBody) -> dict[str, Any]:
    """Choose an offer; the answer is on disk before it is sent."""
    return await _decide_one(call, body, fallback_id=call.idempotency_key)


async def decide_batch(call: Call, body: BatchBody) -> dict[str, Any]:
    """Choose for many subjects; a fault of one entry leaves the others alone."""
    limit = call.parts.settings.batch_limit
    if len(body.decisions) > limit:
        raise InvalidInputError(
            f"the batch has {len(body.decisions)} decisions; at most {limit} are taken: send it in parts"
        )
    key = call.idempotency_key

    async def one(position: int, entry: DecisionBody) -> dict[str, Any]:
        try:
            fallback_id = None if key is None else f"{key}:{position}"
            return {"decision": await _decide_one(call, entry, fallback_id=fallback_id), "error": None}
        except NextofferError as error:
            return {"decision": None, "error": {"code": answer_for(error).code, "message": str(error)}}

    return {"decisions": await asyncio.gather(*(one(i, entry) for i, entry in enumerate(body.decisions)))}


async def audit(call: Call, _: None) -> dict[str, Any]:
    """Give everything that was logged of a decision."""
    decision = await call.in_thread(call.service.get_decision, call.path("decision"))
    if call.key is not None:
        call.key.allow("read", placement=decision.placement)
    learned = await call.in_thread(learned_from, call.service.database, decision.id)
    return {
        "id": decision.id,
        "placement": decision.placement,
        "subject": decision.subject,
        "at": decision.at.isoformat(),
        "offers": list(decision.offers),
        "probabilities": list(decision.probabilities),
        "chosen": decision.chosen,
        "offer": decision.offer,
        "probability": decision.propensity,
        "offer_set_revision": decision.offer_set_revision,
        "policy": str(decision.policy),
        "snapshot": decision.snapshot,
        "rung": decision.rung,
        "explore_share": decision.explore_share,
        "uniform": decision.uniform,
        "secret_version": decision.secret_version,
        "feature_space": decision.feature_space,
        "features": dict(decision.context),
        "vectors": {name: list(values) for name, values in decision.vectors.items()},
        "event_cursor": decision.event_cursor,
        "experiment": decision.experiment,
        "phase": decision.phase,
        "variant": decision.variant,
        "variant_probability": decision.variant_probability,
        "excluded": dict(decision.excluded),
        "activated": decision.activated,
        "learned_in": learned,
    }


async def activate(call: Call, body: ActivationBody | None) -> dict[str, Any]:
    """Say that the offer of a decision made with ``activated: false`` has been seen.

    From a page's script that a known machine runs, nothing is recorded and ``activated`` is false.
    """
    decision = call.path("decision")
    if call.is_from_machine:
        return {"decision": decision, "activated": False, "first": False}
    await call.allow_decision(decision)
    first = await call.service.aactivate(decision, at=call.at, shown=None if body is None else body.shown)
    return {"decision": decision, "activated": True, "first": first}


OPERATIONS = (
    Operation(
        "POST",
        "/v1/placements/{placement}/decisions",
        "Which offer to show a visitor now",
        "decide",
        decide,
        body=DecisionBody,
        reply=DecideReply,
        tag="decisions",
    ),
    Operation(
        "POST",
        "/v1/placements/{placement}/decisions:batch",
        "Which offers to show many visitors",
        "decide",
        decide_batch,
        body=BatchBody,
        reply=BatchReply,
        tag="decisions",
    ),
    Operation(
        "GET",
        "/v1/decisions/{decision}",
        "Everything that was logged of a decision",
        "read",
        audit,
        reply=AuditReply,
        tag="decisions",
    ),
    Operation(
        "POST",
        "/v1/decisions/{decision}/activation",
        "The visitor has seen the offer",
        "reward",
        activate,
        body=ActivationBody,
        is_body_optional=True,
        reply=ActivationReply,
        tag="decisions",
        is_public=True,
    ),
)


async def _decide_one(call: Call, body: DecisionBody, *, fallback_id: str | None) -> dict[str, Any]:
    at = call.at
    role: Role = "bot" if call.parts.visitors.is_machine(body) else "policy"
    if body.events and not body.dry_run and role != "bot":
        await asyncio.gather(
            *(
                call.service.aevent(
                    EventRequest(body.subject, e.kind, e.item, e.value, id=e.id, at=call.fact_at(e.at) or at)
                )
                for e in body.events
            )
        )
    request = DecisionRequest(
        placement=call.path("placement"),
        subject=body.subject,
        features=body.features,
        id=body.id or (None if body.ttl_s is not None else fallback_id),
        offers=None if body.offers is None else tuple(Offer(OfferId(o.id), o.features, o.payload) for o in body.offers),
        exclude=body.exclude,
        at=at,
        is_activated=body.activated,
        dry_run=body.dry_run,
        explain=body.explain,
        ttl_s=body.ttl_s,
        waited_s=call.parts.pulse.lag_s,
        role=role,
    )
    if body.slots is None:
        return decision_json(await call.service.adecide(request))
    slots = tuple(Slot(s.id, s.features, s.exclude) for s in body.slots)
    return page_json(await call.service.adecide_page(PageRequest(request, slots)))


def page_json(page: PageAnswer) -> dict[str, Any]:
    """Form in which a page is answered."""
    first = page.slots[0][1].decision
    return {
        "id": page.id,
        "placement": first.placement,
        "subject": first.subject,
        "slots": [{"slot": slot, "decision": decision_json(answer)} for slot, answer in page.slots],
        "recorded": all(answer.decision.recorded for _, answer in page.slots),
        "repeat": all(answer.is_repeat for _, answer in page.slots),
    }


def decision_json(answer: DecisionAnswer) -> dict[str, Any]:
    """Form in which a decision is answered; the moment is left to orjson, which writes it in ISO 8601 as Python does."""
    decision = answer.decision
    out: dict[str, Any] = {
        "id": decision.id,
        "placement": decision.placement,
        "subject": decision.subject,
        "at": decision.at,
        "offer": {"id": decision.offer, "payload": dict(answer.payload)},
        "probability": decision.propensity,
        "policy": str(decision.policy),
        "rung": decision.rung,
        "experiment": decision.experiment,
        "variant": decision.variant,
        "recorded": decision.recorded,
        "activated": decision.activated,
        "repeat": answer.is_repeat,
    }
    if answer.explanation is not None:
        out["explanation"] = {
            "steps": list(answer.explanation.steps),
            "excluded": dict(answer.explanation.excluded),
            "probabilities": dict(answer.explanation.probabilities),
        }
    return out
