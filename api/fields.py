"""Kinds of values that several request bodies share, with the limits that the documentation shows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool

_LIMIT = 10**12

Id = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Kind = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00]+$")]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]
Number = Annotated[float, Field(ge=-_LIMIT, le=_LIMIT, allow_inf_nan=False)]
Whole = Annotated[int, Field(ge=-_LIMIT, le=_LIMIT)]
Text = Annotated[str, Field(max_length=1024, pattern=r"^[^\x00]*$")]
# Strict types exclude each other, so the first that fits is the only one: no need to try the others.
Scalar = Annotated[Text | Whole | Number | StrictBool | None, Field(union_mode="left_to_right")]
Scalars = Annotated[dict[Name, Scalar], Field(max_length=500)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Revision = Annotated[int, Field(ge=0, le=2**53)]
Moment = Annotated[AwareDatetime, Field(ge=datetime.fromisoformat("1970-01-01T00:00:00+00:00"))]


class Body(BaseModel):
    """A request body: unknown fields are refused, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Reply(BaseModel):
    """The documented form of an answer."""

    model_config = ConfigDict(extra="forbid")
