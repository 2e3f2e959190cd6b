"""What is sent and answered about subjects."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from api.fields import Body, Id, Moment, Reply


class IdentifyBody(Body):
    """An anonymous visitor has logged in: two ids are one person from now on."""

    identified_as: Id = Field(
        description="The id that the subject has after the login. An id is identified once; several may lead to one"
    )
    at: Moment | None = Field(None, description="When it happened; without it, now")


class IdentifyReply(Reply):
    """``person``: all ids that are now one, its name (where the links lead) first."""

    subject: str
    identified_as: str
    status: Literal["recorded", "repeat"]
    person: list[str]
    offset: int | None


class ErasureReply(Reply):
    """What was erased. What counts in reports stays under ``pseudonym``, which leads nowhere; "" where nothing was known."""

    pseudonym: str
    n_ids: int = Field(description="Ids of the person, linked ones included")
    n_decisions: int = Field(description="Rows that stay, without what says who it was")
    n_outcomes: int = Field(description="The same of outcomes")
    n_events: int = Field(description="Rows that are gone")
    n_cold_files: int = Field(description="Files of old facts that were written anew")
