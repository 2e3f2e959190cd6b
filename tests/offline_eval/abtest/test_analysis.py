"""The whole reading: looks, verdicts, families of error, words."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from offline_eval.abtest import (
    ExperimentPlan,
    ExperimentReading,
    History,
    Metric,
    Moments,
    Phase,
    Rollup,
    SubjectOutcomes,
    analyse,
    standard_metrics,
)
from offline_eval.abtest.pages import experiment_section, key_figures, verdict_callout
from offline_eval.report import Page, money

MARGIN = Metric("margin", "mean", "guardrail", unit=money("€"), noun="margin")
SALE = Metric("sale", "proportion", "primary", noun="subscriptions")


def plan_of(*metrics: Metric, **changes: Any) -> ExperimentPlan:
    """Ten thousand subjects, control A."""
    settings: dict[str, Any] = {"planned_subjects": 10_000, "effect": 0.02}
    return ExperimentPlan("price", "A", ("A", "B"), metrics or (SALE, MARGIN), **(settings | changes))


def cells(
    n: tuple[float, float], rate: tuple[float, float], margin: tuple[float, float] = (1.0, 1.0), *, spread: float = 4.0
) -> Rollup:
    """Exact sums of two variants: a proportion and a margin with a chosen mean and variance."""
    size = np.array([n], dtype=np.float64)
    p, m = np.array([rate]), np.array([margin])
    zero = np.zeros_like(size)
    return Rollup(
        {
            "sale": Moments(size, size * p, size * p, zero, zero, zero),
            "margin": Moments(size, size * m, size * (m**2 + spread**2), zero, zero, zero),
        },
        size.astype(np.int64),
    )


def test_ship_says_how_much_a_month() -> None:
    """A proven gain is shipped, in subscriptions and money a month, with limits."""
    reading = analyse(cells((5000, 5000), (0.10, 0.13)), plan_of(visitors_per_month=50_000))
    assert (reading.verdict.decision, reading.verdict.variant) == ("ship", "B")
    assert reading.is_planned_look
    assert reading.sentence().startswith("Ship B: 1\u00a0500 more subscriptions (between ")
    assert reading.sentence().endswith("a month.")
    assert "€ more margin" in reading.sentence()


def test_same_figures_before_a_planned_look_decide_nothing() -> None:
    """Between looks the primary metric is shown with the wider sequence and the verdict waits."""
    reading = analyse(cells((900, 900), (0.10, 0.16)), plan_of())
    assert not reading.is_planned_look
    assert reading.verdict.decision == "keep running"
    assert reading.of("sale").effect.p_value < 0.001
    assert reading.of("sale").interval.method == "confidence sequence"


def test_looks_are_kept_and_a_crossing_stands() -> None:
    """A bound crossed at a look decides for good, and later analyses between looks take no new look."""
    plan = plan_of()
    first = analyse(cells((2000, 2000), (0.10, 0.16)), plan)
    assert first.verdict.decision == "ship"
    assert [k.crossed["B"] for k in first.looks] == [1]
    history = History(first.looks, first.split.largest_log_bayes_factor)
    later = analyse(cells((2100, 2100), (0.10, 0.12)), plan, history=history)
    assert later.looks == first.looks
    assert not later.is_planned_look
    assert later.verdict.decision == "ship"


def test_a_repeated_analysis_of_one_moment_takes_one_look() -> None:
    """Refreshing the page does not spend error twice."""
    plan = plan_of()
    data = cells((2000, 2000), (0.10, 0.11))
    first = analyse(data, plan)
    again = analyse(data, plan, history=History(first.looks))
    assert len(again.looks) == len(first.looks) == 1


def test_the_planned_end_without_a_difference_stops() -> None:
    """At full information and no crossing the experiment ends, keeps the control and says what it could not have seen."""
    reading = analyse(cells((5000, 5000), (0.10, 0.104)), plan_of(effect=0.005, subjects_per_day=500.0))
    assert (reading.verdict.decision, reading.verdict.reason) == ("stop", "no_difference")
    assert reading.power.is_underpowered
    assert re.search(
        r"underpowered: a change of 0\.50.pp takes [\d,]+ subjects \([\d,]+ more or \d+ more days\)", reading.sentence()
    )


def test_harm_to_a_guardrail_stops_a_winner() -> None:
    """Conversion bought with margin is stopped though the primary metric is proven better."""
    reading = analyse(cells((5000, 5000), (0.10, 0.13), (1.0, 0.3)), plan_of())
    assert reading.of("sale").is_better
    assert (reading.verdict.decision, reading.verdict.reason) == ("stop", "guardrail")
    assert reading.sentence().startswith("Stop B: 700.00\u00a0€ less margin")


def test_a_tolerance_must_be_excluded_before_shipping() -> None:
    """With a stated tolerance a winner waits until the guardrail's interval excludes a larger loss."""
    strict = Metric("margin", "mean", "guardrail", unit=money("€"), tolerance=0.05)
    loose = Metric("margin", "mean", "guardrail", unit=money("€"), tolerance=2.0)
    data = cells((5000, 5000), (0.10, 0.13))
    waiting = analyse(data, plan_of(SALE, strict))
    assert waiting.verdict.reason == "guardrail_open"
    assert "more than the 0.05\u00a0€ you accept" in waiting.sentence()
    assert analyse(data, plan_of(SALE, loose)).verdict.decision == "ship"


