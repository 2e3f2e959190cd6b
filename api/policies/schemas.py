"""What is sent and answered about policy versions: where they stand, what the gate said, what was foretold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from api.fields import Body, Id, Name, Reply


class RegisterBody(Body):
    """Where an artefact lies on the server's disk, and under which name it is kept."""

    name: Name
    path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] = Field(
        description="Folder of the artefact; its content is checked against its hashes and copied"
    )


class PolicyVersionReply(Reply):
    """A registered version."""

    policy: str = Field(description="name@version, as placements and experiments name it")
    kind: str
    feature_space: str
    created_at: str


class PolicyListReply(Reply):
    """All versions, oldest first."""

    policies: list[PolicyVersionReply]


Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=r"^[^\x00]+$")]


class StandingReply(Reply):
    """Where a version stands at a placement."""

    placement: str
    policy: str
    state: Literal["candidate", "shadow", "canary", "live", "retired"]
    changed_at: str
    verdict: str | None = Field(description="Id of the gate's verdict it rests on")
    experiment: str | None = Field(description="Its canary")
    previous: str | None = Field(description="What was live before it: a rollback brings it back")
    reason: str


class StandingListReply(Reply):
    """Standings, the last changed first."""

    standings: list[StandingReply]


class RollbackBody(Body):
    """Take a version back."""

    policy: Id | None = Field(None, description="Which one; by default the canary, or what is live where there is none")
    reason: Reason


class PromoteBody(Body):
    """Make a version live at once, past shadow and canary."""

    policy: Id
    reason: Reason


class ApprovalBody(Body):
    """Why a candidate that the log could not answer for may meet a few visitors."""

    reason: Reason


class PartReply(Reply):
    """One question of the gate."""

    name: str
    word: Literal["pass", "refuse", "open"]
    sentences: list[str]
    figures: dict[str, Any]
    in_simulation: bool
    is_needed: bool


class VerdictReply(Reply):
    """What the gate said of a candidate, and why."""

    id: str
    placement: str
    policy: str
    incumbent: str
    at: str
    outcome: Literal["pass", "refuse", "log cannot answer"]
    reasons: list[str]
    next_step: str
    parts: list[PartReply]
    inputs: str
    approved_by: str | None
    approved_at: str | None


class VerdictListReply(Reply):
    """Verdicts, the newest first."""

    verdicts: list[VerdictReply]


class ForecastsReply(Reply):
    """What was foretold, what came of it, and how often it held."""

    record: list[dict[str, Any]] = Field(description="By kind: open, come, inside the interval, mean error")
    forecasts: list[dict[str, Any]]
