"""How values are shown on pages."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from offline_eval.report.formatting import Interval, Unit, format_value


def filters() -> dict[str, Callable[..., str]]:
    """Filters of the templates."""
    return {"count": count, "share": share, "day": day, "moment": moment, "field_moment": field_moment, "plain": plain}


def count(value: float | None) -> str:
    """A whole number with thin groups."""
    return "–" if value is None else format_value(float(value), Unit("count"))


def share(value: float | None) -> str:
    """A share in percent."""
    return "–" if value is None else format_value(float(value), Unit("share"))


def day(value: datetime | None) -> str:
    """A date."""
    return "–" if value is None else value.strftime("%Y-%m-%d")


def moment(value: datetime | None) -> str:
    """A date and a time, in UTC."""
    return "–" if value is None else value.strftime("%Y-%m-%d %H:%M")


def field_moment(value: datetime | None) -> str:
    """A moment as an input of dates and times takes it."""
    return "" if value is None else value.strftime("%Y-%m-%dT%H:%M")


def plain(value: Any) -> str:
    """A number without needless zeros; nothing where there is none."""
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def difference(interval: Interval, unit: Unit) -> tuple[str, str]:
    """A difference and its limits."""
    return (
        format_value(interval.estimate, unit, signed=True),
        f"{format_value(interval.low, unit, signed=True)} … {format_value(interval.high, unit, signed=True)}",
    )
