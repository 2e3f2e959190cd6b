"""HTTP of subjects."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from api.call import Call
from api.operation import Operation
from api.subjects.schemas import ErasureReply, IdentifyBody, IdentifyReply
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


async def erase(call: Call, _: None) -> dict[str, Any]:
    """Erase a person: the subject and everybody linked with it.

    Events, traits, links, features and state vectors are gone; which offer was shown with which probability, and what came of it, stays
    under a random pseudonym, so that experiments and audits stay true. It cannot be undone. Asked again, nothing is found and nothing happens.
    """
    found = await call.in_thread(call.service.erase, call.path("subject"), actor=call.actor)
    return asdict(found)


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
    Operation(
        "DELETE",
        "/v1/subjects/{subject}",
        "Erase a person",
        "admin",
        erase,
        reply=ErasureReply,
        tag="subjects",
    ),
)
