"""When, by whom and why something is changed: what a change of configuration takes, and what the log of changes keeps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from policies.errors import InvalidInputError

MAX_REASON = 2_000


@dataclass(frozen=True, slots=True)
class Change:
    """A change of configuration, whatever it changes.

    Parameters
    ----------
    at
        When.
    actor
        Who answers for it: an account, ``key:NAME``, ``command``, or a part of the system.
    reason
        Why, in a sentence; "" where nobody said so.

    Raises
    ------
    InvalidInputError
        If the reason is longer than what is kept.
    """

    at: datetime
    actor: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if len(self.reason) > MAX_REASON:
            raise InvalidInputError(f"the reason has {len(self.reason)} characters; at most {MAX_REASON} are kept")

    def because(self, reason: str) -> Self:
        """The same for another reason."""
        return replace(self, reason=reason)