def test_less_can_be_better() -> None:
    """A metric of which less is good is judged the other way round."""
    refunds = Metric("sale", "proportion", "primary", is_increase_good=False, noun="refunds")
    reading = analyse(cells((5000, 5000), (0.13, 0.10)), plan_of(refunds, MARGIN))
    assert reading.verdict.decision == "ship"
    assert "fewer refunds" in reading.sentence()
    assert analyse(cells((5000, 5000), (0.10, 0.13)), plan_of(refunds, MARGIN)).verdict.reason == "worse"


def test_a_wrong_split_withholds_every_verdict() -> None:
    """With a split that is off, a huge gain is not read out, and the alarm outlives later looks."""
    reading = analyse(cells((5400, 4600), (0.10, 0.20)), plan_of())
    assert reading.verdict.decision == "broken"
    assert "A 5,400 of 5,000 expected" in reading.sentence()
    later = analyse(
        cells((6000, 6000), (0.10, 0.20)),
        plan_of(),
        history=History(largest_split_evidence=reading.split.largest_log_bayes_factor),
    )
    assert later.verdict.decision == "broken"


def test_a_handful_of_events_is_too_early() -> None:
    """Below the minimum of positives nothing is decided, however large the ratio."""
    reading = analyse(cells((5000, 5000), (0.0004, 0.004)), plan_of())
    assert reading.verdict.reason == "too_early"
    assert not reading.looks


def test_an_imbalance_before_the_start_breaks_the_reading() -> None:
    """A covariate that differed before exposure means the split was not random."""
    rng = np.random.default_rng(5)
    variants = np.repeat(["A", "B"], [4000, 4100])
    before = rng.normal(0, 1, 8100) + 0.3 * (variants == "B")
    metric = Metric("y", "mean", "primary", covariate="before")
    plan = ExperimentPlan("t", "A", ("A", "B"), (metric,), planned_subjects=10_000, effect=0.1)
    values = {"y": before + rng.normal(0, 1, 8100), "before": before}
    reading = analyse(SubjectOutcomes(variants, values), plan)
    assert (reading.verdict.decision, reading.verdict.reason) == ("broken", "imbalance")
    values["before"] = rng.permutation(before)
    assert analyse(SubjectOutcomes(variants, values), plan).verdict.decision != "broken"


