"""What is sent and answered about experiments."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from api.fields import Body, Id, Name, Reply, Revision, Share

BasisPoints = Annotated[int, Field(ge=0, le=10_000)]


class VariantBody(Body):
    """One arm."""

    key: Name
    weight_bp: BasisPoints = Field(description="Share in basis points; all of them sum to 10,000")
    policy: Id = Field(description="name@version of a registered policy, or baseline")


class ExperimentBody(Body):
    """A draft: which policies compete at a placement."""

    id: Name
    placement: Id
    variants: Annotated[tuple[VariantBody, ...], Field(min_length=2, max_length=20)] = Field(
        description="The first is the control"
    )
    coverage: Share = Field(1.0, description="Share of subjects that take part")
    hypothesis: Annotated[str, Field(max_length=2000)] = ""


class ChangeBody(Body):
    """A change of state; the revision is the one the caller last read."""

    revision: Revision


class RampBody(ChangeBody):
    """More subjects take part; nobody changes sides."""

    coverage: Share


class ReweightBody(ChangeBody):
    """Other weights: a new phase begins."""

    weights_bp: dict[Name, BasisPoints]


class VariantReply(Reply):
    """One arm."""

    key: str
    weight_bp: int
    policy: str


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
    margin_eur: float


class ResultsReply(Reply):
    """Counts and, where ``planned_subjects`` and ``effect`` are given, the reading against that plan."""

    experiment: str
    as_of: str
    rows: list[CountsReply]
    reading: dict[str, Any] | None
