"""Pages: sections in order, written as one HTML file that needs nothing else, and as its JSON twin."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offline_eval.report.blocks import Block, Callout, Cell, KeyFigures, cell_json, format_cell
from policies.errors import InvalidInputError

if TYPE_CHECKING:
    from jinja2 import Template

SIMULATION_BADGE = "in simulation"


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it.

    Parameters
    ----------
    in_simulation
        Whether any figure in it was made by a simulator. Required: the badge beside every heading, table and chart, and
        the flag in the JSON, depend on it. A section that mixes both is split in two.
    """

    title: str
    blocks: Sequence[Block]
    in_simulation: bool = field(kw_only=True)
    lead: str = ""

    @property
    def anchor(self) -> str:
        """Fragment of the page's address that leads to this section."""
        return "-".join("".join(c.lower() if c.isalnum() else " " for c in self.title).split())

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file; every block repeats where its figures come from."""
        blocks = [{**b.to_json(), "in_simulation": self.in_simulation} for b in self.blocks]
        return {"title": self.title, "lead": self.lead, "in_simulation": self.in_simulation, "blocks": blocks}


@dataclass(frozen=True, slots=True)
class Page:
    """A report.

    Parameters
    ----------
    summary
        What a reader in a hurry sees first; figures in it fall under ``in_simulation`` of the page.
    in_simulation
        Whether the summary rests on figures made by a simulator. A page with one simulated section says so at its top
        in any case.
    facts
        Where the report comes from: data, seed, versions, command. Shown at the end.
    made_at
        When; None leaves it out, so that the same input gives the same file.

    Raises
    ------
    InvalidInputError
        If two sections have the same title (links would lead to the wrong one).
    """

    title: str
    sections: Sequence[Section]
    in_simulation: bool = field(kw_only=True)
    subtitle: str = ""
    summary: Sequence[Callout | KeyFigures] = ()
    facts: Mapping[str, Cell] = field(default_factory=dict)
    made_at: datetime | None = None
    language: str = "en"

    def __post_init__(self) -> None:
        anchors = [s.anchor for s in self.sections]
        twice = sorted({a for a in anchors if anchors.count(a) > 1})
        if twice:
            raise InvalidInputError(f"sections {twice} appear twice on page {self.title!r}; give each its own title")

    @property
    def simulation_note(self) -> str:
        """What the top of the page says about simulated figures; empty where there are none."""
        simulated = [s.title for s in self.sections if s.in_simulation]
        if len(simulated) == len(self.sections) and (simulated or self.in_simulation):
            return "Every figure on this page was made in simulation: it shows how the product works, not what a real site earned."
        if simulated or self.in_simulation:
            where = ", ".join(simulated) or "the summary"
            return f"Figures marked “{SIMULATION_BADGE}” were made by a simulator, not by real visitors: {where}."
        return ""

    def to_html(self) -> str:
        """The page as one file: styles, charts and all; nothing is fetched when it is opened."""
        facts = {name: format_cell(value) for name, value in self.facts.items()}
        return _template().render(page=self, css=_asset("style.css"), badge=SIMULATION_BADGE, facts=facts)

    def _repr_html_(self) -> str:
        """How a notebook shows it: whole, in a frame of its own, so that neither styles the other."""
        return f'<iframe srcdoc="{escape(self.to_html())}" style="width:100%;height:45rem;border:0"></iframe>'

    def to_json(self) -> dict[str, Any]:
        """The page as plain values: the same figures, unrounded."""
        return {
            "title": self.title,
            "subtitle": self.subtitle,
            "in_simulation": self.in_simulation,
            "simulation_note": self.simulation_note,
            "made_at": None if self.made_at is None else self.made_at.isoformat(),
            "facts": {name: cell_json(value) for name, value in self.facts.items()},
            "summary": [{**b.to_json(), "in_simulation": self.in_simulation} for b in self.summary],
            "sections": [s.to_json() for s in self.sections],
        }

    def write(self, path: Path | str) -> tuple[Path, Path]:
        """Write ``path`` as HTML and, beside it, its twin ending in ``.json``; returns both paths."""
        path = Path(path)
        html, twin = path.with_suffix(".html"), path.with_suffix(".json")
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(self.to_html(), encoding="utf-8")
        twin.write_text(
            json.dumps(self.to_json(), ensure_ascii=False, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        return html, twin


def render_blocks(blocks: Sequence[Block], *, in_simulation: bool) -> str:
    """Blocks as an HTML fragment, for pages that have a frame of their own (the console); escaped like a page."""
    return str(_template().module.blocks(blocks, in_simulation, SIMULATION_BADGE))  # type: ignore[attr-defined]


def stylesheet() -> str:
    """Styles of the kit, for pages that have a frame of their own."""
    return _asset("style.css")


@cache
def _template() -> Template:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


@cache
def _asset(name: str) -> str:
    return files("offline_eval.report").joinpath(name).read_text(encoding="utf-8")
