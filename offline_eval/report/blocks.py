"""What a report page is made of; every block can say itself as HTML data and as JSON.

Figures enter as numbers with a unit, never as text, so that the JSON twin holds what the page shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from offline_eval.report.formatting import (
    NUMBER,
    Interval,
    Unit,
    finite_or_none,
    format_interval,
    format_value,
)
from policies.errors import SchemaError

Cell = Interval | float | int | str | bool | None
Tone = Literal["note", "good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs of plain words; a blank line starts a new one."""

    text: str

    kind = "text"

    @property
    def paragraphs(self) -> list[str]:
        """The text cut at blank lines."""
        return [p.strip() for p in self.text.split("\n\n") if p.strip()]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"kind": self.kind, "text": self.text}


@dataclass(frozen=True, slots=True)
class Callout:
    """A few words that must not be overlooked, with a list under them where there is more than one thing to say."""

    title: str
    text: str = ""
    tone: Tone = "note"
    points: Sequence[str] = ()

    kind = "callout"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        told = {"kind": self.kind, "tone": self.tone, "title": self.title, "text": self.text}
        return {**told, "points": list(self.points)} if self.points else told


@dataclass(frozen=True, slots=True)
class KeyFigure:
    """One figure in large type."""

    label: str
    value: Cell
    unit: Unit = NUMBER
    note: str = ""
    tone: Tone = "note"
    signed: bool = False

    @property
    def shown(self) -> str:
        """The figure as written, without its limits."""
        value = self.value.estimate if isinstance(self.value, Interval) else self.value
        return format_cell(value, self.unit, signed=self.signed)

    @property
    def limits(self) -> str:
        """The limits as written; empty where there are none."""
        if not isinstance(self.value, Interval):
            return ""
        low, high = (format_value(v, self.unit, signed=self.signed) for v in (self.value.low, self.value.high))
        return f"{low} to {high}"


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """A row of key figures."""

    figures: Sequence[KeyFigure]

    kind = "key_figures"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        figures = [
            {"label": f.label, "value": cell_json(f.value), "unit": _unit_json(f.unit), "note": f.note}
            for f in self.figures
        ]
        return {"kind": self.kind, "figures": figures}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    signed
        Write a plus before positive figures.
    is_status
        Its words (pass, warn, fail, …) are set off by colour.
    """

    key: str
    title: str
    unit: Unit = NUMBER
    signed: bool = False
    note: str = ""
    is_status: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of figures under columns that have units.

    Parameters
    ----------
    rows
        One mapping a row, by column key; a key that is no column is refused, a missing one is written as a dash.
    highlight
        Value of the first column whose row is set off.

    Raises
    ------
    SchemaError
        If a row has a key that is no column.
    """

    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Cell]]
    caption: str = ""
    note: str = ""
    highlight: str | None = None

    kind = "table"

    def __post_init__(self) -> None:
        known = {c.key for c in self.columns}
        for i, row in enumerate(self.rows):
            extra = sorted(set(row) - known)
            if extra:
                raise SchemaError(
                    f"row {i} of table {self.caption!r} has {extra}; its columns are {sorted(known)}: add a Column"
                )

    def shown_rows(self) -> list[dict[str, Any]]:
        """Rows as written: per row whether it is set off, and per cell its text and whether it is a figure."""
        first = self.columns[0].key
        figures = {c.key for c in self.columns if self.is_figure_column(c.key)}
        return [
            {
                "is_highlighted": self.highlight is not None and row.get(first) == self.highlight,
                "cells": [
                    {
                        "title": c.title,
                        "is_figure": c.key in figures,
                        "is_status": c.is_status,
                        **_two_lines(row.get(c.key), c.unit, signed=c.signed),
                    }
                    for c in self.columns
                ],
            }
            for row in self.rows
        ]

    def is_figure_column(self, key: str) -> bool:
        """Whether a column holds figures (they are aligned right)."""
        return any(_is_figure(row.get(key)) for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {
            "kind": self.kind,
            "caption": self.caption,
            "note": self.note,
            "columns": [{"key": c.key, "title": c.title, "unit": _unit_json(c.unit)} for c in self.columns],
            "rows": [{c.key: cell_json(row.get(c.key)) for c in self.columns} for row in self.rows],
        }


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter and where its value comes from.

    Parameters
    ----------
    origin
        ``fitted`` with data, ``assumed`` with a reason, ``given`` by a caller.
    provenance
        Which data and method, or which reason: never empty.
    """

    name: str
    value: Cell
    origin: Literal["fitted", "assumed", "given"]
    provenance: str
    unit: Unit = NUMBER

    def __post_init__(self) -> None:
        if not self.provenance.strip():
            raise SchemaError(
                f"parameter {self.name!r} is {self.origin} without a provenance; name the data or the reason"
            )


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameters with their provenance; those no data identifies are named as such."""

    parameters: Sequence[Parameter]
    caption: str = "Parameters and where they come from"

    kind = "parameters"

    def shown_rows(self) -> list[dict[str, str]]:
        """Rows as written, assumed ones first."""
        order = {"assumed": 0, "given": 1, "fitted": 2}
        ranked = sorted(self.parameters, key=lambda p: order[p.origin])
        return [
            {"name": p.name, "value": format_cell(p.value, p.unit), "origin": p.origin, "provenance": p.provenance}
            for p in ranked
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        rows = [
            {
                "name": p.name,
                "value": cell_json(p.value),
                "unit": _unit_json(p.unit),
                "origin": p.origin,
                "provenance": p.provenance,
            }
            for p in self.parameters
        ]
        return {"kind": self.kind, "caption": self.caption, "parameters": rows}


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing with its data: two widths as SVG, a sentence for those who cannot see it, the figures as JSON.

    Made by the functions of ``offline_eval.report.charts``.
    """

    title: str
    description: str
    svg_wide: str
    svg_narrow: str
    data: Sequence[Mapping[str, Any]]
    note: str = ""

    kind = "chart"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file; the drawing itself stays on the page."""
        return {
            "kind": self.kind,
            "title": self.title,
            "description": self.description,
            "note": self.note,
            "data": [dict(d) for d in self.data],
        }


@dataclass(frozen=True, slots=True)
class Source:
    """A command, a file name or a few lines of text to copy."""

    text: str
    caption: str = ""

    kind = "source"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"kind": self.kind, "caption": self.caption, "text": self.text}


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that are folded away until asked for (always open in print)."""

    summary: str
    blocks: Sequence[Block] = field(default_factory=tuple)

    kind = "details"

    def to_json(self) -> dict[str, Any]:
        """Plain values for a file."""
        return {"kind": self.kind, "summary": self.summary, "blocks": [b.to_json() for b in self.blocks]}


Block = Text | Callout | KeyFigures | Table | Parameters | Chart | Source | Details


def format_cell(value: Cell, unit: Unit = NUMBER, *, signed: bool = False) -> str:
    """Write any cell of a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, Interval):
        return format_interval(value, unit, signed=signed)
    return format_value(value, unit, signed=signed)


def cell_json(value: Cell) -> Any:
    """Any cell as plain JSON; an interval keeps its limits, level and method."""
    if isinstance(value, Interval):
        return value.to_json()
    if isinstance(value, float):
        return finite_or_none(value)
    return value


def _two_lines(value: Cell, unit: Unit, *, signed: bool) -> dict[str, str]:
    """An interval is written on two lines, so that columns stay narrow."""
    if isinstance(value, Interval):
        low, high = (format_value(v, unit, signed=signed) for v in (value.low, value.high))
        return {"text": format_value(value.estimate, unit, signed=signed), "limits": f"{low} to {high}"}
    return {"text": format_cell(value, unit, signed=signed), "limits": ""}


def _is_figure(value: Cell) -> bool:
    return isinstance(value, Interval | float | int) and not isinstance(value, bool)


def _unit_json(unit: Unit) -> dict[str, str]:
    return {"kind": unit.kind, "symbol": unit.symbol}
