"""Reports people like to read: one self-contained HTML page with a JSON twin, charts as inline SVG.

Anything that comes from a simulator says so on the page, beside the figure, and in the JSON: ``in_simulation`` is a required
argument of every section, so that it cannot be forgotten.
"""

from __future__ import annotations

from offline_eval.report.blocks import (
    Block,
    Callout,
    Cell,
    Chart,
    Column,
    Details,
    KeyFigure,
    KeyFigures,
    Parameter,
    Parameters,
    Source,
    Table,
    Text,
)
from offline_eval.report.charts import (
    Bar,
    Line,
    LinePoint,
    bar_chart,
    interval_chart,
    line_chart,
    reliability_chart,
    weight_histogram,
)
from offline_eval.report.formatting import (
    COUNT,
    DAYS,
    NUMBER,
    POINTS,
    PROBABILITY,
    RATIO,
    RELATIVE,
    SHARE,
    Interval,
    Unit,
    format_interval,
    format_value,
    money,
)
from offline_eval.report.page import Page, Section

__all__ = [
    "COUNT",
    "DAYS",
    "NUMBER",
    "POINTS",
    "PROBABILITY",
    "RATIO",
    "RELATIVE",
    "SHARE",
    "Bar",
    "Block",
    "Callout",
    "Cell",
    "Chart",
    "Column",
    "Details",
    "Interval",
    "KeyFigure",
    "KeyFigures",
    "Line",
    "LinePoint",
    "Page",
    "Parameter",
    "Parameters",
    "Section",
    "Source",
    "Table",
    "Text",
    "Unit",
    "bar_chart",
    "format_interval",
    "format_value",
    "interval_chart",
    "line_chart",
    "money",
    "reliability_chart",
    "weight_histogram",
]
