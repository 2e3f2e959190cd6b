"""Experiment statistics under the null and under an effect: error and power of the verdict.

Every run goes through ``offline_eval.abtest.analyse`` from sums, as the results page does, at 20 moments of an experiment that
plans five looks. Beside it, on the same data, what people do by hand: stop at the first p < 0.05.
Runs are made in blocks by as many processes as there are cores; with ``--keep DIR`` a run that was cut off goes on where it was.
"""

from __future__ import annotations

import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtri

from benchmarks._figures import Figure, finish, parser
from benchmarks._kept import Kept
from offline_eval.abtest import (
    ExperimentPlan,
    ExperimentReading,
    History,
    Metric,
    Moments,
    Phase,
    Rollup,
    analyse,
    required_subjects,
)
from offline_eval.abtest.effects import compare, wilson
from offline_eval.abtest.records import FloatArray, IntArray
from offline_eval.abtest.split_check import ALPHA, log_bayes_factor
from policies.allocation import Allocator, Split, Trial, Variant, bucket

N_MOMENTS = 20
N_EXPERIMENTS = 50
BASE_RATE = 0.10
BLOCK = 100

SALE = Metric("sale", "proportion", "primary", noun="subscriptions")
PER_DECISION = Metric(
    "sale", "ratio", "primary", numerator="sales", denominator="decisions", noun="subscriptions per decision"
)
MARGIN = Metric("margin", "mean", "guardrail")
TIME = Metric("time", "mean", "secondary")
ONE_PHASE = (Phase("1", {"A": 5000, "B": 5000}),)
TWO_PHASES = (Phase("1", {"A": 8000, "B": 2000}), Phase("2", {"A": 4000, "B": 6000}))


@dataclass(frozen=True, slots=True)
class Scenario:
    """How subjects come and behave.

    Parameters
    ----------
    drift
        How many times as likely a sale is at the end as at the start.
    decisions
        Mean number of decisions a subject; 1 for exactly one.
    """

    phases: tuple[Phase, ...] = ONE_PHASE
    drift: float = 1.0
    decisions: float = 1.0
    lift: float = 0.0
    n_subjects: int = 10_000
    n_looks: int = 5

    @property
    def plan(self) -> ExperimentPlan:
        """Primary metric, margin as guardrail, one secondary."""
        primary = SALE if self.decisions == 1 else PER_DECISION
        return ExperimentPlan(
            "benchmark",
            "A",
            ("A", "B"),
            (primary, MARGIN, TIME),
            planned_subjects=self.n_subjects,
            effect=0.01,
            phases=self.phases,
            n_looks=self.n_looks,
        )


class Run(NamedTuple):
    """What one simulated experiment came to.

    Parameters
    ----------
    decision, reason, stopped_at
        Of the first verdict that is not *keep running*, and the share of the planned subjects by then.
    naive
        Whether any of the 20 looks had p < 0.05 on the primary metric.
    fixed
        Whether the single test at the planned end had.
    sequence_missed
        Whether the secondary metric's sequence ever excluded the truth.
    """

    decision: str
    reason: str
    stopped_at: float
    naive: bool
    fixed: bool
    sequence_missed: bool

    @property
    def is_error(self) -> bool:
        """A verdict that claims a difference: ship, or stop for harm."""
        return self.decision == "ship" or (self.decision == "stop" and self.reason != "no_difference")


Repeat = Callable[[Scenario, int, int], list[Run]]


