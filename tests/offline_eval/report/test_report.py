"""Pages: nothing fetched, nothing unescaped, nothing unlabelled, and a twin with the same figures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from offline_eval.report import (
    COUNT,
    NUMBER,
    POINTS,
    PROBABILITY,
    RELATIVE,
    SHARE,
    Bar,
    Block,
    Callout,
    Chart,
    Column,
    Details,
    Interval,
    KeyFigure,
    KeyFigures,
    Line,
    LinePoint,
    Page,
    Parameter,
    Parameters,
    Section,
    Source,
    Table,
    Text,
    Unit,
    bar_chart,
    format_interval,
    format_value,
    interval_chart,
    line_chart,
    money,
    reliability_chart,
    weight_histogram,
)
from offline_eval.report.page import render_blocks
from policies.errors import InvalidInputError, SchemaError

NB = "\u00a0"


class Checker(HTMLParser):
    """Collects what a page would fetch, its ids, and whether its tags close."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action") and value:
                self.addresses.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@cache
def charts() -> list[Chart]:
    """One of each kind."""
    rng = np.random.default_rng(1)
    bins = np.linspace(0.1, 0.8, 6)
    return [
        interval_chart(
            "Forest", {"a": Interval(0.1, 0.05, 0.2), "b": Interval(-0.1, -0.3, 0.1)}, unit=POINTS, marks={"a": 0.08}
        ),
        line_chart(
            "Time",
            [Line("A", [LinePoint(d, 0.1 + d / 100, 0.05, 0.3) for d in range(5)]), Line("B", [LinePoint(0, 0.2)])],
            unit=SHARE,
        ),
        bar_chart("Bars", [Bar("x", 3.0, Interval(3, 2, 4)), Bar("y", 2.0)], highlight="y"),
        reliability_chart("Reliability", {"m": bins}, {"m": bins * 0.9}, {"m": np.array([5, 0, 7, 3, 2, 1])}),
        weight_histogram("Weights", np.concatenate([rng.lognormal(0, 1, 300), np.zeros(7)])),
    ]


def full_page(*, simulated: bool) -> Page:
    """Every kind of block, with text that tries to break out."""
    table = Table(
        [Column("v", "variant <b>"), Column("n", "visitors", COUNT), Column("c", "conversion", SHARE)],
        [{"v": "<script>alert(1)</script>", "n": 1234, "c": Interval(0.05, 0.04, 0.07)}, {"v": "B", "n": None}],
        caption="Variants",
        highlight="B",
    )
    parameters = Parameters(
        [
            Parameter("price", 9.5, "assumed", "no data varies it", money("€")),
            Parameter("rate", 0.1, "fitted", "logs", SHARE),
        ]
    )
    blocks: list[Block] = [
        Text("One.\n\nTwo & three."),
        table,
        parameters,
        Source("a < b"),
        Details("More", [Callout("Mind")]),
        *charts(),
    ]
    return Page(
        "Title & more",
        [
            Section("First part", blocks, in_simulation=simulated),
            Section("Second part", [Text("Real.")], in_simulation=False),
        ],
        in_simulation=simulated,
        summary=[
            Callout("Look", "here", "warning"),
            KeyFigures([KeyFigure("gain", Interval(0.01, 0.0, 0.02), POINTS)]),
        ],
        facts={"seed": 7},
    )


def test_page_is_whole_and_fetches_nothing() -> None:
    """The page has balanced tags, unique ids, no script and no address outside of itself."""
    html = full_page(simulated=True).to_html()
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.scripts == 0
    assert all(a.startswith("#") or a == "data:," for a in checker.addresses)
    outside = re.findall(r"https?://[^\s\"'<]+", html)
    assert set(outside) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert "@import" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


def test_simulated_sections_cannot_hide_it() -> None:
    """The badge stands at the top, at the heading, at every table, chart and figure of a simulated section, and in the JSON."""
    page = full_page(simulated=True)
    html, told = page.to_html(), page.to_json()
    first = html.split('id="first-part"')[1].split('id="second-part"')[0]
    second = html.split('id="second-part"')[1]
    assert "Figures marked “in simulation”" in html
    assert first.count('class="sim"') == 1 + 2 + 5 + 1
    assert 'class="sim"' not in second
    assert all(b["in_simulation"] for b in told["sections"][0]["blocks"])
    assert told["in_simulation"] is True
    assert "in simulation" not in full_page(simulated=False).to_html()


def test_in_simulation_is_not_optional() -> None:
    """A section or page that does not say whether it is simulated cannot be made."""
    with pytest.raises(TypeError, match="in_simulation"):
        Section("x", [])  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="in_simulation"):
        Page("x", [])  # type: ignore[call-arg]


