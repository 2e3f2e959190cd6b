"""What is asked of the decision service and what it answers; HTTP is a translation of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from policies.records import Decision, Event, Features, Offer, OfferId

Role = Literal["policy", "bot", "apprentice"]


_NO_FEATURES: Features = MappingProxyType({})


class DecisionRequest(NamedTuple):
    """Which offer to show one subject at one placement.

    Parameters
    ----------
    features
        What the site knows of the visitor now; batch-scored traits of the subject are added where the request has no such name.
    id
        Chosen by the caller, who may then ask again: the same request gets the stored answer, another one a conflict.
    offers
        Candidates instead of the placement's catalogue.
    exclude
        Ids that may not be shown this time.
    at
        The moment, where the caller keeps time itself (a sandbox, an import); else the service's clock.
    is_activated
        False where the page decides later whether the offer is seen (``activate``); until then it is no exposure.
    dry_run
        Answer without writing anything.
    explain
        Say why each offer was excluded and where the policy came from.
    ttl_s
        The person asked for again within so many seconds gets the stored decision, as long as its offer may still be shown.
        Excludes ``id``, which is derived.
    role
        ``bot``: the visitor is a machine; it gets the baseline order, is no exposure, and nothing learns from it.
        ``apprentice``: the baseline order answers with certainty, and the policy learns from that.
    placed
        Offers that earlier slots of the same page show.
    digest
        Tells this request from another with the same id; None: ``identity_of`` it does.
    waited_s
        How long the request has waited before it could be looked at; past the deadline of policies the baseline order answers.
    """

    placement: str
    subject: str
    features: Features = _NO_FEATURES
    id: str | None = None
    offers: tuple[Offer, ...] | None = None
    exclude: tuple[str, ...] = ()
    at: datetime | None = None
    is_activated: bool = True
    dry_run: bool = False
    explain: bool = False
    ttl_s: float | None = None
    role: Role = "policy"
    placed: tuple[str, ...] = ()
    digest: bytes | None = None
    waited_s: float = 0.0


def identity_of(request: DecisionRequest) -> list[Any]:
    """What makes two requests with one id the same, as JSON: placement, subject, features, offers with their features, exclusions, activation.

    Not what the answer may look like (payloads, an explanation), nor how it came about (the clock, the role, what other slots
    show, a dry run, how long a person keeps a decision).
    """
    offers = None if request.offers is None else [[o.id, dict(o.features)] for o in request.offers]
    return [
        request.placement,
        request.subject,
        dict(request.features),
        offers,
        list(request.exclude),
        request.is_activated,
    ]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a decision is what it is, in words a person can check."""

    steps: tuple[str, ...]
    excluded: Mapping[OfferId, str]
    probabilities: Mapping[OfferId, float]


class DecisionAnswer(NamedTuple):
    """A decision, what the site needs to show it, and whether it was answered before.

    ``decision.recorded`` says whether it is on disk: if not, the offer is the fallback and nothing will be learned from it.
    """

    decision: Decision
    payload: Mapping[str, Any]
    is_repeat: bool = False
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """A place on a page.

    Parameters
    ----------
    features
        What is known of the place; policies see them as ``slot.<name>``, and its id as ``slot``.
    first
        Offer that the baseline of this place shows first, among offers that come with the request.
    """

    id: str
    features: Features = field(default_factory=dict)
    exclude: tuple[str, ...] = ()
    first: str | None = None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which offers to show in several places at once, best place first.

    Parameters
    ----------
    decision
        What is asked for every slot; its ``id`` names the page.
    """

    decision: DecisionRequest
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class PageAnswer:
    """A decision for each slot, in the order of the request."""

    id: str
    slots: tuple[tuple[str, DecisionAnswer], ...]


@dataclass(frozen=True, slots=True)
class RewardRequest:
    """Something that came of a decision.

    Parameters
    ----------
    id
        Makes a retry harmless; left out, it is ``decision:kind``, so a kind counts once per decision.
    must_join
        Whether an unknown decision is an error; if not, the reward waits for its decision (imports, events out of order).
    """

    decision: str
    kind: str
    value: float = 1.0
    id: str | None = None
    at: datetime | None = None
    must_join: bool = True


@dataclass(frozen=True, slots=True)
class RewardReceipt:
    """What became of a reward."""

    id: str
    decision: str
    status: Literal["recorded", "repeat", "ignored"]
    joined: bool
    offset: int | None = None


class Uncounted(NamedTuple):
    """A placement whose reward definition does not name a kind, and the kinds that it does name."""

    placement: str
    kinds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OutcomeRequest:
    """Something that became known of a subject: ``subscribed``, ``active_30d``, ``margin_eur``, ``refund``."""

    subject: str
    kind: str
    value: float = 1.0
    id: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class OutcomeReceipt:
    """What became of an outcome: which decisions it is attributed to, as far as is known now."""

    id: str
    status: Literal["recorded", "repeat"]
    attributed_to: tuple[str, ...]
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class EventRequest:
    """Behaviour of a subject that advances its state."""

    subject: str
    kind: str
    item: str = ""
    value: float = 0.0
    id: str | None = None
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EventReceipt:
    """What became of an event."""

    event: Event
    status: Literal["recorded", "repeat"]
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class IdentifyRequest:
    """An id turns out to be the same person as another: an anonymous visitor has logged in."""

    subject: str
    identified_as: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class IdentifyReceipt:
    """What became of it, and all ids that are now one person, its name first."""

    subject: str
    identified_as: str
    status: Literal["recorded", "repeat"]
    person: tuple[str, ...]
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class PlacementStatus:
    """What a back-end developer wants to see after the first calls."""

    placement: str
    revision: int
    n_offers: int
    policy: str
    experiment: str | None
    n_decisions: int
    n_bot_decisions: int
    n_rewards: int
    last_decision_at: datetime | None
    last_reward: str | None
    ledger_offset: int
    is_log_healthy: bool
    n_unrecorded: int
