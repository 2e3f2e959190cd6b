"""A page: where it is, who may open it, and what makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from starlette.responses import Response

from engine.accounts.accounts import Role

if TYPE_CHECKING:
    from api.console.ask import Ask

Menu = Literal["", "learn", "experts", "rules"]


@dataclass(frozen=True, slots=True)
class Page:
    """One page, or one thing that a page's form does.

    Parameters
    ----------
    role
        Least role that may use it; None is open to everyone.
    title
        What the menu calls it, in English.
    menu
        Part of the menu *More* that it stands in: ``learn`` for what shows how it works, ``experts`` for models, logs and
        reports, ``rules`` for what an admin sets; pages without one are reached from others.
    """

    name: str
    path: str
    handler: Callable[[Ask], Response]
    role: Role | None = "viewer"
    methods: tuple[str, ...] = ("GET",)
    title: str = ""
    menu: Menu = ""
