"""Facts as plain rows: what crosses the seam between those who make facts and the one writer.

A row is a tuple of plain values, so that it crosses a process boundary by ``marshal`` in a few microseconds.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from policies.errors import InvalidInputError, MovedAwayError
from policies.records import Decision, DecisionId, Event, OfferId, Outcome, PlacementId, PolicyRef, Reward, SubjectId

DECISION, REWARD, OUTCOME, EVENT, ACTIVATION, VOID, LINK = 1, 2, 3, 4, 5, 6, 7

NEW, REPEAT, CONFLICT, UNKNOWN_DECISION = 0, 1, 2, 3

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MAX_ID_LENGTH = 256
_RANDOM: list[str] = []
os.register_at_fork(after_in_child=_RANDOM.clear)  # two processes must not make the same ids


class FactRow(NamedTuple):
    """One fact on its way into the ledger.

    Attributes
    ----------
    kind
        Which table.
    id
        Unique within the kind; the same id again is a repeat (same digest) or a conflict.
    digest
        Hash of what the caller sent; empty where the id is new (``is_new_id``).
    values
        Columns of the table after ``ledger_offset``, in its order.
    decision
        Decision the fact needs, or "".
    must_join
        Whether the fact is refused where that decision is not in the log.
    assignment
        Row of ``assignments`` that comes with a decision, kept if it is the subject's first.
    offer_set
        ``(revision, document)`` that comes with a decision whose offers may not be stored yet.
    is_new_id
        Whether the id was made for this fact (``new_id``), so that no other fact can have it.
    """

    kind: int
    id: str
    digest: bytes
    values: tuple[Any, ...]
    decision: str = ""
    must_join: bool = False
    assignment: tuple[Any, ...] | None = None
    offer_set: tuple[str, str] | None = None
    is_new_id: bool = False


class Receipt(NamedTuple):
    """What became of a row: its status, its offset (the first one's for a repeat), and whether its decision is known."""

    status: int
    offset: int
    joined: bool


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime.

    Raises
    ------
    InvalidInputError
        If the datetime has no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidInputError(f"time {moment.isoformat()} has no time zone; send 2026-01-31T00:00:00Z")
    return (moment - _EPOCH) // _MICROSECOND


def from_us(at_us: int) -> datetime:
    """Aware datetime in UTC."""
    return _EPOCH + timedelta(microseconds=at_us)


def new_id(at_us: int) -> str:
    """Id for a fact whose caller gave none: 48 bits of time, then 80 random ones, as 32 hexadecimal digits.

    Ids that grow with time are neighbours in the key table: a batch touches one page of it, not one a row.
    """
    try:
        random = _RANDOM.pop()
    except IndexError:
        many = os.urandom(10 * 256).hex()  # one call of the kernel for many ids
        _RANDOM.extend(many[i : i + 20] for i in range(20, len(many), 20))
        random = many[:20]
    return f"{at_us // 1000:012x}{random}"


def is_same(stored: bytes, asked: bytes) -> bool:
    """Whether a fact that is stored under an id and one that comes with it are the same: of an id made here no digest is kept."""
    return not stored or stored == asked


def digest_of(content: Any) -> bytes:
    """16 bytes that tell two requests apart."""
    text = _dumps(content, option=orjson.OPT_SORT_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    return hashlib.blake2b(text, digest_size=16).digest()


def _dumps(content: Any, *, option: int | None = None) -> bytes:
    try:
        return orjson.dumps(content, option=option)
    except (TypeError, orjson.JSONEncodeError) as error:
        raise InvalidInputError(
            f"a request holds a value that JSON cannot carry ({error}); send plain values"
        ) from error


def check_text(value: object, *, what: str, max_length: int = MAX_ID_LENGTH) -> str:
    """Refuse an id or a name that some backend cannot store or find again."""
    if not isinstance(value, str) or not value or len(value) > max_length:
        found = f"{len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise InvalidInputError(f"{what} has {found}; expected text of 1 to {max_length} characters")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"{what} holds half a surrogate pair; send well-formed Unicode") from error
    if "\x00" in value:
        raise InvalidInputError(f"{what} holds a NUL character; send text without it")
    return value


def decision_row(
    decision: Decision,
    *,
    digest: bytes,
    assignment: tuple[Any, ...] | None = None,
    offer_set: tuple[str, str] | None = None,
    is_new_id: bool = False,
) -> FactRow:
    """Row of a decision; ``decision_from_values`` reads it back equal to the bit."""
    body = _dumps(
        {
            "o": decision.offers,
            "p": decision.probabilities,
            "c": decision.chosen,
            "r": decision.offer_set_revision,
            "n": decision.policy.name,
            "s": decision.snapshot,
            "g": decision.rung,
            "e": decision.explore_share,
            "u": decision.uniform,
            "k": decision.secret_version,
            "f": decision.feature_space,
            "x": _plain(decision.context),
            "w": _plain(decision.vectors),
            "t": decision.event_cursor,
            "q": decision.variant_probability,
            "d": _plain(decision.excluded),
        }
    )
    values = (
        decision.id,
        decision.placement,
        decision.subject,
        to_us(decision.at),
        decision.activated,
        decision.experiment,
        decision.phase,
        decision.variant,
        str(decision.policy),
        decision.offer,
        decision.propensity,
        body,
    )
    return FactRow(
        DECISION, decision.id, digest, values, assignment=assignment, offer_set=offer_set, is_new_id=is_new_id
    )


def _plain(mapping: Mapping[Any, Any]) -> dict[Any, Any]:
    return mapping if type(mapping) is dict else dict(mapping)


def decision_from_values(values: Any) -> Decision:
    """Decision of a row of ``decisions`` without its offset.

    Raises
    ------
    MovedAwayError
        If retention has moved its body to the cold path.
    """
    id_, placement, subject, at_us, is_activated, experiment, phase, variant, policy, _, _, raw = values
    if not raw:
        raise MovedAwayError(id_)
    body = orjson.loads(raw)
    name: str = body["n"]
    return Decision(
        id=DecisionId(id_),
        placement=PlacementId(placement),
        subject=SubjectId(subject),
        at=from_us(at_us),
        offers=tuple(OfferId(o) for o in body["o"]),
        probabilities=tuple(body["p"]),
        chosen=body["c"],
        offer_set_revision=body["r"],
        policy=PolicyRef(name, policy[len(name) + 1 :]),
        snapshot=body["s"],
        rung=body["g"],
        explore_share=body["e"],
        uniform=body["u"],
        secret_version=body["k"],
        feature_space=body["f"],
        context=body["x"],
        vectors={k: tuple(v) for k, v in body["w"].items()},
        event_cursor=body["t"],
        experiment=experiment,
        phase=phase,
        variant=variant,
        variant_probability=body["q"],
        excluded={OfferId(k): v for k, v in body["d"].items()},
        activated=bool(is_activated),
    )


def reward_row(reward: Reward, *, must_join: bool) -> FactRow:
    """Row of a reward; its time is no part of what makes a repeat a conflict."""
    values = (reward.id, reward.decision, reward.kind, reward.value, to_us(reward.at))
    digest = digest_of([reward.decision, reward.kind, reward.value])
    return FactRow(REWARD, reward.id, digest, values, decision=reward.decision, must_join=must_join)


def outcome_row(outcome: Outcome) -> FactRow:
    """Row of an outcome."""
    values = (outcome.id, outcome.subject, outcome.kind, outcome.value, to_us(outcome.at))
    return FactRow(OUTCOME, outcome.id, digest_of([outcome.subject, outcome.kind, outcome.value]), values)


def event_row(event: Event) -> FactRow:
    """Row of an event."""
    values = (event.id, event.subject, event.kind, event.item, event.value, to_us(event.at))
    return FactRow(EVENT, event.id, digest_of([event.subject, event.kind, event.item, event.value]), values)


def activation_row(decision_id: str, at: datetime, shown: str | None = None) -> FactRow:
    """Row that says a decision answered earlier has been seen, and what the page says it showed."""
    return FactRow(ACTIVATION, decision_id, b"", (decision_id, to_us(at), shown), decision=decision_id, must_join=True)


def link_row(subject: str, identified_as: str, at: datetime) -> FactRow:
    """Row that says two ids are one person; an id is identified once, so its own id is the key."""
    return FactRow(LINK, subject, digest_of([identified_as]), (subject, identified_as, to_us(at)))


def void_row(decision_id: str, at: datetime) -> FactRow:
    """Row that takes back a decision whose caller was answered before the log could say that it is on disk."""
    return FactRow(VOID, decision_id, b"", (decision_id, to_us(at)))
