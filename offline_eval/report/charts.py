"""Charts as inline SVG: drawn on the server by Altair and vl-convert, coloured by the page.

Every chart is drawn twice, for a wide and for a narrow screen, because a wide drawing shrunk to a phone has letters nobody can
read. Colours are CSS variables with a light default, so one drawing serves light and dark pages and print. Altair is imported
when a chart is drawn, never when this module is.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_eval.report.blocks import Chart
from offline_eval.report.formatting import NUMBER, Interval, Unit, finite_or_none, format_interval, format_value
from offline_eval.summaries import log_bins
from policies.errors import InvalidInputError

WIDE_PX = 660
NARROW_PX = 330

# Sentinel colours put into the Vega specification and replaced in the SVG: role -> (sentinel, light default).
_ROLES = {
    "ink": ("#a10001", "#1c2530"),
    "muted": ("#a10002", "#5d6b7a"),
    "grid": ("#a10003", "#e3e8ee"),
    "zero": ("#a10004", "#8a97a6"),
    "surface": ("#a10005", "#ffffff"),
    "good": ("#a10006", "#12805c"),
    "bad": ("#a10007", "#c2362b"),
    "series-1": ("#a10011", "#2563c9"),
    "series-2": ("#a10012", "#d9730d"),
    "series-3": ("#a10013", "#12805c"),
    "series-4": ("#a10014", "#9a3fb5"),
    "series-5": ("#a10015", "#b0892a"),
    "series-6": ("#a10016", "#5d6b7a"),
}
_SERIES = [f"series-{i}" for i in range(1, 7)]
_chart_number = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LinePoint:
    """One point of a line, with a band where there is one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A named line."""

    name: str
    points: Sequence[LinePoint]
    is_dashed: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A named bar, with limits where there are any, and a second value drawn as a tick."""

    name: str
    value: float
    interval: Interval | None = None
    mark: float | None = None


