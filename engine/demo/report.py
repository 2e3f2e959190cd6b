"""The story as a page: what was real, what was simulated, what was found, and what was not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from engine.demo.candidates import INCUMBENT
from engine.demo.judging import ESTIMATORS
from engine.demo.reading import WORTHWHILE_LIFT
from engine.demo.story import Told
from offline_eval.abtest.pages import experiment_section, key_figures, verdict_callout
from offline_eval.estimates import Estimate
from offline_eval.report import (
    COUNT,
    NUMBER,
    POINTS,
    PROBABILITY,
    RELATIVE,
    SHARE,
    Callout,
    Cell,
    Chart,
    Column,
    Interval,
    Page,
    Parameter,
    Parameters,
    Section,
    Table,
    Text,
    interval_chart,
    money,
)

_Z = 1.959964


def write_report(told: Told, folder: Path, *, more: Sequence[Section] = ()) -> Path:
    """Write ``report.html`` and its JSON twin; returns the path of the page."""
    return page(told, more=more).write(folder / "report.html")[0]


def page(told: Told, *, more: Sequence[Section] = ()) -> Page:
    """The report of a run, with further sections behind its own."""
    config = told.config
    world = "a site where offers make no difference (null world)" if config.world == "null" else "the reference site"
    return Page(
        "From raw events to a live A/B result",
        [
            _sources(told),
            _models(told),
            _site(told),
            _candidates(told),
            _evaluation(told),
            experiment_section(told.reading, title="Live experiment"),
            _honesty(told),
            *more,
        ],
        in_simulation=True,
        subtitle=f"Incumbent against {told.challenger} on {world}; histories are real, what visitors do about offers is simulated",
        summary=[verdict_callout(told.reading), key_figures(told.reading)],
        facts={
            "seed": config.seed,
            "world": config.world,
            "quick": str(config.is_quick).lower(),
            "visitors": len(told.logs.log.subjects.n_visits) + told.reading.power.matured,
            "decisions by the service": told.n_decisions,
            "requests over HTTP": told.n_http_requests,
            **{f"seconds: {name}": round(seconds, 1) for name, seconds in told.seconds.items()},
        },
    )


def _sources(told: Told) -> Section:
    manifest = told.manifest
    rules: list[dict[str, Cell]] = [
        {
            "table": rule["table"],
            "rule": rule["rule"],
            "action": rule["action"],
            "rows": rule["rows"],
            "share": rule["share"],
        }
        for table in manifest["cleaning"]
        for rule in table["rules"]
        if rule["rows"]
    ]
    splits: list[dict[str, Cell]] = [
        {
            "split": name,
            "rows": part["rows"],
            "matured": part["matured"],
            "positive": part["positive"],
            "subjects": part["subjects"],
            "events": part["mean_events"],
        }
        for name, part in sorted(manifest["splits"].items())
    ]
    blocks: list[Any] = [
        Text(
            f"{manifest['title']}. {manifest['n_events']:,} events became decision points: everything known about a household the "
            "moment a campaign began, and whether it redeemed one of its coupons. Only events strictly before that moment are in a "
            "sequence; a row whose window is not over is unknown, never negative."
        ),
        Table(
            [
                Column("split", "split"),
                Column("rows", "decision points", COUNT),
                Column("matured", "matured", COUNT),
                Column("positive", "redeemed", COUNT),
                Column("subjects", "households", COUNT),
                Column("events", "events in a sequence, mean", NUMBER),
            ],
            splits,
            caption="Decision points by split, in time: test campaigns start on or after 1 August 2017",
        ),
    ]
    if rules:
        blocks.append(
            Table(
                [
                    Column("table", "table"),
                    Column("rule", "rule"),
                    Column("action", "what it did"),
                    Column("rows", "rows", COUNT),
                    Column("share", "of rows read", SHARE),
                ],
                rules,
                caption="What cleaning changed, rule by rule; rules that touched nothing are left out",
            )
        )
    if told.second_source is not None:
        second = told.second_source
        blocks.append(
            Text(
                f"A second source came through the same pipeline by description alone: {second['title']} "
                f"({second['n_events']:,} events, {sum(p['rows'] for p in second['splits'].values()):,} decision points)."
            )
        )
    blocks.append(
        Callout(
            "What this data can and cannot say",
            "Its campaigns were targeted and carry no propensities: it trains models of who redeems, it identifies no effect of an "
            "offer. Effects below come from a simulator, and say so.",
            tone="warning",
        )
    )
    return Section("Real input", blocks, in_simulation=False)


def _models(told: Told) -> Section:
    comparison = told.comparison
    rows: list[dict[str, Cell]] = []
    for name, found in sorted(comparison["models"].items(), key=lambda item: item[1]["validation"]["log_loss"]):
        test, against = found["test"], found["test_against_reference"]["roc_auc"]
        rows.append(
            {
                "model": name,
                "auc": _span(test["roc_auc"]),
                "pr": _span(test["average_precision"]),
                "p10": test["precision_at_10pct"],
                "ece": test["ece"],
                "floor": test["ece_floor"]["upper"],
                "slope": test["calibration_slope"]["value"],
                "diff": _span(against),
            }
        )
    counts = comparison["rows"]["test"]
    return Section(
        "Models of who responds",
        [
            Callout(comparison["verdict"][0].upper() + comparison["verdict"][1:], comparison["reason"]),
            Table(
                [
                    Column("model", "model"),
                    Column("auc", "AUC-ROC", PROBABILITY),
                    Column("pr", "PR-AUC", PROBABILITY),
                    Column("p10", "P@10 %", SHARE),
                    Column("ece", "ECE", PROBABILITY),
                    Column("floor", "ECE floor", PROBABILITY),
                    Column("slope", "slope", NUMBER),
                    Column("diff", "AUC − reference", PROBABILITY, signed=True),
                ],
                rows,
                caption=f"One test split: {counts['rows']:,} decision points of {counts['subjects']:,} households, {counts['positives']:,} redeemed",
                note="95 % intervals by bootstrap over households. The reference is a plain logistic regression on the same columns. "
                "The choice was made on validation; P@10 % is precision among the tenth ranked highest; the ECE floor is the upper end of what true probabilities of this size would show; slope is that of calibration, 1 is right.",
                highlight=comparison["chosen"],
            ),
        ],
        in_simulation=False,
        lead="Each framework trained in a process of its own, through one interface, calibrated on its own split, judged once.",
    )


def _site(told: Told) -> Section:
    parameters = [
        Parameter(row["name"], row["value"], row["provenance"], row["reason"])
        for row in told.scenario.parameters.table()
    ]
    return Section(
        "The simulated site",
        [
            Text(
                f"Visitors are {told.people.population.label}: their last purchases, traits and pace are real, and the service gets them "
                "as events and traits. What they think of a car subscription is simulated, by these parameters."
            ),
            Parameters(parameters),
        ],
        in_simulation=True,
    )


def _candidates(told: Told) -> Section:
    logs = told.logs
    evidence: list[dict[str, Cell]] = [
        {
            "stage": stage or "all stages",
            "offer": value.offer,
            "value": Interval(
                value.value, value.value - _Z * value.standard_error, value.value + _Z * value.standard_error
            )
            if value.n_shown > 1
            else value.value,
            "shown": value.n_shown,
        }
        for stage, values in sorted(logs.incumbent.evidence.items())
        if stage
        for value in sorted(values, key=lambda v: -v.value)
    ]
    orders = "; ".join(f"{stage}: {order[0]}" for stage, order in sorted(logs.incumbent.orders.items()))
    return Section(
        "Incumbent and candidates",
        [
            Text(
                f"{len(logs.explore.chosen):,} decisions of even rotation found the incumbent, the best single offer per stage ({orders}). "
                f"It then served {len(logs.log.chosen):,} decisions with {told.config.log_explore_share:.0%} exploration; candidates learned "
                "from half of those visitors and are judged on the other half."
            ),
            Table(
                [
                    Column("stage", "stage"),
                    Column("offer", "offer"),
                    Column("value", "kept per decision", SHARE),
                    Column("shown", "times shown", COUNT),
                ],
                evidence,
                caption="What even rotation said of each offer",
                note="A kept subscriber is credited to the last decision before the contract, so decisions for people who already "
                "subscribe earn nothing here and their order says nothing.",
            ),
            _learning_curve(told),
        ],
        in_simulation=True,
    )


def _learning_curve(told: Told) -> Chart:
    from offline_eval.report import Line, LinePoint, line_chart

    points = [
        LinePoint(row["iteration"], row["reward_per_visitor"])
        for row in told.ppo["history"]
        if np.isfinite(row["reward_per_visitor"])
    ]
    weights = told.ppo["reward"]
    return line_chart(
        "PPO in training",
        [Line("reward per visitor", points)],
        axis="reward per visitor",
        x_axis="iteration",
        note=f"Reward of a visitor: {weights['subscribed']:g} for subscribing, {weights['kept_30d']:g} for being kept 30 days. "
        f"The exported graph differs from the network by at most {told.ppo['export_difference']:.1e}.",
    )


def _evaluation(told: Told) -> Section:
    panel, truths = told.panel, told.truths
    base = truths[INCUMBENT].per_visitor
    rows: list[dict[str, Cell]] = []
    visitor_rows: list[dict[str, Cell]] = []
    for name, truth in truths.items():
        row: dict[str, Cell] = {
            "policy": name,
            "truth": _per_thousand(_around(*truth.per_decision)),
        }
        row |= {e: _per_thousand(_estimate(panel.estimates[name].get(e))) for e in ESTIMATORS}
        rows.append(row)
        values = {o: truth.per_visitor.value(o)[0] for o in ("subscribed", "kept_30d", "margin_eur")}
        lifts = {}
        for outcome in ("subscribed", "kept_30d"):
            difference, error = truth.per_visitor.difference(base, outcome)
            reference = base.value(outcome)[0]
            lifts[f"{outcome}_lift"] = (
                None if name == INCUMBENT or not reference else _around(difference / reference, error / reference)
            )
        visitor_rows.append({"policy": name, **values, **lifts})
    differences = {
        name: Interval(d.value, d.bounds.low, d.bounds.high)
        for name in panel.verdicts
        if name != INCUMBENT
        and (d := panel.differences[name][panel.headline]).value is not None
        and d.bounds is not None
    }
    marks = {
        name: truths[name].per_decision[0] - truths[INCUMBENT].per_decision[0] for name in differences if name in truths
    }
    columns = [Column("policy", "policy"), *(Column(e, e, NUMBER) for e in ESTIMATORS)]
    columns.append(Column("truth", "truth", NUMBER))
    verdicts: list[dict[str, Cell]] = [
        {
            "policy": name,
            "verdict": v.word,
            "ess": panel.effective_rows.get(name),
            "why": v.reasons[0] if v.reasons else "",
        }
        for name, v in panel.verdicts.items()
        if name != INCUMBENT
    ]
    blocks: list[Any] = [
        Callout(f"Challenger: {told.challenger}", told.why[0].upper() + told.why[1:] + "."),
        interval_chart(
            f"Estimated gain per decision over the incumbent ({panel.headline})",
            differences,
            unit=POINTS,
            axis="difference in kept subscribers per decision",
            marks=marks,
            marks_label="truth (on its own visitors)",
        ),
        Table(
            columns,
            rows,
            caption="Kept subscribers per 1,000 decisions: estimates from the incumbent's log, and the truth",
            note="95 % intervals clustered by visitor. An estimate asks what one decision would earn while later visits stay with the "
            "incumbent; the truth lets the policy choose at every visit, so the two may differ where choices build up.",
            highlight=told.challenger,
        ),
        Table(
            [
                Column("policy", "policy"),
                Column("verdict", "verdict"),
                Column("ess", "effective rows", COUNT),
                Column("why", "first reason"),
            ],
            verdicts,
            caption="What the log alone says of each",
            highlight=told.challenger,
        ),
        Table(
            [
                Column("policy", "policy"),
                Column("subscribed", "conversion", SHARE),
                Column("subscribed_lift", "against the incumbent", RELATIVE, signed=True),
                Column("kept_30d", "kept per visitor", SHARE),
                Column("kept_30d_lift", "against the incumbent", RELATIVE, signed=True),
                Column("margin_eur", "margin per visitor", money("€")),
            ],
            visitor_rows,
            caption="The truth per visitor: every policy on the same visitors with the same luck",
            highlight=told.challenger,
        ),
    ]
    verdict = panel.verdicts[told.challenger]
    if verdict.reasons:
        blocks.append(Text(f"Why the verdict on {told.challenger} is “{verdict.word}”: {_sentences(verdict.reasons)}"))
    if verdict.would_settle:
        blocks.append(Text(f"What would settle it: {_sentences(verdict.would_settle)}"))
    return Section("Off-policy evaluation beside the truth", blocks, in_simulation=True)


def _honesty(told: Told) -> Section:
    reading, plan = told.reading, told.plan
    enough = "enough" if reading.power.matured >= plan.required else "too few: the experiment is underpowered"
    items = [
        f"The plan was made before the experiment: {plan.required:,} visitors find a lift of {WORTHWHILE_LIFT:.0%} in kept per visitor "
        f"(from {plan.kept_per_visitor:.2%}) in four of five experiments; {reading.power.matured:,} came, which is {enough}.",
        "The incumbent is the best rule without personalisation that the training log supports, per stage.",
        "Live visitors follow the same laws as those of the training log. That flatters every model; a proof needs a world of another kind.",
        f"Nothing in this report is typed in. The same story with --world null asks for a lift where there is none; this run was "
        f"--world {told.config.world}.",
    ]
    return Section("What to make of it", [Text(item) for item in items], in_simulation=True)


def _per_thousand(value: Cell) -> Cell:
    if isinstance(value, Interval):
        return Interval(1000 * value.estimate, 1000 * value.low, 1000 * value.high)
    return 1000 * value if isinstance(value, float) else value


def fitted_against(comparison: dict[str, Any]) -> tuple[str, float, float, float, float]:
    """Name of the chosen propensity model, its test AUC, that of the reference, and the limits of the difference."""
    chosen, reference = comparison["chosen"], comparison["reference"]
    models = comparison["models"]
    difference = models[chosen]["test_against_reference"]["roc_auc"]
    auc = {name: float(models[name]["test"]["roc_auc"]["value"]) for name in (chosen, reference)}
    return chosen, auc[chosen], auc[reference], float(difference["low"]), float(difference["high"])


def _sentences(parts: Sequence[str]) -> str:
    return " ".join(p if p.endswith((".", "!", "?")) else f"{p}." for p in parts)


def _span(value: dict[str, float]) -> Interval:
    return Interval(value["value"], value["low"], value["high"])


def _around(mean: float, error: float) -> Interval:
    return Interval(mean, mean - _Z * error, mean + _Z * error)


def _estimate(estimate: Estimate | None) -> Cell:
    if estimate is None or estimate.value is None:
        return None
    if estimate.bounds is None:
        return estimate.value
    return Interval(estimate.value, estimate.bounds.low, estimate.bounds.high)


def summary_rows(told: Told) -> Sequence[str]:
    """The result in a few lines for a terminal."""
    lines = [told.reading.sentence()]
    lines += [
        f"  {m.metric.title}: {m.effect.control:.4g} → {m.effect.treatment:.4g}, difference {m.interval.estimate:+.4g} "
        f"[{m.interval.low:+.4g}, {m.interval.high:+.4g}] (in simulation)"
        for m in told.reading.metrics
    ]
    return lines
