"""What a log told of a site, as a page: parameters with their errors, what it left open, and what policies are worth for all that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.simulation.report import TITLES
from offline_eval.report import (
    SHARE,
    Callout,
    Cell,
    Column,
    Interval,
    Line,
    LinePoint,
    Page,
    Section,
    Table,
    interval_chart,
    line_chart,
)

_Z95 = 1.959964
SURE = 0.01


def calibration_page(told: dict[str, Any]) -> Page:
    """The report of a fit.

    Parameters
    ----------
    told
        As ``nextoffer simulate calibrate`` writes it: ``parameters``, ``values`` and ``grid``.
    """
    return Page(
        f"A site fitted on a log: {told['log']}",
        [_values(told), *_grid(told), _parameters(told)],
        in_simulation=True,
        subtitle="What the log identifies, what it leaves open, and what policies are worth on the fitted site",
        summary=[_summary(told), *_trend(told)],
        facts={"visitors fitted": told["n_visitors"], "visitors left out": told["n_left_out"]},
    )


def write_calibration(told: dict[str, Any], folder: Path) -> Path:
    """Write ``report.html`` and its JSON twin; returns the path of the page."""
    return calibration_page(told).write(folder / "report.html")[0]


def trend_text(p_value: float) -> str:
    """What it means that offers' appeal changes with the date."""
    return (
        f"the appeal of offers changes over the log's days (p = {p_value:.1g}): the laws have no date, so errors and intervals are too "
        "small; fit a shorter stretch"
    )


def _trend(told: dict[str, Any]) -> list[Callout]:
    if told["trend_p"] >= SURE:
        return []
    text = trend_text(told["trend_p"])
    return [Callout("This log drifts", f"{text[0].upper()}{text[1:]}.", tone="warning")]


def _summary(told: dict[str, Any]) -> Callout:
    n, left = len(told["identified"]), ", ".join(told["unidentified"]) or "nothing"
    return Callout(
        f"{n} parameters identified; left open: {left}",
        "An interval below carries the errors of parameters. It does not carry the error of the form of the laws: a site that follows "
        "others can lie outside, and only a live test can tell.",
    )


def _values(told: dict[str, Any]) -> Section:
    charts = []
    for outcome, (title, unit) in TITLES.items():
        rows = {
            Path(v["policy"]).name: Interval(v["mean"], v["low"], v["high"])
            for v in told["values"]
            if v["outcome"] == outcome
        }
        charts.append(interval_chart(f"{title}, with the spread of the ensemble", rows, unit=unit, reference=None))
    return Section("Policies on the fitted site", charts, in_simulation=True)


def _grid(told: dict[str, Any]) -> list[Section]:
    names = list(dict.fromkeys(row["parameter"] for rows in told["grid"].values() for row in rows))
    if not names:
        return []
    charts = []
    for name in names:
        lines = [
            Line(
                Path(policy).name,
                [
                    LinePoint(
                        row["at"],
                        row["mean"],
                        row["mean"] - _Z95 * row["standard_error"],
                        row["mean"] + _Z95 * row["standard_error"],
                    )
                    for row in rows
                    if row["parameter"] == name
                ],
            )
            for policy, rows in told["grid"].items()
        ]
        charts.append(line_chart(name, lines, unit=SHARE, axis="kept 30 days", x_axis=name))
    lead = (
        "Each goes two standard deviations either side of its estimate, the other parameters moved as the log asks; all places meet the "
        "same luck. Bands: 95 % of the difference to the middle, of the simulation alone."
    )
    return [Section("Over what the log leaves open", charts, in_simulation=True, lead=lead)]


def _parameters(told: dict[str, Any]) -> Section:
    rows: list[dict[str, Cell]] = [
        {
            "name": row["name"],
            "value": row["value"],
            "error": row["standard_error"],
            "word": {True: "identified", False: "left open", None: "not fitted"}[row["is_identified"]],
            "reason": row["reason"],
        }
        for row in told["parameters"]
    ]
    columns = [
        Column("name", "parameter"),
        Column("value", "value"),
        Column("error", "standard error"),
        Column("word", "the log"),
        Column("reason", "where it comes from"),
    ]
    return Section("Parameters", [Table(columns, rows, caption="All parameters of the site")], in_simulation=True)
