"""What is asked and answered about decisions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, RootModel

from api.fields import Body, Id, Kind, Moment, Name, Number, Reply, Scalar, Scalars
from engine.decisions.kept import MAX_TTL_S, MIN_TTL_S
from engine.decisions.pages import MAX_SLOTS


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


class SlotBody(Body):
    """A place on the page; give them best first, since each takes from what the places before it have left."""

    id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00#]+$")]
    features: Annotated[dict[Name, Scalar], Field(max_length=50)] = Field(
        default_factory=dict, description="What is known of the place; policies see them as slot.<name>"
    )
    exclude: Annotated[tuple[Id, ...], Field(max_length=200)] = Field((), description="Offers not to show here")


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
    ttl_s: Annotated[float, Field(ge=MIN_TTL_S, le=MAX_TTL_S)] | None = Field(
        None,
        description="Within so many seconds the same person (subject, and what it is linked with) gets the same stored decision at "
        "this placement, under its first id, with repeat true: no second draw, no second exposure, whatever the features are by then. "
        "The time counts from the first answer and is not prolonged. If the offer may no longer be shown (taken out of the "
        "catalogue, excluded by a rule or the request, ended), a new decision is made and kept; caps, budgets and stock that its own view used "
        "up take nothing back. Its payload is today's. Excludes id",
    )
    slots: Annotated[tuple[SlotBody, ...], Field(min_length=1, max_length=MAX_SLOTS)] | None = Field(
        None, description="Several places on one page: the answer is a page with a decision for each, no offer twice"
    )
    bot: bool = Field(
        False, description="The visitor is a machine: it gets the baseline order, and nothing counts or learns from it"
    )
    user_agent: Annotated[str, Field(max_length=1024)] | None = Field(
        None, description="The visitor's own User-Agent: known machines are recognised by it. It is not stored"
    )


class BatchBody(Body):
    """Many decisions at one placement, for e-mail or prefetching."""

    decisions: Annotated[tuple[DecisionBody, ...], Field(min_length=1)]


class ActivationBody(Body):
    """What the page says of an offer that was seen; the body may be left out."""

    shown: Id | None = Field(
        None, description="Offer that the page has really shown; where it is not the one chosen, monitoring rings"
    )


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


class SlotReply(Reply):
    """What to show in one place."""

    slot: str
    decision: DecisionReply


class PageReply(Reply):
    """Decisions for the places of a page; rewards and activations name the id of a decision, not of the page."""

    id: str
    placement: str
    subject: str
    slots: list[SlotReply]
    recorded: bool
    repeat: bool


class DecideReply(RootModel[DecisionReply | PageReply]):
    """A decision, or a page of them where slots were asked for."""


class FaultReply(Reply):
    """Why one decision of a batch was not made."""

    code: str
    message: str


class BatchEntryReply(Reply):
    """One entry of a batch: a decision or a fault."""

    decision: DecisionReply | PageReply | None = None
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
    learned_in: int | None = Field(None, description="The first snapshot that has learned from it")


class ActivationReply(Reply):
    """``first``: it had not been activated before."""

    decision: str
    activated: bool
    first: bool
