"""HTTP of policy versions, of where they stand, and of what was said and foretold of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api.call import Call
from api.operation import Operation
from api.policies.schemas import (
    ApprovalBody,
    ForecastsReply,
    PolicyListReply,
    PolicyVersionReply,
    PromoteBody,
    RegisterBody,
    RollbackBody,
    StandingListReply,
    StandingReply,
    VerdictListReply,
    VerdictReply,
)
from engine.gate.forecasts import forecasts_of, track_record
from engine.gate.verdicts import approve, verdicts
from engine.registry.states import States
from engine.registry.versions import PolicyVersion


async def register_policy(call: Call, body: RegisterBody) -> dict[str, Any]:
    """Keep an artefact as a version of a policy; the same content again is the same version."""
    registry = call.service.policies
    ref = await call.in_thread(registry.register, Path(body.path), name=body.name, at=call.now, actor=call.actor)
    return _version(await call.in_thread(registry.find, str(ref)))


async def list_policies(call: Call, _: None) -> dict[str, Any]:
    """Give all registered versions."""
    return {"policies": [_version(v) for v in await call.in_thread(call.service.policies.versions)]}


async def list_standings(call: Call, _: None) -> dict[str, Any]:
    """Give where versions stand at a placement."""
    _allow(call)
    found = await call.in_thread(States(call.service.database).all, placement=call.path("placement"))
    return {"standings": [s.to_json() for s in found]}


async def roll_back(call: Call, body: RollbackBody) -> dict[str, Any]:
    """Take back the canary, or what is live, at once."""
    from engine.gate.promotion import Promotion  # sizes canaries, which takes scipy

    _allow(call)
    back = Promotion(call.service).rollback
    done = await call.in_thread(back, call.path("placement"), body.policy, change=call.change(body.reason))
    return dict(done.to_json())


async def promote(call: Call, body: PromoteBody) -> dict[str, Any]:
    """Make a version live past shadow and canary, by a person who says why."""
    from engine.gate.promotion import Promotion  # sizes canaries, which takes scipy

    _allow(call)
    live = Promotion(call.service).to_live
    done = await call.in_thread(live, call.path("placement"), body.policy, change=call.change(body.reason))
    return dict(done.to_json())


async def list_verdicts(call: Call, _: None) -> dict[str, Any]:
    """Give what the gate said of candidates of a placement."""
    _allow(call)
    found = await call.in_thread(verdicts, call.service.database, placement=call.path("placement"))
    return {"verdicts": [v.to_json() for v in found]}


async def approve_verdict(call: Call, body: ApprovalBody) -> dict[str, Any]:
    """Let a candidate go to a small canary although the log could not answer."""
    _allow(call)
    done = await call.in_thread(
        approve,
        call.service.database,
        call.path("verdict"),
        placement=call.path("placement"),
        change=call.change(body.reason),
    )
    return dict(done.to_json())


async def list_forecasts(call: Call, _: None) -> dict[str, Any]:
    """Give what was foretold at a placement, what came of it, and the record by kind."""
    _allow(call)
    found = await call.in_thread(forecasts_of, call.service.database, placement=call.path("placement"))
    return {"record": [r.to_json() for r in track_record(found)], "forecasts": [f.to_json() for f in found]}


OPERATIONS = (
    Operation(
        "GET",
        "/v1/policies",
        "Registered policy versions",
        "read",
        list_policies,
        reply=PolicyListReply,
        tag="policies",
    ),
    Operation(
        "POST",
        "/v1/policies",
        "Register a policy from an artefact folder",
        "admin",
        register_policy,
        body=RegisterBody,
        reply=PolicyVersionReply,
        tag="policies",
    ),
    Operation(
        "GET",
        "/v1/placements/{placement}/standings",
        "Where policy versions stand at a placement",
        "read",
        list_standings,
        reply=StandingListReply,
        tag="policies",
    ),
    Operation(
        "POST",
        "/v1/placements/{placement}/rollback",
        "Take back the canary, or the live policy where there is none",
        "admin",
        roll_back,
        body=RollbackBody,
        reply=StandingReply,
        tag="policies",
    ),
    Operation(
        "POST",
        "/v1/placements/{placement}/promotion",
        "Make a version live at once",
        "admin",
        promote,
        body=PromoteBody,
        reply=StandingReply,
        tag="policies",
    ),
    Operation(
        "GET",
        "/v1/placements/{placement}/verdicts",
        "What the gate said",
        "read",
        list_verdicts,
        reply=VerdictListReply,
        tag="policies",
    ),
    Operation(
        "POST",
        "/v1/placements/{placement}/verdicts/{verdict}/approval",
        "Approve a small canary where the log could not answer",
        "admin",
        approve_verdict,
        body=ApprovalBody,
        reply=VerdictReply,
        tag="policies",
    ),
    Operation(
        "GET",
        "/v1/placements/{placement}/forecasts",
        "What was foretold, and what came of it",
        "read",
        list_forecasts,
        reply=ForecastsReply,
        tag="policies",
    ),
)


def _allow(call: Call) -> None:
    if call.key is not None:
        call.key.allow("read" if call.request.method == "GET" else "admin", placement=call.path("placement"))


def _version(version: PolicyVersion) -> dict[str, Any]:
    return {
        "policy": str(version.ref),
        "kind": version.kind,
        "feature_space": version.feature_space,
        "created_at": version.created_at.isoformat(),
    }
