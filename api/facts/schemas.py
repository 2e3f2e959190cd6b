"""What is sent and answered about rewards, outcomes and events."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from api.fields import Body, Id, Kind, Moment, Number, Reply


class RewardBody(Body):
    """Something that came of one decision."""

    decision: Id = Field(description="The id that the decision was answered with")
    kind: Kind = Field(description="What happened, such as clicked or subscribed")
    value: Number = 1.0
    id: Id | None = Field(None, description="Makes a retry harmless; without it, a kind counts once per decision")
    at: Moment | None = Field(None, description="When it happened; without it, now")


class RewardReply(Reply):
    """What it joined. ``ignored``: its decision was answered with ``recorded: false``, so it is no exposure.

    ``learned_in``: the snapshot that has learned from the decision, known when the reward is sent again after that.
    ``counts``: false where it is kept and nothing learns from it, since the reward definition of the placement does not name its kind.
    """

    id: str
    decision: str
    status: Literal["recorded", "repeat", "ignored"]
    joined: bool
    offset: int | None
    learned_in: int | None
    counts: bool
    message: str


class OutcomeBody(Body):
    """Something that became known of a subject, such as billing's news of a subscription."""

    subject: Id
    kind: Kind = Field(description="Such as subscribed, active_30d, margin_eur, refund")
    value: Number = 1.0
    id: Id | None = Field(None, description="Makes a retry harmless, such as the number of the invoice")
    at: Moment | None = Field(None, description="When it happened; without it, now")


class OutcomeReply(Reply):
    """Which decisions it is attributed to, as far as is known now."""

    id: str
    status: Literal["recorded", "repeat"]
    attributed_to: list[str]
    offset: int | None


class EventBody(Body):
    """Behaviour of a subject."""

    subject: Id
    kind: Kind = Field(description="Such as page_view, search, purchase")
    item: Annotated[str, Field(max_length=256)] = ""
    value: Number = 0.0
    id: Id | None = Field(None, description="Makes a retry harmless")
    at: Moment | None = Field(None, description="When it happened; without it, now")


class EventReply(Reply):
    """What became of it."""

    id: str
    subject: str
    status: Literal["recorded", "repeat"]
    offset: int | None
