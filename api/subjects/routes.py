"""HTTP of subjects."""

from __future__ import annotations

from typing import Any

from api.operation import Call, Operation
from api.subjects.schemas import IdentifyBody, IdentifyReply
from engine.decisions.requests import IdentifyRequest


async def identify(call: Call, body: IdentifyBody) -> dict[str, Any]:
    """Say that a subject is the same person as another: its login.

    From then on decisions keep the variant of the person's first exposure, outcomes of one id are attributed to decisions
    of all, experiments count one subject, and the sequence of events is that of all ids. The same link again is a repeat; an id that was
    identified as another before, or a link that would go in a circle, is a conflict.
    """
    receipt = await call.service.aidentify(
        IdentifyRequest(call.path("subject"), body.identified_as, at=call.fact_at(body.at))
    )
    return {
        "subject": receipt.subject,
        "identified_as": receipt.identified_as,
        "status": receipt.status,
        "person": list(receipt.person),
        "offset": receipt.offset,
    }


OPERATIONS = (
    Operation(
        "POST",
        "/v1/subjects/{subject}/identify",
        "An anonymous visitor has logged in",
        "reward",
        identify,
        body=IdentifyBody,
        reply=IdentifyReply,
        tag="subjects",
    ),
)
