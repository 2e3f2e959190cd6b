"""What is sent and answered about experiments."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.fields import Body, Id, Kind, Moment, Name, Number, Reply, Revision, Share, Text
from api.placements.schemas import ConditionBody

BasisPoints = Annotated[int, Field(ge=0, le=10_000)]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86_400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0, le=10**12, allow_inf_nan=False)]
Reason = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*$")]


class VariantBody(Body):
    """One arm."""

    key: Name
    weight_bp: BasisPoints = Field(description="Share in basis points; all of them sum to 10,000")
    policy: Id = Field(
        "placement",
        description="name@version of a registered policy, baseline, or placement: the placement's own, for variants that are values",
    )
    value: Text = Field("", description="What a flag of the experiment answers instead of the key")


class PlanBody(Body):
    """What was decided before the first visitor came; fixed once."""

    planned_subjects: Count = Field(description="Subjects to follow, all variants together")
    effect: Positive = Field(description="Smallest change of the primary metric that matters, absolute")
    primary: Literal["conversion", "kept", "margin", "revenue"] = "conversion"
    n_looks: Annotated[int, Field(ge=1, le=50)] = 5
    currency: Annotated[str, Field(min_length=1, max_length=8)] = "€"
    margin_tolerance: Annotated[float, Field(ge=0, le=10**12)] | None = None
    visitors_per_day: Positive | None = None
    visitors_per_month: Positive | None = None
    covariate: Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")] = Field(
        "", description="Feature of the first decision, a number, that metrics are adjusted for (CUPED)"
    )
    cap_quantile: Annotated[float, Field(ge=0.5, lt=1)] | None = Field(
        None, description="Share of the buyers above whose quantile money is capped"
    )


class CountingBody(Body):
    """Which outcomes are counted, and for how long after first exposure."""

    subscribed: Kind = "subscribed"
    kept: Kind = "active_30d"
    margin: Kind = "margin_eur"
    revenue: Kind = "revenue_eur"
    cancelled: Kind = "cancelled"
    conversion_window_s: Seconds = 7 * 86_400.0
    kept_window_s: Seconds = 38 * 86_400.0


class RampBody(Body):
    """Coverage that grows by itself while nothing is proven worse."""

    steps: Annotated[tuple[Share, ...], Field(min_length=1, max_length=20)] = (0.01, 0.05, 0.10, 0.25, 0.50, 1.0)
    hold_s: Annotated[float, Field(ge=0, le=366 * 86_400)] = 86_400.0


class DraftBody(Body):
    """Everything a draft may say."""

    placement: Id
    variants: Annotated[tuple[VariantBody, ...], Field(min_length=2, max_length=20)] = Field(
        description="The first is the control"
    )
    coverage: Share = Field(1.0, description="Share of subjects that take part")
    hypothesis: Reason = ""
    plan: PlanBody | None = None
    counting: CountingBody = Field(default_factory=CountingBody)
    targeting: Annotated[tuple[ConditionBody, ...], Field(max_length=50)] = ()
    layer: Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")] = Field(
        "", description="Experiments with separate slots of one layer never meet in one subject"
    )
    slots: Annotated[tuple[BasisPoints, ...], Field(min_length=2, max_length=2)] = (0, 10_000)
    forced: Annotated[dict[Id, Name], Field(max_length=1000)] = Field(
        default_factory=dict, description="Variant by subject, for people who look first and are never counted"
    )
    ramp: RampBody | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    data_scope: Literal["own", "shared"] = "own"
    segments: Annotated[tuple[Name, ...], Field(max_length=3)] = ()
    is_client_visible: bool = Field(False, description="Whether a public key may read a visitor's variant")


class ExperimentBody(DraftBody):
    """A draft: which policies compete at a placement."""

    id: Name


class ChangeBody(Body):
    """A change of state; the revision is the one the caller last read."""

    revision: Revision
    reason: Reason = ""


class EditBody(DraftBody):
    """A draft as it shall be."""

    revision: Revision
    reason: Reason = ""


class CoverageBody(ChangeBody):
    """More subjects take part; nobody changes sides."""

    coverage: Share


class ReweightBody(ChangeBody):
    """Other weights: a new phase begins."""

    weights_bp: dict[Name, BasisPoints]


class ScheduleBody(ChangeBody):
    """When it starts by itself."""

    starts_at: Moment


class FixPlanBody(ChangeBody):
    """The plan, fixed once."""

    plan: PlanBody


class ForceBody(ChangeBody):
    """Who looks at what without being counted."""

    forced: Annotated[dict[Id, Name], Field(max_length=1000)]


class NoteBody(Body):
    """A note on the time line."""

    text: Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]+$")]


class ControlsBody(Body):
    """Switches over all experiments; what is left out stays."""

    is_paused: bool | None = None
    holdout_bp: BasisPoints | None = None
    needs_approval: bool | None = None
    reason: Reason = ""


class ControlsReply(Reply):
    """Switches as they stand."""

    is_paused: bool
    holdout_bp: int
    needs_approval: bool


class VariantReply(Reply):
    """One arm."""

    key: str
    weight_bp: int
    policy: str
    value: str


class PhaseReply(Reply):
    """A stretch of time with one set of weights."""

    number: int
    variants: list[VariantReply]
    coverage: float
    started_at: str
    ended_at: str | None


class ExperimentReply(Reply):
    """An experiment as it is stored."""

    id: str
    placement: str
    state: str
    revision: int
    variants: list[VariantReply]
    coverage: float
    hypothesis: str
    plan: dict[str, Any] | None
    counting: dict[str, Any]
    targeting: list[dict[str, Any]]
    layer: str
    slots: list[int]
    forced: dict[str, str]
    ramp: dict[str, Any] | None
    starts_at: str | None
    ends_at: str | None
    data_scope: str
    segments: list[str]
    approved_by: str
    is_client_visible: bool
    phases: list[PhaseReply]
    started_at: str | None
    stopped_at: str | None


class ExperimentListReply(Reply):
    """All experiments."""

    experiments: list[ExperimentReply]


class CountsReply(Reply):
    """One variant in one phase; a subject counts once, where it was first exposed."""

    phase: int
    variant: str
    n_subjects: int
    n_conversion_matured: int
    n_subscribed: int
    n_kept_matured: int
    n_kept: int
    margin: Number
    revenue: Number


class ResultsReply(Reply):
    """Counts and, where a plan was fixed, the reading against it; ``stays`` is how long subscribers of each variant stay."""

    experiment: str
    as_of: str
    rows: list[CountsReply]
    reading: dict[str, Any] | None
    stays: dict[str, Any]


class CheckReply(Reply):
    """One point of the checklist."""

    name: str
    is_done: bool
    is_blocking: bool
    text: str


class ChecklistReply(Reply):
    """What stands before a start."""

    checks: list[CheckReply]


class AuditRowReply(Reply):
    """One change."""

    id: int
    at: str
    actor: str
    action: str
    what: str
    document: dict[str, Any]


class AuditReply(Reply):
    """Changes, the newest first."""

    rows: list[AuditRowReply]