def interval_chart(
    title: str,
    rows: Mapping[str, Interval],
    *,
    unit: Unit = NUMBER,
    axis: str = "",
    reference: float | None = 0.0,
    reference_label: str = "no difference",
    marks: Mapping[str, float] | None = None,
    marks_label: str = "truth",
    note: str = "",
    say: Callable[[str], str] = str,
) -> Chart:
    """Forest plot: one estimate with its limits a row, and a line where there is nothing to tell.

    Parameters
    ----------
    marks
        A second value for some rows (the simulator's truth, for example), drawn as a tick.
    say
        Puts the chart's own words into another language.
    """
    _need(rows, title)
    factor, suffix = _axis_unit(unit, say)
    data = [
        {
            "name": name,
            "estimate": finite_or_none(i.estimate * factor),
            "low": finite_or_none(i.low * factor),
            "high": finite_or_none(i.high * factor),
            "side": _side(i, reference),
            "shown": format_interval(i, unit),
            "mark": None if not marks or name not in marks else finite_or_none(marks[name] * factor),
        }
        for name, i in rows.items()
    ]
    names = list(rows)

    def draw(width: int) -> Any:
        import altair as alt

        is_narrow = width < 500
        label_px = 110 if is_narrow else 190
        y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=label_px, domain=False, ticks=False))
        x_title = _title(axis, suffix)
        x = alt.X("low:Q", title=x_title, scale=alt.Scale(zero=False), axis=_axis(alt))
        colour = alt.Color(
            "side:N",
            legend=None,
            scale=alt.Scale(domain=["above", "below", "across"], range=[_hex("good"), _hex("bad"), _hex("series-1")]),
        )
        base = alt.Chart(alt.Data(values=data))
        layers = []
        if reference is not None:
            layers.append(
                alt.Chart(alt.Data(values=[{"x": reference * factor}]))
                .mark_rule(color=_hex("zero"), strokeDash=[4, 3])
                .encode(x="x:Q")
            )
        layers.append(base.mark_rule(strokeWidth=3, strokeCap="round").encode(x=x, x2="high:Q", y=y, color=colour))
        layers.append(
            base.mark_point(filled=True, size=75, opacity=1, stroke=_hex("surface"), strokeWidth=1.5).encode(
                x=alt.X("estimate:Q"), y=y, color=colour
            )
        )
        if marks:
            layers.append(
                base.transform_filter("isValid(datum.mark)")
                .mark_tick(thickness=2.5, size=20, color=_hex("ink"))
                .encode(x="mark:Q", y=y)
            )
        return alt.layer(*layers).properties(width=width - label_px - 20, height=max(40, 34 * len(names)))

    words = "; ".join(f"{name}: {format_interval(i, unit)}" for name, i in rows.items())
    legend = [note] if note else []
    if marks:
        legend.insert(0, f"{say('The black tick')}: {marks_label}.")
    if reference is not None and reference_label:
        legend.append(f"{say('Dashed line')}: {reference_label}.")
    return _chart(title, words, data, draw, note=" ".join(legend))


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    unit: Unit = NUMBER,
    axis: str = "",
    x_axis: str = "day",
    reference: float | None = None,
    marks: Mapping[str, float] = MappingProxyType({}),
    note: str = "",
    say: Callable[[str], str] = str,
) -> Chart:
    """Lines over time, with bands where the points have limits.

    Parameters
    ----------
    marks
        Moments on the horizontal axis by their label, such as the number of a note: upright lines over the whole height.
    say
        Puts the chart's own words into another language.
    """
    _need([p for line in lines for p in line.points], title)
    factor, suffix = _axis_unit(unit, say)
    data = [
        {
            "line": line.name,
            "x": float(p.x),
            "y": finite_or_none(p.y * factor),
            "low": None if p.low is None else finite_or_none(p.low * factor),
            "high": None if p.high is None else finite_or_none(p.high * factor),
            "dashed": line.is_dashed,
        }
        for line in lines
        for p in line.points
    ]
    names = [line.name for line in lines]

    def draw(width: int) -> Any:
        import altair as alt

        base = alt.Chart(alt.Data(values=data))
        colour = _colour(alt, "line", names, columns=2 if width < 500 else 5)
        x = alt.X("x:Q", title=x_axis, scale=alt.Scale(zero=False, nice=False), axis=_axis(alt))
        y = alt.Y("y:Q", title=_title(axis, suffix), scale=alt.Scale(zero=False), axis=_axis(alt))
        layers = []
        if reference is not None:
            layers.append(
                alt.Chart(alt.Data(values=[{"y": reference * factor}]))
                .mark_rule(color=_hex("zero"), strokeDash=[4, 3])
                .encode(y="y:Q")
            )
        if marks:
            at = alt.Chart(alt.Data(values=[{"x": float(v), "label": k} for k, v in marks.items()]))
            layers.append(at.mark_rule(color=_hex("zero"), strokeWidth=1).encode(x=x))
            layers.append(
                at.mark_text(baseline="top", align="left", dx=4, fontSize=12, color=_hex("muted")).encode(
                    x=x, y=alt.value(2), text="label:N"
                )
            )
        if any(d["low"] is not None for d in data):
            layers.append(
                base.transform_filter("isValid(datum.low) && isValid(datum.high)")
                .mark_area(opacity=0.18)
                .encode(x=x, y=alt.Y("low:Q", title=_title(axis, suffix)), y2="high:Q", color=colour)
            )
        dash = alt.StrokeDash("dashed:N", legend=None, scale=alt.Scale(domain=[False, True], range=[[1, 0], [6, 4]]))
        layers.append(
            base.mark_line(strokeWidth=2.2, strokeJoin="round").encode(x=x, y=y, color=colour, strokeDash=dash)
        )
        return alt.layer(*layers).properties(width=width - 75, height=200 if width < 500 else 260)

    ends = [(line.name, line.points[-1]) for line in lines if line.points]
    words = f"{say('On the horizontal axis')}: {x_axis}. {say('At the end')}: " + "; ".join(
        f"{name} {format_value(p.y, unit)}" for name, p in ends
    )
    if marks:
        words += f". {say('Marked')}: {', '.join(marks)}"
    return _chart(title, words, data, draw, note=note)


