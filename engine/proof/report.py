"""The proof as a page: missed bars first, then what was found and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.demo.reading import WORTHWHILE_LIFT
from engine.proof.figures import proof_figures
from engine.proof.judged import agreement_summary, answers_table, by_kind, grid_summary
from engine.proof.story import Proof
from offline_eval.report import (
    COUNT,
    NUMBER,
    POINTS,
    RELATIVE,
    SHARE,
    Bar,
    Callout,
    Cell,
    Column,
    Interval,
    KeyFigure,
    KeyFigures,
    Page,
    Section,
    Table,
    Text,
    bar_chart,
    interval_chart,
)

_TITLES = {"subscribed": "conversion", "kept_30d": "kept per visitor", "margin_eur": "margin per visitor"}
_WHO = {
    "ours": "Nextoffer",
    "peeking": "peeking at p < 0.05",
    "plain IPS": "plain IPS",
}


def write_report(proof: Proof, folder: Path) -> Path:
    """Write ``report.html`` and its JSON twin; returns the path of the page."""
    return page(proof).write(folder / "report.html")[0]


def page(proof: Proof) -> Page:
    """The report of a run."""
    sections = [_bars(proof), *(_reference(r) for r in proof.reference), _sealed(proof)]
    sections += [s for s in (_grid(proof), _agreement(proof), _replays(proof)) if s is not None]
    return Page(
        "The proof: what the system gains, and where it gains nothing",
        [*sections, _committed(proof)],
        in_simulation=True,
        subtitle="Worlds, incumbents, metrics and sample sizes were committed by hash before anything was trained",
        summary=[_summary(proof), _key_figures(proof)],
        facts={
            "commitment": proof.commitment["hash"],
            "seed": proof.config.seed,
            "quick": str(proof.config.is_quick).lower(),
            "sealed worlds": len(proof.sealed),
            "seconds of this run (kept worlds take none)": round(proof.seconds, 1),
        },
    )


def _summary(proof: Proof) -> Callout:
    figures = proof_figures(proof)["figures"]
    missed = [f for f in figures if f["holds"] is False]
    judged = [f for f in figures if f["holds"] is not None]
    points = [f"{_words(f['name'])}: {_figure(f)}, must {f['must']}" for f in missed]
    if not judged:
        return Callout("Too small to judge", "This size proves the path; the bars are judged by a full run.", "note")
    if missed:
        return Callout(f"{len(missed)} of {len(judged)} bars are missed", "", "warning", points)
    return Callout(f"All {len(judged)} bars are met", "", "good")


def _key_figures(proof: Proof) -> KeyFigures:
    first = proof.reference[0]
    true = first["truth"][first["challenger"]]
    ours = answers_table(proof.sealed)["ours"]
    return KeyFigures(
        [
            KeyFigure(
                "conversion, reference world", _span(true["subscribed"]), RELATIVE, "true lift over the incumbent"
            ),
            KeyFigure("kept per visitor", _span(true["kept_30d"]), RELATIVE, "true lift over the incumbent"),
            KeyFigure(
                "false wins", _share(ours["false_share"]), SHARE, f"of {ours['without_gain']} worlds without a gain"
            ),
            KeyFigure(
                "effects found", _share(ours["found_share"]), SHARE, f"of {ours['at_planned_size']} at the planned size"
            ),
        ]
    )


def _bars(proof: Proof) -> Section:
    words = {True: "pass", False: "fail", None: "not judged"}
    figures = [f for f in proof_figures(proof)["figures"] if f["must"]]
    figures.sort(key=lambda f: (f["holds"] is not False, f["holds"] is None))
    rows: list[dict[str, Cell]] = [
        {
            "bar": _words(f["name"]), "found": _cell(f), "must": f["must"].replace(" ", "\u00a0"), "word": words[f["holds"]],
            "note": f.get("note", ""),
        }
        for f in figures
    ]  # fmt: skip
    columns = [
        Column("bar", "figure"), Column("found", "found", NUMBER), Column("must", "must"),
        Column("word", "", is_status=True), Column("note", "note"),
    ]  # fmt: skip
    return Section(
        "The bars, missed ones first", [Table(columns, rows, caption="Every bar of the proof")], in_simulation=True
    )


def _reference(told: Mapping[str, Any]) -> Section:
    name, plan = told["challenger"], told["plan"]
    live: list[dict[str, Cell]] = []
    for metric, outcome in (("conversion", "subscribed"), ("kept", "kept_30d"), ("margin", "margin_eur")):
        found, true = told["live"][metric], told["truth"][name][outcome]
        lift = found["lift"]
        live.append(
            {
                "metric": _TITLES[outcome], "control": found["control"],
                "difference": Interval(found["estimate"], found["low"], found["high"], found["level"], found["method"]),
                "lift": None if lift is None else Interval(lift["lift"], lift["low"], lift["high"]),
                "true": _span(true),
            }
        )  # fmt: skip
    columns = [
        Column("metric", "metric"), Column("control", "incumbent, live", NUMBER),
        Column("difference", "claimed difference", NUMBER, signed=True), Column("lift", "lift, one look", RELATIVE),
        Column("true", "true lift", RELATIVE),
    ]  # fmt: skip
    parts = {p["part"]: _span(p) for p in told["decomposition"]["kept_30d"]}
    sold = {p["part"]: _span(p) for p in told["decomposition"]["subscribed"]}
    service = told["service"]
    retention = told["truth"][name]["retention"]
    blocks: list[Any] = [
        Text(
            f"Incumbent: {told['incumbent'].get('visitor', '')} for visitors, the best single offer of the even rotation. Challenger: "
            f"{name}, chosen by the log alone (its word: {told['word_of_the_log']}). Planned before the start: {plan['planned']:,} visitors "
            f"for a lift of {WORTHWHILE_LIFT:.0%} in kept per visitor from {plan['kept_per_visitor']:.2%}. {told['sentence']}"
        ),
        Table(columns, live, caption="The live experiment in the service, beside the truth",
              note="The claimed difference is the interval of the planned test for kept per visitor, and one that holds at any look otherwise."),
        Text(
            f"Retention among subscribers, descriptive: {retention['incumbent']:.1%} to {retention['value']:.1%} in truth "
            f"({retention['lift']:+.1%}). {_room_words(told)}"
        ),
        interval_chart("True lift in kept per visitor, part by part", parts, unit=RELATIVE, axis="of the incumbent's"),
        interval_chart("True lift in conversion, part by part", sold, unit=RELATIVE, axis="of the incumbent's",
                       note="Best single offer: found anew on all of the log. Personalisation: what sells in the visit. Long-term: the challenger's own goal. "
                       "Paired 95 % intervals."),
        _candidates(told),
        Text(
            f"{service['decisions_compared']:,} decisions of the service were compared with the light pipeline that the sealed worlds use, "
            f"{service['http_decisions_compared']:,} of them made over HTTP: {service['decisions_that_differ']} differ in offer, propensity or "
            "variant, to the last bit."
        ),
    ]  # fmt: skip
    title = "The reference world" if told["world"] == "reference" else "The plain world of the other family"
    return Section(title, blocks, in_simulation=True)


def _room_words(told: Mapping[str, Any]) -> str:
    room = told["room"]
    if room is None:
        return ""
    first = room["oracles"][0]
    best = room["retention_with_both_bars"]
    reach = (
        "no oracle keeps both other bars"
        if best is None
        else f"of those that keep both other bars the best reaches {best:+.1%}"
    )
    return (
        f"An oracle that sees every hidden trait and keeps the most gains {first['conversion']:+.0%} conversion, {first['kept']:+.0%} kept and "
        f"{first['retention']:+.1%} retention; some give contracts away for lasting ones, and {reach}."
    )


def _candidates(told: Mapping[str, Any]) -> Table:
    rows: list[dict[str, Cell]] = [
        {"name": name, **{o: _span(t[o]) for o in _TITLES}, "retention": t["retention"]["lift"]}
        for name, t in told["truth"].items()
    ]
    columns = [Column("name", "candidate"), *(Column(o, title, RELATIVE) for o, title in _TITLES.items())]
    return Table(
        [*columns, Column("retention", "retention, descriptive", RELATIVE)],
        rows,
        caption="True lift of every candidate, on the same visitors with the same luck",
        highlight=told["challenger"],
    )


def _sealed(proof: Proof) -> Section:
    table = answers_table(proof.sealed)
    rows: list[dict[str, Cell]] = [
        {
            "who": _WHO[name], "claims": r["claims"], "false": r["false_wins"], "without": r["without_gain"],
            "false_share": _share(r["false_share"]), "at_size": r["at_planned_size"],
            "found_share": _share(r["found_share"]),
        }
        for name, r in table.items()
    ]  # fmt: skip
    columns = [
        Column("who", "who answers"), Column("claims", "lifts claimed", COUNT), Column("false", "false wins", COUNT),
        Column("without", "worlds without a gain", COUNT), Column("false_share", "false wins among them", SHARE),
        Column("at_size", "effects at the planned size", COUNT),
        Column("found_share", "found among them", SHARE),
    ]  # fmt: skip
    kinds: list[dict[str, Cell]] = [
        {
            "kind": k["kind"], "worlds": k["worlds"],
            **{f"{n} {w}": k[f"{n} {w}"] for n in _WHO for w in ("claims", "false")},
        }
        for k in by_kind(proof.sealed)
    ]  # fmt: skip
    kind_columns = [Column("kind", "kind of world"), Column("worlds", "worlds", COUNT)]
    for n, title in (("ours", "Nextoffer"), ("peeking", "peeking"), ("plain IPS", "plain IPS")):
        kind_columns += [Column(f"{n} claims", f"{title}: lifts", COUNT), Column(f"{n} false", "false", COUNT)]
    bars = [
        Bar(_WHO[n], r["false_share"]["estimate"], _share(r["false_share"]))
        for n, r in table.items()
        if r["without_gain"]
    ]
    blocks: list[Any] = [
        Text(
            "All are of the second family of laws; every third is a trap (nothing to find, a training log chosen by someone who knew "
            "more, or visitors who all want the same). A win is false where the promoted policy truly keeps no more visitors than the "
            f"incumbent. Peeking means twenty looks and a stop at the first p below 0.05; plain IPS believes the 95 % interval of the log it learned from. An effect is at the planned size where the policy truly keeps at least {WORTHWHILE_LIFT:.0%} more and margin is not lower."
        ),
        Table(columns, rows, caption="Lift, or cannot say: 95 % Wilson intervals", highlight=_WHO["ours"]),
    ]  # fmt: skip
    if bars:
        blocks.append(bar_chart("False wins among worlds without a gain", bars, unit=SHARE, highlight=_WHO["ours"]))
    blocks.append(Table(kind_columns, kinds, caption="By kind of world"))
    return Section("Sealed worlds", blocks, in_simulation=True)


def short_section(commitment: str, worlds: Sequence[Mapping[str, Any]]) -> Section:
    """World by world, for a run that has too few to speak in shares."""
    rows: list[dict[str, Cell]] = []
    for w in worlds:
        true = w["truth"][w["challenger"]]["kept_30d"]
        answers = {name: "cannot say" if w["answers"][name] is None else "lift" for name in _WHO}
        rows.append({"number": f"world {w['number']}", "kind": w["kind"], "true": _span(true), **answers})
    columns = [
        Column("number", "world"), Column("kind", "kind"), Column("true", "true lift of the challenger, kept", RELATIVE),
        Column("ours", "Nextoffer"), Column("peeking", "peeking"), Column("plain IPS", "plain IPS"),
    ]  # fmt: skip
    blocks: list[Any] = [
        Text(
            "Live visitors above follow the laws of the training log, which flatters every model. These worlds follow other laws, and a third "
            f"of them are traps. They were committed to before anything was trained: {commitment}. `nextoffer prove` does the same for two "
            "hundred and judges it."
        ),
        Table(columns, rows, caption="What is answered, and what is true"),
    ]
    return Section("A short proof in sealed worlds", blocks, in_simulation=True)


def _grid(proof: Proof) -> Section | None:
    if not proof.grid:
        return None
    told = grid_summary(proof.grid)
    ordered = sorted(proof.grid, key=lambda p: p["truth"]["kept_30d"]["lift"])
    lifts = {f"world {p['number']} ({p['challenger']})": _span(p["truth"]["kept_30d"]) for p in ordered}
    cover: list[dict[str, Cell]] = [{"metric": m, "share": _share(c), "n": c["n"]} for m, c in told["coverage"].items()]
    blocks: list[Any] = [
        Text(
            "The reference site with every response that it only assumes drawn over all that is plausible; base rates stay."
        ),
        interval_chart("True lift in kept per visitor over the grid", lifts, unit=RELATIVE, axis="of the incumbent's"),
        Table(
            [
                Column("metric", "metric"),
                Column("share", "intervals that hold the truth", SHARE),
                Column("n", "experiments", COUNT),
            ],
            cover,
            caption="Coverage of the claimed 95 % intervals over repeated experiments",
        ),
        _losing(told["losing_cells"]),
    ]
    return Section("Over what no data identifies", blocks, in_simulation=True)


def _losing(cells: Sequence[Mapping[str, Any]]) -> Any:
    if not cells:
        return Callout(
            "No point of the grid loses",
            "Nowhere does the challenger keep fewer visitors than the incumbent in truth.",
            "good",
        )
    rows: list[dict[str, Cell]] = [
        {
            "number": f"world {c['number']}", "lift": c["lift"], "challenger": c["challenger"], "claims": c["claims"],
            "at": ", ".join(f"{k} {v:.2f}" for k, v in c["at"].items()),
        }
        for c in cells
    ]  # fmt: skip
    columns = [
        Column("number", "world"), Column("lift", "true lift, kept", RELATIVE), Column("challenger", "challenger"),
        Column("claims", "lifts claimed", COUNT), Column("at", "where"),
    ]  # fmt: skip
    return Table(columns, rows, caption="Points where the challenger loses")


def _agreement(proof: Proof) -> Section | None:
    if not proof.agreement:
        return None
    rows: list[dict[str, Cell]] = []
    for cell in proof.agreement:
        told: dict[str, Cell] = {"world": cell["world"], "challenger": cell["challenger"]}
        for who, v in cell["first_visit"].items():
            half = 1.959964 * v["standard_error"]
            told[who] = Interval(v["lift"], v["lift"] - half, v["lift"] + half)
        for pair in cell["pairs"]:
            told[f"{pair['a']} {pair['b']}"] = "yes" if pair["covers_zero"] else "no"
        rows.append(told)
    columns = [Column("world", "world"), Column("challenger", "challenger")]
    columns += [Column(who, who, RELATIVE) for who in proof.agreement[0]["first_visit"]]
    columns += [Column(f"{p['a']} {p['b']}", f"{p['a']} and {p['b']} agree") for p in proof.agreement[0]["pairs"]]
    pairs: list[dict[str, Cell]] = [dict(p) for p in agreement_summary(proof.agreement)]
    pair_columns = [
        Column("pair", "pair"), Column("cells", "cells", COUNT), Column("covers_zero", "difference covers zero", COUNT),
        Column("powered", "powered cells", COUNT), Column("within_points", "of them within ± 3 points", COUNT),
        Column("largest", "largest difference of lift", POINTS),
    ]  # fmt: skip
    blocks: list[Any] = [
        Text(
            "Lift in subscribers kept from a visitor's first visit, which all three can measure; over later visits a log's weights "
            "collapse. The simulator's laws are of the first family; what it misses of single offers on the log widens its interval."
        ),
        Table(columns, rows, caption="Lift with 95 % intervals, and whether pairs agree (Holm within a world)"),
        Table(pair_columns, pairs, caption="Pair by pair"),
    ]
    return Section("Simulator, log and live", blocks, in_simulation=True)


def _replays(proof: Proof) -> Section | None:
    if not proof.replays:
        return None
    rows: list[dict[str, Cell]] = [
        {
            "log": r["log"], "unit": r["unit"], "rows": r["rows"], "against": r["compared_with"], "incumbent": r["incumbent"],
            "learned": r["learned"], "difference": Interval(r["difference"], r["low"], r["high"]), "word": r["word"],
        }
        for r in proof.replays
    ]  # fmt: skip
    columns = [
        Column("log", "log"), Column("unit", "reward"), Column("rows", "rows judged", COUNT), Column("against", "compared with"),
        Column("incumbent", "that earns", NUMBER), Column("learned", "learned policy earns", NUMBER),
        Column("difference", "difference", NUMBER, signed=True), Column("word", "result"),
    ]  # fmt: skip
    blocks: list[Any] = [
        Text(
            "Learned on one half of each log, judged on the other. These are real experiments: what they show is reported as it is."
        ),
        Table(columns, rows, caption="Real randomised logs by replay, 95 % intervals"),
    ]
    return Section("Real randomised logs", blocks, in_simulation=False)


def _committed(proof: Proof) -> Section:
    told = proof.commitment
    rows: list[dict[str, Cell]] = [
        {"what": "incumbent", "how": told["incumbent"]},
        {"what": "sample", "how": told["sample"]["rule"]},
        {"what": "answer", "how": told["answer"]},
        {"what": "learners", "how": ", ".join(told["learners"]["candidates"])},
        {"what": "sealed worlds", "how": told["worlds"]["sealed"]},
        {"what": "hash of all of it", "how": told["hash"]},
    ]
    table = Table([Column("what", "what"), Column("how", "how")], rows, caption="Fixed before anything was trained")
    text = "The whole commitment lies beside this page. Running the command with the same seed and version gives the same hash."
    return Section("What was committed to", [table, Text(text)], in_simulation=True)


def summary_rows(figures: Mapping[str, Any]) -> list[str]:
    """The bars in a few lines for a terminal, missed ones first."""
    words = {True: "holds", False: "MISSED", None: "-"}
    rows = sorted(
        (f for f in figures["figures"] if f["must"]), key=lambda f: (f["holds"] is not False, f["holds"] is None)
    )
    return [f"{words[f['holds']]:7s} {_words(f['name'])}: {_figure(f)}, must {f['must']}" for f in rows]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _figure(figure: Mapping[str, Any]) -> str:
    spread = figure["spread"]
    limits = f" [{spread[0]:.4g}, {spread[1]:.4g}]" if len(spread) == 2 else ""
    return f"{figure['ours']:.4g}{limits} {figure['unit']}"


def _cell(figure: Mapping[str, Any]) -> Cell:
    spread = figure["spread"]
    value = float(figure["ours"])
    return Interval(value, float(spread[0]), float(spread[1])) if len(spread) == 2 else value


def _span(told: Mapping[str, float]) -> Interval:
    return Interval(told["lift"], told["low"], told["high"])


def _share(told: Mapping[str, Any]) -> Interval | None:
    if told["estimate"] is None:
        return None
    return Interval(told["estimate"], told["low"], told["high"], method="Wilson")
