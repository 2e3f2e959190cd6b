"""The verdict errs as seldom as promised, and finds what it was planned to find: small simulations of the benchmark's kind."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offline_eval.abtest import ExperimentPlan, History, Metric, Moments, Phase, Rollup, analyse, required_subjects
from offline_eval.abtest.split_check import ALPHA, log_bayes_factor

pytestmark = pytest.mark.slow


def first_verdict(
    rng: np.random.Generator, plan: ExperimentPlan, *, lift: float, phases: int
) -> tuple[str, str, float]:
    """Decision, reason and share of subjects at the first verdict, looking 20 times; the base rate drifts over phases."""
    n, parts = plan.planned_subjects, 20
    history = History()
    zero = np.zeros((phases, 2))
    counts, sales, money, squares = zero.copy(), zero.copy(), zero.copy(), zero.copy()
    for i in range(parts):
        p = i * phases // parts
        weight = plan.all_phases[p].weights_bp["B"] / 10_000
        size = n * (i + 1) // parts - n * i // parts
        treated = rng.binomial(size, weight)
        for v, m in enumerate((size - treated, treated)):
            values = rng.gamma(2.0, 5.0, m)
            counts[p, v] += m
            sales[p, v] += rng.binomial(m, 0.1 * (1 + p) + lift * v)
            money[p, v] += values.sum()
            squares[p, v] += (values**2).sum()
        rollup = Rollup(
            {
                "sale": Moments(counts, sales, sales, zero, zero, zero),
                "margin": Moments(counts, money, squares, zero, zero, zero),
            },
            counts.astype(np.int64),
        )
        reading = analyse(rollup, plan, history=history)
        history = History(reading.looks, reading.split.largest_log_bayes_factor)
        if reading.verdict.decision != "keep running":
            return reading.verdict.decision, reading.verdict.reason, (i + 1) / parts
    return "keep running", "", 1.0


def plan_of(n: int, *phases: Phase) -> ExperimentPlan:
    """A proportion that decides and a margin that guards."""
    metrics = (Metric("sale", "proportion", "primary"), Metric("margin", "mean", "guardrail"))
    return ExperimentPlan("t", "A", ("A", "B"), metrics, planned_subjects=n, effect=0.02, phases=phases)


@pytest.mark.parametrize(
    "phases", [(), (Phase("1", {"A": 8000, "B": 2000}), Phase("2", {"A": 4000, "B": 6000}))], ids=["one", "two"]
)
def test_a_a_finds_few_winners_however_often_one_looks(phases: tuple[Phase, ...]) -> None:
    """In 250 A/A experiments looked at 20 times, false verdicts stay within 5 % and three standard errors."""
    plan = plan_of(4000, *phases)
    found = [
        first_verdict(np.random.default_rng([3, i]), plan, lift=0.0, phases=max(1, len(phases))) for i in range(250)
    ]
    false = sum(
        decision == "ship" or (decision == "stop" and reason != "no_difference") for decision, reason, _ in found
    )
    assert false / 250 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 250)
    assert sum(decision == "broken" for decision, _, _ in found) <= 250 * ALPHA + 3 * math.sqrt(250 * ALPHA)


def test_power_is_the_planned_one_on_fewer_subjects() -> None:
    """At the fixed-sample test's 90 % effect and size, 250 experiments ship in 87 % within error, on at most 85 % of the sample."""
    n = required_subjects(standard_deviation=math.sqrt(0.12 * 0.88), effect=0.04, power=0.9)
    found = [first_verdict(np.random.default_rng([4, i]), plan_of(n), lift=0.04, phases=1) for i in range(250)]
    shipped = sum(decision == "ship" for decision, _, _ in found) / 250
    assert shipped >= 0.87 - 3 * math.sqrt(0.87 * 0.13 / 250)
    assert float(np.mean([share for _, _, share in found])) <= 0.85


def test_split_alarm_is_rare_and_quick() -> None:
    """Hourly for 14 days at 60 subjects an hour: a 52/48 split is caught, a true one is left alone, within three standard errors."""
    rng = np.random.default_rng(6)
    limit, n_runs = -math.log(ALPHA), 300

    def fired(share: float) -> float:
        first = rng.binomial(60, share, (n_runs, 336)).cumsum(axis=1)
        total = 60 * np.arange(1, 337)
        paths = np.stack([first, total - first], axis=-1)
        return float(np.mean(log_bayes_factor(paths, [0.5, 0.5]).max(axis=1) >= limit))

    assert fired(0.52) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / n_runs)
    assert fired(0.50) <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / n_runs)
