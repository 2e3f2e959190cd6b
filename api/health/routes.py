"""HTTP of health and metrics."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from api.call import Call
from api.edge import json_response
from api.fields import Reply
from api.operation import Operation
from policies.errors import NextofferError


class HealthReply(Reply):
    """A process that answers, and what it waits for."""

    status: str
    message: str = ""


async def healthz(call: Call, _: None) -> dict[str, Any]:
    """Say that the process lives."""
    del call
    return {"status": "ok", "message": ""}


async def readyz(call: Call, _: None) -> Response:
    """Say whether the store can be read, so that traffic makes sense."""
    try:
        await call.in_thread(call.service.refresh)
        await call.in_thread(call.service.database.config_revision)
    except NextofferError as error:
        return json_response({"status": "unavailable", "message": str(error)}, status=503)
    return json_response({"status": "ok", "message": ""})


async def metrics(call: Call, _: None) -> Response:
    """Counters and histograms for Prometheus."""
    text, media_type = call.parts.metrics.render()
    return Response(text, headers={"content-type": media_type})


OPERATIONS = (
    Operation("GET", "/healthz", "Whether the process lives", None, healthz, reply=HealthReply, tag="health"),
    Operation("GET", "/readyz", "Whether it can work", None, readyz, reply=HealthReply, tag="health"),
)
METRICS = Operation("GET", "/metrics", "Prometheus metrics", None, metrics, tag="health")