def rollups(scenario: Scenario, rng: np.random.Generator) -> Iterator[Rollup]:
    """Sums after each twentieth of the subjects."""
    n, phases = scenario.n_subjects, scenario.phases
    at = np.arange(n) / n
    phase = np.minimum((at * len(phases)).astype(np.int64), len(phases) - 1)
    share_b = np.array([p.weights_bp["B"] / 10_000 for p in phases])[phase]
    variant = (rng.random(n) < share_b).astype(np.int64)
    rate = BASE_RATE * (1 + (scenario.drift - 1) * at) + scenario.lift * variant
    if scenario.decisions == 1:
        decisions = np.ones(n, dtype=np.float64)
        sales = (rng.random(n) < rate).astype(np.float64)
    else:
        # Subjects differ in how often they come and in how readily they buy: decisions of one subject go together.
        decisions = (1 + rng.poisson(scenario.decisions - 1, n)).astype(np.float64)
        ready = rng.beta(rate * 3, (1 - rate) * 3)
        sales = rng.binomial(decisions.astype(np.int64), ready).astype(np.float64)
    margin = sales * rng.gamma(2.0, 10.0, n)
    spent = rng.lognormal(0.0, 1.0, n)
    moment = np.minimum((at * N_MOMENTS).astype(np.int64), N_MOMENTS - 1)
    cell = (moment * len(phases) + phase) * 2 + variant
    size = N_MOMENTS * len(phases) * 2
    shape = (N_MOMENTS, len(phases), 2)

    def sums(weights: FloatArray) -> FloatArray:
        return np.asarray(np.bincount(cell, weights, minlength=size).reshape(shape).cumsum(axis=0), dtype=np.float64)

    def moments(y: FloatArray, x: FloatArray) -> list[Moments]:
        parts = [sums(v) for v in (np.ones(n), y, y * y, x, x * x, x * y)]
        return [Moments(*(p[i] for p in parts)) for i in range(N_MOMENTS)]

    zero = np.zeros(n)
    primary = moments(sales, zero if scenario.decisions == 1 else decisions)
    for one, two, three in zip(primary, moments(margin, zero), moments(spent, zero), strict=True):
        yield Rollup({"sale": one, "margin": two, "time": three}, one.n.astype(np.int64))


def run_once(scenario: Scenario, rng: np.random.Generator) -> Run:
    """One experiment looked at 20 times; it ends at its first verdict, but the naive reader sees all of it."""
    plan = scenario.plan
    history = History()
    ended: ExperimentReading | None = None
    stopped_at, naive, fixed, missed = 1.0, False, False, False
    for i, rollup in enumerate(rollups(scenario, rng)):
        if ended is not None:
            single = compare(rollup.moments["sale"], plan.primary, treatment=1, control=0)
            fixed = single.p_value < plan.alpha
            naive |= fixed
            continue
        reading = analyse(rollup, plan, history=history)
        fixed = reading.of("sale").effect.p_value < plan.alpha
        naive |= fixed
        history = History(reading.looks, reading.split.largest_log_bayes_factor)
        missed |= reading.of("time").always.excludes(0.0)
        if reading.verdict.decision != "keep running":
            ended, stopped_at = reading, (i + 1) / N_MOMENTS
    decision = ("keep running", "") if ended is None else (ended.verdict.decision, ended.verdict.reason)
    return Run(*decision, stopped_at, naive, fixed, missed)


def block(scenario: Scenario, seed: int, first: int, n: int) -> list[Run]:
    """Some of the runs of a seed; each is the same whichever block it is in."""
    return [run_once(scenario, np.random.default_rng([seed, i])) for i in range(first, first + n)]


def repeat(scenario: Scenario, n_runs: int, seed: int, kept: Kept, pool: ProcessPoolExecutor) -> list[Run]:
    """Independent runs from one seed, in the order of their numbers."""
    names = {first: f"{scenario} seed {seed} from {first}" for first in range(0, n_runs, BLOCK)}
    sizes = {first: min(BLOCK, n_runs - first) for first in names}
    missing = [f for f, name in names.items() if len(kept.get(name) or ()) != sizes[f]]
    waiting = {pool.submit(block, scenario, seed, f, sizes[f]): f for f in missing}
    for done in as_completed(waiting):
        kept.put(names[waiting[done]], done.result())
    return [Run(*row) for name in names.values() for row in kept.get(name)]


