"""HTTP of policy versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from api.operation import Call, Operation
from api.policies.schemas import PolicyListReply, PolicyVersionReply, RegisterBody
from engine.registry.versions import PolicyVersion


async def register_policy(call: Call, body: RegisterBody) -> dict[str, Any]:
    """Keep an artefact as a version of a policy; the same content again is the same version."""
    registry = call.service.policies
    ref = await call.in_thread(registry.register, Path(body.path), name=body.name, at=call.now, actor=call.actor)
    return _version(await call.in_thread(registry.find, str(ref)))


async def list_policies(call: Call, _: None) -> dict[str, Any]:
    """Give all registered versions."""
    return {"policies": [_version(v) for v in await call.in_thread(call.service.policies.versions)]}


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
)


def _version(version: PolicyVersion) -> dict[str, Any]:
    return {
        "policy": str(version.ref),
        "kind": version.kind,
        "feature_space": version.feature_space,
        "created_at": version.created_at.isoformat(),
    }
