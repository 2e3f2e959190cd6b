"""What is sent and answered about policy versions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from api.fields import Body, Name, Reply


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