def false_verdicts(n_runs: int, seed: int, repeated: Repeat, *, can_judge: bool) -> list[Figure]:
    """A/A in four forms."""
    limit = 0.05 + 3 * math.sqrt(0.05 * 0.95 / n_runs)
    scenarios = {
        "aa_false_verdicts": Scenario(),
        "aa_false_verdicts_20_planned_looks": Scenario(n_looks=20),
        "aa_false_verdicts_two_phases_drifting": Scenario(phases=TWO_PHASES, drift=2.0),
        "aa_false_verdicts_several_decisions": Scenario(decisions=4.0),
        "aa_false_verdicts_phases_and_decisions": Scenario(phases=TWO_PHASES, drift=2.0, decisions=4.0),
    }
    figures = []
    for i, (name, scenario) in enumerate(scenarios.items()):
        runs = repeated(scenario, n_runs, seed + i)
        rate, naive = _share(runs, lambda r: r.is_error), _share(runs, lambda r: r.naive)
        figures.append(
            Figure(
                name,
                "share of runs",
                rate,
                must=f"<= {limit:.4f}",
                baseline=("stop at p < 0.05", naive),
                can_judge=can_judge,
                runs=n_runs,
                spread=wilson(rate * n_runs, n_runs),
            )
        )
        if i == 0:
            missed = _share(runs, lambda r: r.sequence_missed)
            figures.append(
                Figure(
                    "aa_sequence_ever_excludes_truth",
                    "share of runs",
                    missed,
                    must=f"<= {limit:.4f}",
                    can_judge=can_judge,
                    runs=n_runs,
                    spread=wilson(missed * n_runs, n_runs),
                )
            )
            broken = _share(runs, lambda r: r.decision == "broken")
            figures.append(
                Figure(
                    "aa_broken",
                    "share of runs",
                    broken,
                    must="<= 0.01",
                    can_judge=can_judge,
                    runs=n_runs,
                    spread=wilson(broken * n_runs, n_runs),
                )
            )
    return figures


def power(n_runs: int, seed: int, repeated: Repeat, *, can_judge: bool) -> list[Figure]:
    """The effect that the fixed-sample test finds with 90 %, with that test's sample as the planned end."""
    lift = 0.02
    average = BASE_RATE + lift / 2
    n = required_subjects(standard_deviation=math.sqrt(average * (1 - average)), effect=lift, power=0.9)
    runs = repeated(replace(Scenario(), lift=lift, n_subjects=n), n_runs, seed)
    ours, fixed = _share(runs, lambda r: r.decision == "ship"), _share(runs, lambda r: r.fixed)
    # The same runs decide both, so the loss is judged by its own spread.
    loss = np.array([float(r.fixed) - float(r.decision == "ship") for r in runs])
    half = float(ndtri(0.975)) * float(loss.std(ddof=1)) / math.sqrt(n_runs)
    mean = float(loss.mean())
    sample = np.array([r.stopped_at for r in runs])
    half_sample = float(ndtri(0.975)) * float(sample.std(ddof=1)) / math.sqrt(n_runs)
    return [
        Figure(
            "power",
            "share of runs",
            ours,
            baseline=("fixed-sample test", fixed),
            runs=n_runs,
            spread=wilson(ours * n_runs, n_runs),
        ),
        Figure(
            "power_lost",
            "points",
            mean * 100,
            must="<= 3",
            can_judge=can_judge,
            runs=n_runs,
            spread=((mean - half) * 100, (mean + half) * 100),
        ),
        Figure(
            "mean_sample_at_90_percent_power",
            "share of the fixed sample",
            float(sample.mean()),
            must="<= 0.80",
            baseline=("fixed-sample test", 1.0),
            can_judge=can_judge,
            runs=n_runs,
            spread=(float(sample.mean()) - half_sample, float(sample.mean()) + half_sample),
            note="An experiment that ends without a difference ends at the planned sample.",
        ),
    ]


def split_checks(n_runs: int, seed: int, *, can_judge: bool) -> list[Figure]:
    """60 subjects an hour, read every hour for 14 days, in a true and in a 52/48 split."""
    rng = np.random.default_rng(seed)
    n_hours = 14 * 24

    def paths(share: float) -> IntArray:
        arrivals = rng.poisson(60, (n_runs, n_hours))
        first = rng.binomial(arrivals, share)
        return np.stack([first.cumsum(axis=1), (arrivals - first).cumsum(axis=1)], axis=-1)

    def fired(counts: IntArray) -> float:
        return float(np.mean(log_bayes_factor(counts, [0.5, 0.5]).max(axis=1) >= -math.log(ALPHA)))

    def chi_square(counts: IntArray) -> float:
        n = counts.sum(axis=-1)
        z = np.abs(counts[..., 0] - counts[..., 1]) / np.sqrt(np.maximum(n, 1))
        return float(np.mean((z > ndtri(1 - 0.0005)).any(axis=1)))

    wrong, right = paths(0.52), paths(0.50)
    caught, alarms = fired(wrong), fired(right)
    return [
        Figure(
            "split_52_48_caught_in_14_days", "share of runs", caught, must=">= 0.95", baseline=("chi-square at 0.001, hourly", chi_square(wrong)),
            can_judge=can_judge, runs=n_runs, spread=wilson(caught * n_runs, n_runs),
        ),
        Figure(
            "true_split_silent_over_336_looks", "share of runs", 1 - alarms, must=">= 0.99",
            baseline=("chi-square at 0.001, hourly", 1 - chi_square(right)),
            can_judge=can_judge, runs=n_runs, spread=wilson((1 - alarms) * n_runs, n_runs),
        ),
    ]  # fmt: skip


