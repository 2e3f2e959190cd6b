"""The one table from error class to HTTP status, and the one JSON shape of every error answer.

``{"error": {"code", "message", "details"?, "request_id"?}}``. 422 is for payloads that do not have the documented form; a payload
that is well formed and cannot be acted on gets 400, 404 or 409.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from policies.errors import (
    ArtifactError,
    ConflictError,
    DuplicateOfferError,
    InvalidInputError,
    MissingExtraError,
    NextofferError,
    NoEligibleOfferError,
    NotFittedError,
    OverloadedError,
    ProbabilityError,
    StateError,
    StoreUnavailableError,
    SupportError,
    UnknownDecisionError,
    UnknownNameError,
)


class MalformedError(InvalidInputError):
    """A request body is not JSON, or not of the documented form.

    Attributes
    ----------
    details
        One entry a fault: ``place``, ``problem``.
    """

    def __init__(self, message: str, *, details: Sequence[dict[str, str]] = ()) -> None:
        self.details = list(details)
        super().__init__(message)


class TooLargeError(InvalidInputError):
    """A request body is larger than the service accepts."""


class UnauthorizedError(NextofferError):
    """No API key, or one that is not known (any more)."""


class ForbiddenError(NextofferError):
    """The API key is known and may not do this."""


class RateLimitError(NextofferError):
    """A key sent more requests than its limit allows.

    Attributes
    ----------
    retry_after_s
        Whole seconds after which a request passes again.
    """

    def __init__(self, *, retry_after_s: int, limit_per_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(
            f"this key sent more than {limit_per_s:g} requests a second; wait {retry_after_s} s, or raise rate_limit_per_s"
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What an error becomes on the wire."""

    status: int
    code: str


# The first entry the error is an instance of wins, so subclasses stand before what they refine.
TABLE: tuple[tuple[type[NextofferError], Answer], ...] = (
    (MalformedError, Answer(422, "malformed")),
    (TooLargeError, Answer(413, "too_large")),
    (UnauthorizedError, Answer(401, "unauthorized")),
    (ForbiddenError, Answer(403, "forbidden")),
    (RateLimitError, Answer(429, "rate_limited")),
    (OverloadedError, Answer(429, "overloaded")),
    (StoreUnavailableError, Answer(503, "store_unavailable")),
    (ConflictError, Answer(409, "conflict")),
    (StateError, Answer(409, "wrong_state")),
    (UnknownDecisionError, Answer(404, "unknown_decision")),
    (DuplicateOfferError, Answer(400, "duplicate_offer")),
    (UnknownNameError, Answer(404, "unknown_name")),
    (NoEligibleOfferError, Answer(409, "no_eligible_offer")),
    (NotFittedError, Answer(409, "not_ready")),
    (ArtifactError, Answer(400, "bad_artifact")),
    (MissingExtraError, Answer(501, "missing_extra")),
    (SupportError, Answer(400, "no_support")),
    (InvalidInputError, Answer(400, "invalid_input")),
    (ProbabilityError, Answer(500, "policy_fault")),
    (NextofferError, Answer(500, "internal")),
)


def answer_for(error: NextofferError) -> Answer:
    """Status and code of an error."""
    return next(answer for cls, answer in TABLE if isinstance(error, cls))


def error_body(
    code: str, message: str, *, details: Sequence[Any] = (), request_id: str | None = None
) -> dict[str, Any]:
    """Return the one shape of an error answer."""
    body: dict[str, Any] = {"code": code, "message": message}
    if details:
        body["details"] = list(details)
    if request_id:
        body["request_id"] = request_id
    return {"error": body}


# pydantic ends the path of a fault with the member of a union that it tried; a reader wants the place in the body.
_UNION_TAILS = frozenset(
    {"bool", "int", "float", "str", "constrained-int", "constrained-float", "constrained-str", "datetime"}
)


def validation_details(error: ValidationError) -> list[dict[str, str]]:
    """Faults of a body by place, one each: where, and what is wrong."""
    places: dict[str, tuple[int, str]] = {}
    for fault in error.errors(include_url=False):
        path = list(fault["loc"])
        is_member = len(path) > 1 and path[-1] in _UNION_TAILS
        place = _render(path[:-1] if is_member else path)
        rank, problem = _problem(fault, is_member=is_member)
        if place not in places or rank < places[place][0]:
            places[place] = (rank, problem)
    return [{"place": place, "problem": problem} for place, (_, problem) in places.items()]


_NUMBER_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def _problem(fault: ErrorDetails, *, is_member: bool) -> tuple[int, str]:
    """How much a fault says (0 is most), and in what words.

    Of what was sent only numbers and lengths are repeated: a text may be a secret or name a person.
    """
    kind, context, sent = fault["type"], fault.get("ctx", {}), fault["input"]
    if kind in _NUMBER_BOUNDS and isinstance(sent, int | float):
        name, words = _NUMBER_BOUNDS[kind]
        return 1, f"is {str(sent)[:40]}; expected {words} {context[name]:,.12g}"
    match kind:
        case "too_short":
            return 1, f"has too few entries ({context['actual_length']}); expected at least {context['min_length']}"
        case "too_long":
            return 1, f"has too many entries; expected at most {context['max_length']}"
        case "finite_number":
            return 0, "is not a finite number; leave it out, or send null, where it is unknown"
        case "extra_forbidden":
            return 0, "is not a known field; check its spelling, or leave it out"
        case "missing":
            return 0, "is missing; add it"
    if is_member and kind.endswith("_type"):
        return 2, "has the wrong type; expected text, a finite number, true, false or null"
    return 1, _sentence(fault["msg"])


def describe_validation(error: ValidationError) -> str:
    """All faults of a value in one line."""
    return "; ".join(f"{d['place']} {d['problem']}" for d in validation_details(error))


def malformed(error: ValidationError) -> MalformedError:
    """Turn pydantic's report on a request body into one error that names the places."""
    details = validation_details(error)
    shown = "; ".join(f"{d['place']} {d['problem']}" for d in details[:3])
    more = f"; and {len(details) - 3} more" if len(details) > 3 else ""
    return MalformedError(f"the request does not have the documented form: {shown}{more}", details=details[:50])


def _render(path: Sequence[str | int]) -> str:
    text = ""
    for part in path:
        name = str(part)[:80]
        text += f"[{part}]" if isinstance(part, int) else (f".{name}" if text else name)
    return text or "body"


def _sentence(message: str) -> str:
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:] if message else message
