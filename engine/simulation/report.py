"""An experiment in simulation as a page: values and scores by setting, and what happened day by day."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from offline_eval.report import (
    NUMBER,
    POINTS,
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
    Unit,
    interval_chart,
    line_chart,
    money,
)
from simulator.experiments import MIN_SEEDS, Lives, curve, n_days_of
from simulator.experiments import Cell as Life

_MONEY = money("€")
TITLES: dict[str, tuple[str, Unit]] = {
    "subscribed": ("Conversion", SHARE),
    "kept_30d": ("Kept 30 days, per visitor", SHARE),
    "margin_eur": ("Margin per visitor", _MONEY),
}
_SHORT = {"subscribed": "Conversion", "kept_30d": "Kept", "margin_eur": "Margin"}
_MAX_LINES = 6
_SURE = 0.975


def page(cells: Sequence[Life], lives: dict[tuple[float, str], Lives], told: dict[str, Any]) -> Page:
    """The report of an experiment; ``told`` is what ``summarise`` says of it."""
    is_swept = len(told["settings"]) > 1
    sections = [_sweep(told)] if is_swept else []
    sections += [_setting(entry, told, cells, lives) for entry in told["settings"]]
    return Page(
        f"Simulation: {told['scenario']}",
        sections,
        in_simulation=True,
        subtitle=told["about"],
        summary=[_verdict(told)],
        facts={
            "visitors per seed": told["n_subjects"],
            "seeds": ", ".join(str(s) for s in told["seeds"]),
            "days of arrivals": told["visit_days"],
            "explore share": told["explore_share"],
            **({"learners learn from": told["learners"]["learn_from"]} if told["learners"]["policies"] else {}),
            "scored outcome": TITLES[told["outcome"]][0].lower(),
            "baseline of scores": told["baseline"],
        },
    )


def write_page(
    cells: Sequence[Life], lives: dict[tuple[float, str], Lives], told: dict[str, Any], folder: Path
) -> Path:
    """Write ``report.html`` and its JSON twin; returns the path of the page."""
    return page(cells, lives, told).write(folder / "report.html")[0]


def _verdict(told: dict[str, Any]) -> Callout:
    winners = [_short(_winner(entry, told["outcome"])) for entry in told["settings"]]
    if len(winners) == 1:
        text = f"{winners[0]} has the highest {TITLES[told['outcome']][0].lower()} of the policies compared."
    else:
        stretches = [
            (name, [entry["at"] for entry, _ in of])
            for name, of in groupby(zip(told["settings"], winners, strict=True), key=lambda pair: pair[1])
        ]
        at = [f"{n} at {of[0]:g}" if len(of) == 1 else f"{n} from {of[0]:g} to {of[-1]:g}" for n, of in stretches]
        text = f"Highest {TITLES[told['outcome']][0].lower()} by {told['setting']}: " + ", ".join(at) + "."
    return Callout(
        "What was found",
        f"{text} Intervals are over visitors, 95 %; see below which of them overlap.",
        points=[f"{crossing_text(turn, told['setting'])}." for turn in told["crossings"]],
    )


def crossing_text(turn: dict[str, Any], setting: str) -> str:
    """Where the lead between two policies turns, in words."""
    first, second = _short(turn["first"]), _short(turn["second"])
    ahead, behind = (first, second) if turn["leads_below"] == turn["first"] else (second, first)
    exact = f", exactly {turn['exact']:.3f} without exploring" if "exact" in turn else ""
    sure = "" if turn["share"] > _SURE else f"; with {1 - turn['share']:.0%} of resamples it does not turn"
    return (
        f"{ahead} leads {behind} up to {setting} {turn['at']:.2f} [{turn['low']:.2f}, {turn['high']:.2f}]{exact}{sure}"
    )


def _winner(entry: dict[str, Any], outcome: str) -> str:
    return str(max(entry["policies"], key=lambda row: row[outcome]["mean"])["policy"])


def _sweep(told: dict[str, Any]) -> Section:
    names = [row["policy"] for row in told["settings"][0]["policies"]][:_MAX_LINES]
    blocks = []
    for outcome, (title, unit) in TITLES.items():
        lines = [Line(_short(name), [_point(entry, name, outcome) for entry in told["settings"]]) for name in names]
        if outcome == told["outcome"] and all("best_possible" in e for e in told["settings"]):
            points = [LinePoint(e["at"], e["best_possible"]["value"]) for e in told["settings"]]
            is_exact = all(e["best_possible"]["is_exact"] for e in told["settings"])
            lines.append(Line("exact optimum" if is_exact else "no policy can do more", points, is_dashed=True))
        blocks.append(line_chart(title, lines, unit=unit, x_axis=told["setting"]))
    if all("score" in row for e in told["settings"] for row in e["policies"]):
        lines = [Line(_short(name), [_score(entry, name) for entry in told["settings"]]) for name in names]
        title = f"Score: 0 is {told['baseline']}, 1 the exact optimum or a bound that no policy can beat"
        blocks.append(line_chart(title, lines, unit=NUMBER, x_axis=told["setting"]))
    return Section(
        f"Over {told['setting']}",
        blocks,
        in_simulation=True,
        lead="Bands are 95 % intervals over visitors of all seeds.",
    )


def _point(entry: dict[str, Any], name: str, outcome: str) -> LinePoint:
    cell = next(row for row in entry["policies"] if row["policy"] == name)[outcome]
    return LinePoint(entry["at"], cell["mean"], cell["low"], cell["high"])


def _score(entry: dict[str, Any], name: str) -> LinePoint:
    cell = next(row for row in entry["policies"] if row["policy"] == name)["score_interval"]
    return LinePoint(entry["at"], cell["mean"], cell["low"], cell["high"])


def _setting(
    entry: dict[str, Any], told: dict[str, Any], cells: Sequence[Life], lives: dict[tuple[float, str], Lives]
) -> Section:
    at, names = entry["at"], [row["policy"] for row in entry["policies"]]
    title = f"At {told['setting']} {at:g}" if told["setting"] else f"World {entry['world']}"
    rows: list[dict[str, Cell]] = [
        {
            "policy": _short(row["policy"]),
            **{o: _as_interval(row[o]) for o in TITLES},
            "difference": _as_interval(row["against_first"][told["outcome"]]) if i else None,
            **({"score": row["score"]} if "score" in row else {}),
        }
        for i, row in enumerate(entry["policies"])
    ]
    has_scores = any("score" in row for row in entry["policies"])
    columns = [
        Column("policy", "policy"),
        *([Column("score", "score")] if has_scores else []),
        *(Column(o, t, u) for o, (t, u) in TITLES.items()),
        Column("difference", f"{_SHORT[told['outcome']]} against {_short(names[0])}", POINTS, signed=True),
    ]
    note = ""
    if has_scores:
        best = entry["best_possible"]
        what = "the exact optimum" if best["is_exact"] else "a bound that no policy can beat"
        note = (
            f"Score: 0 is {told['baseline']}, 1 is {what} ({best['value']:.4f}); a policy is served with its explore share, the "
            "bound is not."
        )
    n_days = n_days_of(cells[0])
    shown = names[:_MAX_LINES]
    blocks: list[Any] = [Table(columns, rows, caption="Per visitor, 95 % intervals", note=note)]
    if len(names) > 1:
        differences = {
            _short(row["policy"]): _as_interval(row["against_first"][told["outcome"]]) for row in entry["policies"][1:]
        }
        blocks.append(
            interval_chart(
                f"{TITLES[told['outcome']][0]}: difference to {_short(names[0])}, same visitors, same luck",
                differences,
                unit=POINTS,
            )
        )
    for outcome, (name, unit) in TITLES.items():
        lines = [_line(p, curve(lives[at, p], outcome, n_days=n_days)) for p in shown]
        blocks.append(line_chart(f"{name}, cumulative", lines, unit=unit, x_axis="day since the first arrival"))
    if len(names) > 1:
        leader = lives[at, _winner(entry, told["outcome"])]
        lines = [_line(p, curve(lives[at, p], told["outcome"], n_days=n_days, minus=leader)) for p in shown]
        blocks.append(
            line_chart(
                f"Regret: {TITLES[told['outcome']][0].lower()} lost against {_short(_winner(entry, told['outcome']))}",
                lines,
                unit=TITLES[told["outcome"]][1],
                x_axis="day since the first arrival",
            )
        )
    over = "seeds" if len(told["seeds"]) >= MIN_SEEDS else f"visitors (over seeds from {MIN_SEEDS} seeds on)"
    lead = f"Bands of curves are 95 % intervals over {over}."
    learners = ", ".join(told["learners"]["policies"])
    if learners and len(told["seeds"]) < MIN_SEEDS:
        lead += (
            f" Visitors of a seed share what {learners} learned, so that its intervals are too narrow: {MIN_SEEDS} seeds or more "
            "give honest ones."
        )
    return Section(title, blocks, in_simulation=True, lead=lead)


def _line(name: str, made: Any) -> Line:
    has_band = bool((made.high > made.low).any())
    points = [
        LinePoint(float(d), float(m), float(lo) if has_band else None, float(hi) if has_band else None)
        for d, m, lo, hi in zip(made.day, made.mean, made.low, made.high, strict=True)
    ]
    return Line(_short(name), points)


def _short(name: str) -> str:
    return Path(name).name


def _as_interval(cell: dict[str, float]) -> Interval:
    return Interval(cell["mean"], cell["low"], cell["high"])
