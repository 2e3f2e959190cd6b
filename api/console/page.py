"""A page: where it is, who may open it, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response

from api.console.ask import Ask
from engine.accounts.accounts import Role


@dataclass(frozen=True, slots=True)
class Page:
    """One page, or one thing that a page's form does.

    Parameters
    ----------
    role
        Least role that may use it; None is open to everyone.
    """

    name: str
    path: str
    handler: Callable[[Ask], Response]
    role: Role | None = "viewer"
    methods: tuple[str, ...] = ("GET",)