def bar_chart(
    title: str,
    bars: Sequence[Bar],
    *,
    unit: Unit = NUMBER,
    axis: str = "",
    highlight: str | None = None,
    note: str = "",
) -> Chart:
    """Horizontal bars from zero, with limits where there are any."""
    _need(bars, title)
    factor, suffix = _axis_unit(unit)
    data = [
        {
            "name": b.name,
            "value": finite_or_none(b.value * factor),
            "low": None if b.interval is None else finite_or_none(b.interval.low * factor),
            "high": None if b.interval is None else finite_or_none(b.interval.high * factor),
            "mark": None if b.mark is None else finite_or_none(b.mark * factor),
            "is_highlighted": b.name == highlight,
            "shown": format_value(b.value, unit),
        }
        for b in bars
    ]
    names = [b.name for b in bars]

    def draw(width: int) -> Any:
        import altair as alt

        label_px = 110 if width < 500 else 190
        base = alt.Chart(alt.Data(values=data))
        y = alt.Y("name:N", sort=names, title=None, axis=alt.Axis(labelLimit=label_px, domain=False, ticks=False))
        fill = alt.condition("datum.is_highlighted", alt.value(_hex("series-2")), alt.value(_hex("series-1")))
        x = alt.X("value:Q", title=_title(axis, suffix), axis=_axis(alt))
        layers = [base.mark_bar(size=16, cornerRadiusEnd=3).encode(x=x, y=y, color=fill)]
        if any(d["low"] is not None for d in data):
            layers.append(
                base.transform_filter("isValid(datum.low) && isValid(datum.high)")
                .mark_rule(color=_hex("ink"), strokeWidth=1.5)
                .encode(x="low:Q", x2="high:Q", y=y)
            )
        if any(d["mark"] is not None for d in data):
            layers.append(
                base.transform_filter("isValid(datum.mark)")
                .mark_tick(thickness=2.5, size=20, color=_hex("ink"))
                .encode(x="mark:Q", y=y)
            )
        return alt.layer(*layers).properties(width=width - label_px - 20, height=max(40, 28 * len(names)))

    return _chart(title, "; ".join(f"{d['name']}: {d['shown']}" for d in data), data, draw, note=note)


def reliability_chart(
    title: str,
    predicted: Mapping[str, NDArray[np.float64]],
    observed: Mapping[str, NDArray[np.float64]],
    counts: Mapping[str, NDArray[np.int64]],
    *,
    x_axis: str = "predicted probability",
    axis: str = "observed share",
    note: str = "",
) -> Chart:
    """Predicted probability against observed frequency, one line per model, one point per bin.

    Parameters
    ----------
    predicted, observed, counts
        By model, each of shape ``(n_bins,)``: mean prediction, share of positives and rows in each bin; empty bins
        are left out.
    """
    data = [
        {"model": name, "predicted": float(p), "observed": float(o), "rows": int(c)}
        for name in predicted
        for p, o, c in zip(predicted[name], observed[name], counts[name], strict=True)
        if c > 0
    ]
    _need(data, title)
    top = 1.05 * max(float(max(*p, *o)) for p, o in zip(predicted.values(), observed.values(), strict=True))
    ends = [float(min(*p, *o)) for p, o in zip(predicted.values(), observed.values(), strict=True)]
    bottom = min(0.0, *ends)  # amounts may be losses
    names = list(predicted)

    def draw(width: int) -> Any:
        import altair as alt

        base = alt.Chart(alt.Data(values=data))
        scale = alt.Scale(domain=[bottom, top], nice=False)
        x = alt.X("predicted:Q", title=x_axis, scale=scale, axis=_axis(alt))
        y = alt.Y("observed:Q", title=axis, scale=scale, axis=_axis(alt))
        colour = _colour(alt, "model", names, columns=2 if width < 500 else 5)
        diagonal = (
            alt.Chart(alt.Data(values=[{"x": bottom, "y": bottom}, {"x": top, "y": top}]))
            .mark_line(color=_hex("zero"), strokeDash=[4, 3], strokeWidth=1.2)
            .encode(x=alt.X("x:Q", scale=scale), y=alt.Y("y:Q", scale=scale))
        )
        size = alt.Size("rows:Q", legend=None, scale=alt.Scale(range=[25, 160]))
        lines = base.mark_line(strokeWidth=1.6).encode(x=x, y=y, color=colour)
        points = base.mark_point(filled=True, opacity=0.9).encode(x=x, y=y, color=colour, size=size)
        side = min(width - 75, 380)
        return alt.layer(diagonal, lines, points).properties(width=side, height=int(side * 0.78))

    words = f"{len(names)} models in {len(data)} bins; a point on the dashed diagonal is calibrated."
    return _chart(title, words, data, draw, note=note or "Dashed: perfect calibration. Larger points hold more rows.")