def analysis_time(seed: int) -> list[Figure]:
    """Milliseconds of one reading from sums, at a look that has been seen before (a page that is opened again)."""
    scenario = Scenario(phases=TWO_PHASES)
    last = list(rollups(scenario, np.random.default_rng(seed)))[-1]
    times = []
    for _ in range(60):
        started = time.perf_counter()
        analyse(last, scenario.plan)
        times.append((time.perf_counter() - started) * 1e3)
    return [
        Figure(
            "reading_from_sums", "ms", float(np.median(times)), aim="<= 50", runs=len(times),
            spread=(float(np.quantile(times, 0.1)), float(np.quantile(times, 0.9))),
        )
    ]  # fmt: skip


def allocation(seed: int) -> list[Figure]:
    """Microseconds to find a subject's variants in 50 experiments, half of them in layers: first time, and known."""
    rng = np.random.default_rng(seed)
    variants = (Variant("A", 5_000, "p"), Variant("B", 5_000, "p"))
    trials = [
        Trial(Split(f"experiment-{i}", variants), f"layer-{i // 5}" if i % 2 else "") for i in range(N_EXPERIMENTS)
    ]
    allocator = Allocator(trials, holdout_bp=500, memory=10_000)
    ids = [str(uuid.UUID(bytes=rng.bytes(16))) for _ in range(2_000)]
    first: list[float] = []
    known: list[float] = []
    plain: list[float] = []
    for part in range(0, len(ids), 100):
        chosen = ids[part : part + 100]
        for times, n in ((first, N_EXPERIMENTS), (known, 1)):
            started = time.process_time()
            for subject in chosen:
                allocator.positions(subject)
            times.append((time.process_time() - started) / len(chosen) / n * 1e6)
        started = time.process_time()
        for subject in chosen:
            bucket("experiment-1", subject)
        plain.append((time.process_time() - started) / len(chosen) * 1e6)
    return [
        Figure(
            "allocation_first", "us per experiment", float(np.median(first)), must="<= 6", runs=len(first),
            baseline=("hashing the whole text", float(np.median(plain))), spread=(min(first), max(first)),
        ),
        Figure(
            "allocation_known_in_50_experiments", "us", float(np.median(known)), must="<= 20", runs=len(known),
            spread=(min(known), max(known)),
        ),
    ]  # fmt: skip


def _share(runs: list[Run], is_so: Callable[[Run], bool]) -> float:
    return sum(map(is_so, runs)) / len(runs)


def main() -> int:
    """Run all of it."""
    made = parser(__doc__)
    made.add_argument("--keep", type=Path, help="folder of what earlier runs of the same code have done")
    options = made.parse_args()
    quick = options.quick
    n_runs, n_split = (60, 300) if quick else (4000, 4000)
    kept = Kept(None if options.keep is None else options.keep / "runs.jsonl")
    n_processes = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    started = time.monotonic()
    figures = []
    with ProcessPoolExecutor(n_processes, get_context("spawn")) as pool:

        def repeated(scenario: Scenario, n: int, seed: int) -> list[Run]:
            return repeat(scenario, n, seed, kept, pool)

        parts: list[Callable[[], list[Figure]]] = [
            lambda: split_checks(n_split, options.seed + 100, can_judge=not quick),
            lambda: power(n_runs, options.seed + 200, repeated, can_judge=not quick),
            lambda: false_verdicts(n_runs, options.seed, repeated, can_judge=not quick),
            lambda: analysis_time(options.seed),
            lambda: allocation(options.seed),
        ]
        for part in parts:
            figures += part()
            print(f"{time.monotonic() - started:6.0f} s: {figures[-1].name}", file=sys.stderr)
    return finish("ab", figures, quick=quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