def test_twin_holds_the_same_figures(tmp_path: Path) -> None:
    """The JSON beside the page is strict JSON with unrounded figures, intervals and chart data."""
    html, twin = full_page(simulated=False).write(tmp_path / "deep" / "report.html")
    told = json.loads(twin.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    table = next(b for b in told["sections"][0]["blocks"] if b["kind"] == "table")
    assert table["rows"][0]["c"] == {"estimate": 0.05, "low": 0.04, "high": 0.07, "level": 0.95, "method": ""}
    assert table["rows"][1]["c"] is None
    forest = next(b for b in told["sections"][0]["blocks"] if b["kind"] == "chart")
    assert [d["name"] for d in forest["data"]] == ["a", "b"]
    assert html.stat().st_size < 600_000


def test_same_input_gives_the_same_twin() -> None:
    """Nothing in the twin depends on when or how often it is made."""
    before = full_page(simulated=True).to_json()
    charts.cache_clear()
    assert full_page(simulated=True).to_json() == before


def test_charts_take_the_colours_of_the_page() -> None:
    """No sentinel colour is left in a drawing, and both widths are drawn."""
    for chart in charts():
        for svg in (chart.svg_wide, chart.svg_narrow):
            assert "#a100" not in svg
            assert "var(--chart-" in svg
        widths = [int(re.findall(r'width="(\d+)"', svg)[0]) for svg in (chart.svg_wide, chart.svg_narrow)]
        assert widths[1] < 400 < widths[0] + 150


def test_empty_charts_and_wrong_rows_are_refused() -> None:
    """A chart without data, a row with a stray key, twin titles and a crossed interval each get one clear error."""
    with pytest.raises(InvalidInputError, match=re.escape("chart 'x' has nothing to show")):
        bar_chart("x", [])
    with pytest.raises(SchemaError, match=re.escape("has ['b']; its columns are ['a']")):
        Table([Column("a", "a")], [{"b": 1}])
    with pytest.raises(InvalidInputError, match="appear twice"):
        Page(
            "p", [Section("One", [], in_simulation=False), Section("one", [], in_simulation=False)], in_simulation=False
        )
    with pytest.raises(InvalidInputError, match="lower limit comes first"):
        Interval(0, 1, -1)
    with pytest.raises(SchemaError, match="without a provenance"):
        Parameter("p", 1, "assumed", " ")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0512, SHARE, f"5.12{NB}%"),
        (0.512, SHARE, f"51.2{NB}%"),
        (-0.0012, POINTS, f"\u22120.12{NB}pp"),
        (0.25, RELATIVE, f"+25.0{NB}%"),
        (1234567.0, COUNT, f"1{NB}234{NB}567"),
        (12.345, money("€"), f"12.35{NB}€"),
        (-1234.5, money("₽"), f"\u22121{NB}234{NB}₽"),
        (0.00001, PROBABILITY, "< 0.001"),
        (-0.00001, POINTS, f"0.00{NB}pp"),
        (0.01234, NUMBER, "0.0123"),
        (3.0, Unit("number", "ms"), f"3.00{NB}ms"),
        (float("nan"), NUMBER, "–"),
        (None, NUMBER, "–"),
        (float("-inf"), NUMBER, "\u2212∞"),
    ],
)
def test_figures_are_written_for_readers(value: float | None, unit: Unit, text: str) -> None:
    """Each unit has its digits, sign and symbol; a rounded zero has no sign; nothing is never a number."""
    assert format_value(value, unit) == text


def test_intervals_scale_and_are_written_whole() -> None:
    """An interval in another unit keeps low before high, also under a negative factor."""
    scaled = Interval(1.0, 0.5, 2.0).scaled(-2)
    assert (scaled.estimate, scaled.low, scaled.high) == (-2.0, -4.0, -1.0)
    assert format_interval(Interval(0.05, 0.04, 0.06), SHARE) == f"5.00{NB}% (4.00{NB}% to 6.00{NB}%)"
    assert Interval(1, 0.5, 2).excludes(0)
    assert not Interval(1, 0.5, 2).excludes(2)


def test_fragments_for_other_frames_are_escaped_too() -> None:
    """Blocks rendered for the console carry the badge and escape text as a page does."""
    fragment = render_blocks([Callout("<i>", "")], in_simulation=True)
    assert "&lt;i&gt;" in fragment
    assert "in simulation" in fragment
    assert "<html" not in fragment


def test_importing_the_kit_draws_in_nothing_heavy() -> None:
    """Importing reports and experiment statistics loads neither Altair nor pandas nor a template engine."""
    code = "import sys, offline_eval.report, offline_eval.abtest; print([m for m in ('altair','pandas','jinja2','vl_convert','statsmodels') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
