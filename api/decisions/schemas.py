"""What is asked and answered about decisions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.fields import Body, Id, Kind, Moment, Number, Reply, Scalars


class CandidateBody(Body):
    """An offer sent with a request instead of the catalogue's."""

    id: Id
    features: Scalars = Field(default_factory=dict, description="What policies see")
    payload: dict[str, Any] = Field(default_factory=dict, description="What the site shows; comes back with the offer")


class RecentEventBody(Body):
    """Behaviour of the visitor that happened just before; recorded before the decision is made."""

    kind: Kind
    item: Annotated[str, Field(max_length=256)] = ""
    value: Number = 0.0
    id: Id
    at: Moment | None = None


class DecisionBody(Body):
    """Which offer to show one visitor now."""

    subject: Id = Field(description="Who: the same text for the same visitor, and no personal data")
    features: Scalars = Field(default_factory=dict, description="What the site knows of the visitor now")
    id: Id | None = Field(None, description="Your id of the decision: asked again, the stored answer comes back")
    offers: Annotated[tuple[CandidateBody, ...], Field(min_length=1, max_length=200)] | None = Field(
        None, description="Candidates; without them, the catalogue of the placement"
    )
    exclude: Annotated[tuple[Id, ...], Field(max_length=200)] = Field((), description="Offers not to show this time")
    events: Annotated[tuple[RecentEventBody, ...], Field(max_length=128)] = Field(
        (), description="Behaviour to record first, oldest first; an id makes a retry harmless"
    )
    activated: bool = Field(True, description="False if the page decides later whether the visitor sees the offer")
    explain: bool = Field(False, description="Say why each offer was left out, and how the choice was made")
    dry_run: bool = Field(False, description="Answer without recording anything")


class BatchBody(Body):
    """Many decisions at one placement, for e-mail or prefetching."""

    decisions: Annotated[tuple[DecisionBody, ...], Field(min_length=1)]


class ChosenReply(Reply):
    """The offer to show."""

    id: str
    payload: dict[str, Any]


class ExplanationReply(Reply):
    """Why this offer."""

    steps: list[str]
    excluded: dict[str, str]
    probabilities: dict[str, float]


class DecisionReply(Reply):
    """A decision. ``recorded`` false: the log could not be written, the offer is the fallback, nothing is learned from it."""

    id: str
    placement: str
    subject: str
    at: str
    offer: ChosenReply
    probability: float
    policy: str
    rung: str
    experiment: str | None
    variant: str | None
    recorded: bool
    activated: bool
    repeat: bool
    explanation: ExplanationReply | None = None


class FaultReply(Reply):
    """Why one decision of a batch was not made."""

    code: str
    message: str


class BatchEntryReply(Reply):
    """One entry of a batch: a decision or a fault."""

    decision: DecisionReply | None = None
    error: FaultReply | None = None


class BatchReply(Reply):
    """Answers in the order of the requests."""

    decisions: list[BatchEntryReply]


class AuditReply(Reply):
    """Everything that was logged of a decision."""

    id: str
    placement: str
    subject: str
    at: str
    offers: list[str]
    probabilities: list[float]
    chosen: int
    offer: str
    probability: float
    offer_set_revision: str
    policy: str
    snapshot: str
    rung: str
    explore_share: float
    uniform: float
    secret_version: int
    feature_space: str
    features: dict[str, Any]
    vectors: dict[str, list[float]]
    event_cursor: int
    experiment: str | None
    phase: int | None
    variant: str | None
    variant_probability: float | None
    excluded: dict[str, str]
    activated: bool


class ActivationReply(Reply):
    """``first``: it had not been activated before."""

    decision: str
    activated: bool
    first: bool