def test_unequal_weights_carry_less_information() -> None:
    """8,000 subjects at 80/20 are 64 % of what 8,000 at 50/50 are, so the planned end moves away."""
    plan = plan_of(phases=(Phase("1", {"A": 5000, "B": 5000}), Phase("2", {"A": 8000, "B": 2000})))
    size = np.array([[0.0, 0.0], [6400.0, 1600.0]])
    zero = np.zeros_like(size)
    moments = Moments(size, size * 0.1, size * 0.1, zero, zero, zero)
    margins = Moments(size, size, size * 5, zero, zero, zero)
    reading = analyse(Rollup({"sale": moments, "margin": margins}, size.astype(np.int64)), plan)
    assert reading.power.fraction == pytest.approx(0.64 * 0.8)


def test_the_best_of_several_winners_is_shipped() -> None:
    """With three variants each comparison has its part of the error, and the larger gain ships."""
    plan = ExperimentPlan("t", "A", ("A", "B", "C"), (SALE,), planned_subjects=30_000, effect=0.02)
    size = np.array([[10_000.0, 10_010.0, 9_990.0]])
    p, zero = np.array([[0.10, 0.125, 0.14]]), np.zeros((1, 3))
    reading = analyse(
        Rollup({"sale": Moments(size, size * p, size * p, zero, zero, zero)}, size.astype(np.int64)), plan
    )
    assert reading.verdict.variant == "C"
    assert reading.of("sale", "B").interval.level == pytest.approx(1 - 0.05 / 2)


def demo_reading(*, in_simulation: bool) -> ExperimentReading:
    """A reading of the product's own metrics from rows."""
    rng = np.random.default_rng(8)
    variants = rng.choice(["A", "B"], 6000)
    subscribed = (rng.random(6000) < 0.08).astype(float)
    kept = subscribed * (rng.random(6000) < 0.6)
    values = {"subscribed": subscribed, "kept": kept, "margin": subscribed * rng.normal(20, 5, 6000)}
    plan = ExperimentPlan(
        "demo", "A", ("A", "B"), standard_metrics(), planned_subjects=8000, effect=0.02, subjects_per_day=300
    )
    return analyse(SubjectOutcomes(variants, values), plan, in_simulation=in_simulation)


def test_what_comes_from_a_simulator_says_so_everywhere() -> None:
    """Sentence, JSON, section and page carry the label, and none of them does for real subjects."""
    for flag in (True, False):
        reading = demo_reading(in_simulation=flag)
        page = Page(
            "x",
            [experiment_section(reading)],
            in_simulation=reading.in_simulation,
            summary=[verdict_callout(reading), key_figures(reading)],
        )
        assert ("(In simulation.)" in reading.sentence()) is flag
        assert reading.to_json()["in_simulation"] is flag
        assert page.sections[0].in_simulation is flag
        assert ("in simulation" in page.to_html()) is flag


def test_json_holds_no_nan_and_the_same_figures() -> None:
    """The JSON form is strict, and its differences are those of the reading."""
    reading = demo_reading(in_simulation=True)
    told = json.loads(json.dumps(reading.to_json(), allow_nan=False))
    kept = next(m for m in told["metrics"] if m["metric"] == "kept")
    assert kept["estimate"] == reading.of("kept").effect.estimate
    assert told["verdict"]["decision"] == reading.verdict.decision
    assert told["retention_among_subscribers"]["B"]["descriptive"] is True


def test_rows_and_rollups_read_alike() -> None:
    """A reading from rows equals the reading from their sums."""
    reading = demo_reading(in_simulation=False)
    rng = np.random.default_rng(8)
    variants = rng.choice(["A", "B"], 6000)
    subscribed = (rng.random(6000) < 0.08).astype(float)
    kept = subscribed * (rng.random(6000) < 0.6)
    data = SubjectOutcomes(
        variants, {"subscribed": subscribed, "kept": kept, "margin": subscribed * rng.normal(20, 5, 6000)}
    )
    assert analyse(data.rollup(reading.plan), reading.plan).to_json() == reading.to_json()
