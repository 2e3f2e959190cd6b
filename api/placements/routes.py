"""HTTP of placements."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from api.operation import Call, Operation
from api.placements.repository import LastReward, last_reward
from api.placements.schemas import PlacementBody, PlacementListReply, PlacementReply, RevisionReply, StatusReply
from engine.decisions.requests import PlacementStatus
from engine.offers.placement import placement_from_json


async def put_placement(call: Call, body: PlacementBody) -> dict[str, Any]:
    """Create a placement or replace its configuration; decisions follow within a quarter of a second."""
    placement_id = call.path("placement")
    document = body.model_dump(mode="json", exclude={"expected_revision"})
    placement = placement_from_json({**document, "id": placement_id})
    revision = await call.in_thread(
        call.service.put_placement, placement, expected_revision=body.expected_revision, actor=call.actor
    )
    return {"id": placement_id, "revision": revision}


async def get_placement(call: Call, _: None) -> dict[str, Any]:
    """Give a placement's configuration and its revision."""
    placement, revision = await call.in_thread(call.service.placement, call.path("placement"))
    return {**placement.to_json(), "revision": revision}


async def list_placements(call: Call, _: None) -> dict[str, Any]:
    """Ids of the placements that the key may read."""
    known = await call.in_thread(call.service.placements)
    bound = call.key.placements if call.key is not None else ()
    return {"placements": [p for p in known if not bound or p in bound]}


async def status(call: Call, _: None) -> dict[str, Any]:
    """How a placement is doing, for the first calls and for a dashboard."""
    found: PlacementStatus = await call.in_thread(call.service.status, call.path("placement"))
    reward = await call.in_thread(last_reward, call.service, found.placement)
    last = found.last_decision_at
    return {
        **asdict(found),
        "last_decision_at": None if last is None else last.isoformat(),
        "message": _in_words(found, reward, now=call.now),
    }


OPERATIONS = (
    Operation(
        "GET", "/v1/placements", "All placements", "read", list_placements, reply=PlacementListReply, tag="placements"
    ),
    Operation(
        "GET",
        "/v1/placements/{placement}",
        "Configuration of a placement",
        "read",
        get_placement,
        reply=PlacementReply,
        tag="placements",
    ),
    Operation(
        "PUT",
        "/v1/placements/{placement}",
        "Create a placement, or replace its configuration",
        "admin",
        put_placement,
        body=PlacementBody,
        reply=RevisionReply,
        tag="placements",
    ),
    Operation(
        "GET",
        "/v1/placements/{placement}/status",
        "How a placement is doing",
        "read",
        status,
        reply=StatusReply,
        tag="placements",
    ),
)


def _in_words(found: PlacementStatus, reward: LastReward | None, *, now: datetime) -> str:
    if not found.is_log_healthy:
        return "the log cannot be written: decisions are answered with the fallback and are not learned from"
    if reward is None:
        return f"{found.n_decisions} decisions, no reward yet"
    joined = f"reward joined to decision {reward.decision}"
    if reward.is_late:
        return f"{joined}, after its window: reports count it, learning does not before the next retrain"
    if reward.learned_in is not None:
        return f"{joined}, learned in snapshot {reward.learned_in}"
    if reward.learns_at is not None and reward.learns_at > now:
        return f"{joined}, learned when its window closes in {(reward.learns_at - now).total_seconds():.0f} s"
    return joined
