"""What is sent and answered about placements."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.fields import Body, Id, Kind, Moment, Name, Number, Reply, Revision, Scalar, Scalars, Share
from policies.eligibility import Operator


class ConditionBody(Body):
    """A test of one feature."""

    feature: Name
    operator: Operator
    value: Annotated[tuple[Scalar, ...], Field(max_length=1000)] | Scalar = None


class RuleBody(Body):
    """Offers that match ``offers`` may be shown only to visitors that match ``requires``."""

    id: Name
    offers: tuple[ConditionBody, ...] = ()
    requires: tuple[ConditionBody, ...] = ()


class CatalogueOfferBody(Body):
    """An offer and the limits it is shown under."""

    id: Id
    features: Scalars = Field(default_factory=dict, description="What policies see")
    payload: dict[str, Any] = Field(default_factory=dict, description="What the site shows")
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    stock: Annotated[int, Field(ge=0, le=10**12)] | None = None


class CapBody(Body):
    """At most so many views of an offer by one person within some days; one view is a cool-down."""

    id: Name
    most: Annotated[int, Field(ge=1, le=10_000)]
    days: Annotated[float, Field(gt=0, le=3660)]
    offers: tuple[ConditionBody, ...] = Field((), description="Which offers it speaks of; empty: all")
    together: bool = Field(False, description="Count views of all those offers as one")


class MandatoryBody(Body):
    """Where it applies and one of its offers may be shown, only its offers are."""

    id: Name
    offers: Annotated[tuple[ConditionBody, ...], Field(min_length=1)]
    requires: tuple[ConditionBody, ...] = ()


class MarginFloorBody(Body):
    """Offers that earn less than this are not shown."""

    id: Name
    least: Number
    feature: Name = "margin_eur"
    requires: tuple[ConditionBody, ...] = ()


class BudgetBody(Body):
    """What may be given away in a period, released evenly over it."""

    id: Name
    cost: Name = Field(description="Offer feature that says what one costs")
    total: Annotated[float, Field(ge=0, le=10**12)]
    starts_at: Moment
    ends_at: Moment
    counts: Kind | None = Field(None, description="Kind of reward that spends; without it, every showing does")
    head_start: Share = Field(0.1, description="Share of the total that may be spent at once")


class DiversityBody(Body):
    """At most so many offers of a page share a value of a feature."""

    id: Name
    feature: Name
    most: Annotated[int, Field(ge=1, le=100)] = 1


class LimitsBody(Body):
    """What the business asks beyond rules; like rules they act before the policy, and are logged as the reason."""

    caps: Annotated[tuple[CapBody, ...], Field(max_length=50)] = ()
    mandatory: Annotated[tuple[MandatoryBody, ...], Field(max_length=50)] = ()
    margin_floors: Annotated[tuple[MarginFloorBody, ...], Field(max_length=50)] = ()
    budgets: Annotated[tuple[BudgetBody, ...], Field(max_length=20)] = ()
    diversity: Annotated[tuple[DiversityBody, ...], Field(max_length=20)] = ()


class RewardTermBody(Body):
    """One kind of fact and what it is worth."""

    kind: Kind
    weight: Number = 1.0


class RewardDefinitionBody(Body):
    """What counts as success at the placement."""

    terms: Annotated[tuple[RewardTermBody, ...], Field(min_length=1, max_length=50)] = (
        RewardTermBody(kind="subscribed"),
    )
    window_s: Annotated[float, Field(gt=0, le=10 * 366 * 86_400)] = 30 * 86_400.0
    default: Number = 0.0
    aggregation: Literal["sum", "first", "last", "max"] = "sum"


class CandidatesBody(Body):
    """How the offers of one decision are found in a large catalogue."""

    k: Annotated[int, Field(ge=1, le=200)] = Field(50, description="How many are compared at most")
    match: Annotated[tuple[Name, ...], Field(max_length=10)] = Field(
        (), description="Features that visitors and offers share, the most telling first"
    )


class PlacementBody(Body):
    """A place on a site where one offer is shown."""

    offers: Annotated[tuple[CatalogueOfferBody, ...], Field(min_length=1, max_length=10_000)]
    rules: Annotated[tuple[RuleBody, ...], Field(max_length=200)] = ()
    policy: Id | None = Field(None, description="name@version of a registered policy; without it, the baseline order")
    baseline: tuple[Id, ...] = Field((), description="Order of offers to fall back on, best first")
    explore_share: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="Share of decisions that explore")
    reward: RewardDefinitionBody = Field(default_factory=RewardDefinitionBody)
    encoder: Id | None = Field(None, description="name@version of a registered sequence encoder")
    candidates: CandidatesBody | None = Field(None, description="Needed for more than 200 offers")
    fallback: Id | None = Field(None, description="name@version that decides where the policy fails or is too slow")
    doors: Annotated[dict[Name, dict[str, Any]], Field(max_length=10)] = Field(
        default_factory=dict, description="What other contracts configure, by door; give it back as it was read"
    )
    limits: LimitsBody = Field(default_factory=LimitsBody)
    expected_revision: Revision | None = Field(
        None, description="Refuse the change if the placement has moved on; 0: new"
    )


class PlacementReply(Reply):
    """A placement as it is stored."""

    id: str
    revision: int
    offers: list[dict[str, Any]]
    rules: list[dict[str, Any]]
    policy: str | None
    baseline: list[str]
    explore_share: Share
    reward: dict[str, Any]
    encoder: str | None
    fallback: str | None
    candidates: dict[str, Any] | None
    doors: dict[str, dict[str, Any]]
    limits: dict[str, Any]


class PlacementListReply(Reply):
    """Ids of all placements."""

    placements: list[str]


class RevisionReply(Reply):
    """The placement's new revision."""

    id: str
    revision: int


class LearningReply(Reply):
    """Is it learning? ``behind``: closed windows wait for a learner that does not run; ``fixed``: the policy does not learn online."""

    policy: str
    state: Literal["learning", "waiting", "behind", "fixed"]
    snapshot: int | None
    n_waiting: int
    message: str


class StatusReply(Reply):
    """How a placement is doing."""

    placement: str
    revision: int
    n_offers: int
    policy: str
    experiment: str | None
    n_decisions: int
    n_bot_decisions: int
    n_rewards: int
    last_decision_at: str | None
    last_reward: str | None
    ledger_offset: int
    is_log_healthy: bool
    n_unrecorded: int
    learning: list[LearningReply]
    message: str
