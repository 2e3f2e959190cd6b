"""A reliability plot: what was predicted against what occurred, with what chance alone would show."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.records import FloatArray

_N_BINS = 12


def reliability(label: FloatArray, probability: FloatArray, *, n_bins: int = _N_BINS) -> list[dict[str, float]]:
    """Mean prediction and rate of bins of equal numbers of rows, with a 95 % Wilson interval of the rate (rows as independent)."""
    out = []
    for rows in np.array_split(np.argsort(probability, kind="stable"), n_bins):
        if not len(rows):
            continue
        n, rate, z = len(rows), float(label[rows].mean()), 1.96
        middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * float(np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)))
        out.append(
            {
                "predicted": float(probability[rows].mean()),
                "occurred": rate,
                "low": max(0.0, middle - half),
                "high": min(1.0, middle + half),
                "rows": n,
            }
        )
    return out


def reliability_svg(parts: dict[str, list[dict[str, float]]], *, title: str) -> str:
    """Points of each part (``in period``, ``test``) beside the diagonal, as SVG."""
    import altair as alt
    import vl_convert

    rows: list[dict[str, Any]] = [{**bin_, "part": part} for part, bins in parts.items() for bin_ in bins]
    top = max(max(r["high"], r["predicted"]) for r in rows)
    line = (
        alt.Chart(alt.Data(values=[{"x": 0.0, "y": 0.0}, {"x": top, "y": top}]))
        .mark_line(color="#999", strokeDash=[4, 4])
        .encode(x="x:Q", y="y:Q")
    )
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("predicted:Q", title="predicted probability", scale=alt.Scale(domain=[0, top], nice=False)),
        color=alt.Color("part:N", title=None, scale=alt.Scale(range=["#1b6ca8", "#c4572b"])),
    )
    points = base.mark_point(filled=True, size=55).encode(
        y=alt.Y("occurred:Q", title="share that occurred", scale=alt.Scale(domain=[0, top], nice=False))
    )
    ranges = base.mark_rule(opacity=0.6).encode(y="low:Q", y2="high:Q")
    chart = (line + ranges + points).properties(width=360, height=320, title=title)
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict())
    return svg