def weight_histogram(title: str, weights: NDArray[np.float64], *, n_bins: int = 40, note: str = "") -> Chart:
    """Histogram of importance weights on a logarithmic axis; weights of zero are counted in words."""
    finite = weights[np.isfinite(weights)]
    positive = finite[finite > 0]
    _need(positive, title)
    edges, counts = log_bins(positive, n_bins=n_bins)
    data = [
        {"from": float(a), "to": float(b), "rows": int(c)}
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
    ]

    def draw(width: int) -> Any:
        import altair as alt

        x = alt.X("from:Q", title="importance weight (log scale)", scale=alt.Scale(type="log"), axis=_axis(alt))
        bars = (
            alt.Chart(alt.Data(values=data))
            .mark_rect(color=_hex("series-1"), opacity=0.85)
            .encode(x=x, x2="to:Q", y=alt.Y("rows:Q", title="rows", axis=_axis(alt)))
        )
        one = alt.Chart(alt.Data(values=[{"x": 1.0}])).mark_rule(color=_hex("zero"), strokeDash=[4, 3]).encode(x="x:Q")
        return alt.layer(bars, one).properties(width=width - 75, height=180)

    n_zero = int((finite == 0).sum())
    largest = format_value(float(positive.max()))
    words = f"{len(finite)} weights, {n_zero} of them zero, the largest {largest}, mean {format_value(float(finite.mean()))}."
    return _chart(title, words, data, draw, note=note or words)


def _chart(title: str, description: str, data: Sequence[Mapping[str, Any]], draw: Any, *, note: str) -> Chart:
    return Chart(
        title=title,
        description=description,
        svg_wide=_render(draw(WIDE_PX)),
        svg_narrow=_render(draw(NARROW_PX)),
        data=data,
        note=note,
    )


def _render(chart: Any) -> str:
    configured = chart.configure(
        background="transparent",
        font="system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif",
        padding={"left": 10, "right": 10, "top": 5, "bottom": 5},
    )
    configured = configured.configure_view(stroke=None).configure_axis(
        labelColor=_hex("muted"),
        titleColor=_hex("muted"),
        titleFontWeight="normal",
        titleFontSize=12,
        labelFontSize=12,
        gridColor=_hex("grid"),
        domainColor=_hex("grid"),
        tickColor=_hex("grid"),
    )
    configured = configured.configure_legend(
        labelColor=_hex("ink"),
        labelFontSize=12,
        orient="top",
        title=None,
        symbolType="stroke",
        symbolOpacity=1,
        symbolStrokeWidth=3,
        symbolSize=160,
        labelLimit=260,
    )
    return _themed(_drawn(json.dumps(configured.to_dict(), sort_keys=True)))


@lru_cache(maxsize=256)
def _drawn(specification: str) -> str:
    """Drawing of a specification; a page that is opened again draws nothing anew."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(specification))


def _themed(svg: str) -> str:
    """Colours become CSS variables; ids become unique, so that many drawings can share one page; size follows the page."""
    for role, (sentinel, default) in _ROLES.items():
        svg = svg.replace(sentinel, f"var(--chart-{role}, {default})")
    prefix = f"c{next(_chart_number)}-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    svg = re.sub(r'xlink:href="#([^"]+)"', rf'xlink:href="#{prefix}\1"', svg)
    # The figure carries the description; axes inside must not be read out one by one.
    svg = re.sub(r' (?:aria-label|aria-roledescription|role)="[^"]*"', "", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _colour(alt: Any, field: str, names: Sequence[str], *, columns: int) -> Any:
    scale = alt.Scale(domain=list(names), range=[_hex(_SERIES[i % len(_SERIES)]) for i in range(len(names))])
    legend = alt.Legend(columns=columns) if len(names) > 1 else None
    return alt.Color(f"{field}:N", scale=scale, legend=legend)


def _axis(alt: Any) -> Any:
    return alt.Axis(tickCount=5, labelFlush=True, labelOverlap="greedy", labelSeparation=8)


def _axis_unit(unit: Unit, say: Callable[[str], str] = str) -> tuple[float, str]:
    """Factor and suffix with which an axis is labelled."""
    if unit.kind in ("share", "relative"):
        return 100.0, "%"
    if unit.kind == "points":
        return 100.0, say("percentage points")
    return 1.0, {"days": say("days"), "seconds": "s", "ratio": "×"}.get(unit.kind, unit.symbol)


def _title(axis: str, suffix: str) -> str:
    return f"{axis}, {suffix}" if axis and suffix else axis or suffix


def _hex(role: str) -> str:
    return _ROLES[role][0]


def _side(interval: Interval, reference: float | None) -> str:
    if reference is None or not interval.excludes(reference):
        return "across"
    return "above" if interval.low > reference else "below"


def _need(rows: Any, title: str) -> None:
    if len(rows) == 0:
        raise InvalidInputError(f"chart {title!r} has nothing to show; leave it out or pass at least one row")
