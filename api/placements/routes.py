"""HTTP of placements."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from api.call import Call
from api.operation import Operation
from api.placements.schemas import PlacementBody, PlacementListReply, PlacementReply, RevisionReply, StatusReply
from engine.decisions.requests import PlacementStatus
from engine.decisions.service import DecisionService
from engine.decisions.tallies import Tally, tally_up
from engine.experiments.records import is_version
from engine.learner.progress import LastReward, Learning, last_reward, learning_of
from engine.offers.placement import placement_from_json
from policies.errors import InvalidInputError, UnknownNameError


async def put_placement(call: Call, body: PlacementBody) -> dict[str, Any]:
    """Create a placement or replace its configuration; decisions follow within a quarter of a second."""
    placement_id = call.path("placement")
    document = body.model_dump(mode="json", exclude={"expected_revision"})
    try:
        placement = placement_from_json({**document, "id": placement_id})
        revision = await call.in_thread(
            call.service.put_placement, placement, expected_revision=body.expected_revision, actor=call.actor
        )
    except UnknownNameError as error:  # a name in the body: what is at the address of the request is there, or is made
        raise InvalidInputError(str(error)) from error
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
    now = call.now
    reward, learning = await call.in_thread(_learning, call.service, found.placement, now)
    last = found.last_decision_at
    return {
        **asdict(found),
        "last_decision_at": None if last is None else last.isoformat(),
        "learning": [asdict(entry) for entry in learning],
        "message": _in_words(found, reward, now=now),
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


def _learning(service: DecisionService, placement_id: str, now: datetime) -> tuple[LastReward | None, list[Learning]]:
    placement, _ = service.placement(placement_id)
    window_s = placement.reward.window_s
    running = [e for e in service.experiments.list(state="running") if e.placement == placement_id]
    refs = [placement.policy, *(v.policy for e in running for v in e.variants)]
    tallies = tally_up(service.database, placement_id)
    return last_reward(service.database, service.policies, tallies, window_s=window_s), [
        learning_of(
            service.database,
            service.policies,
            ref,
            placement_id,
            tally=tallies.get(ref, Tally()),
            window_s=window_s,
            now=now,
        )
        for ref in dict.fromkeys(refs)
        if is_version(ref)
    ]


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
