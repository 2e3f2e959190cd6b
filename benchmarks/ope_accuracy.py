"""Off-policy evaluation: whether intervals cover, and whether the verdict refuses where they do not.

Coverage: worlds are formulas (contexts, a logging policy and a candidate of chosen overlap, rewards of known mean); each
repetition draws a new log. Intervals are counted where the verdict allows the estimate, and refusals beside them. A regime
that is refused in more than half of the repetitions is refused: its few allowed logs are a chosen sample and judge nothing.

Flags: logs of the simulator, overlap x quality of the reward model x support, and formulas for what the simulator has no
regime for. Thresholds of the verdict were fixed before these regimes were written; regimes are named good or bad by how they
are made, never by how they came out. Use a seed that nobody has looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from benchmarks._figures import Figure, finish, parser
from offline_eval import Panel, evaluate
from offline_eval.lower_bounds import lower_bounds
from policies.errors import InvalidInputError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference

JUDGED = ("SNIPS", "DR", "SNDR")


@dataclass(frozen=True)
class Regime:
    """How a log is made.

    Parameters
    ----------
    sharpness
        How much the logging policy prefers what the candidate avoids: 0 is uniform.
    floor
        Share of uniform exploration of the logging policy.
    n, k
        Rows and offers.
    rate
        Log-odds of a reward at the middle.
    hidden
        Whether an offer that the candidate would show is never logged.
    lies
        Whether the logged propensities are not what was drawn from.
    is_bad
        Whether an estimate from such a log must be refused.
    """

    name: str
    sharpness: float
    floor: float
    n: int = 4000
    k: int = 4
    rate: float = -1.0
    hidden: bool = False
    lies: bool = False
    is_bad: bool = False


COVERAGE = (
    Regime("as the log", -1.2, 0.25),
    Regime("near the log", 0.2, 0.3),
    Regime("some overlap", 1.0, 0.3),
    Regime("little overlap", 2.0, 0.2),
    Regime("less overlap", 2.5, 0.1),
    Regime("heavy weights", 3.0, 0.05),
    Regime("heavier weights", 3.5, 0.03),
    Regime("very heavy weights", 4.0, 0.01),
)
FORMULAS = (
    Regime("rare reward, many rows", 0.5, 0.5, n=20_000, rate=-3.5),
    Regime("propensities that lie", 1.0, 0.3, lies=True, is_bad=True),
    Regime("few rows", 1.0, 0.3, n=60, is_bad=True),
    Regime("hardly any reward", 0.5, 0.3, n=2000, rate=-6.5, is_bad=True),
)


def draw(regime: Regime, rng: np.random.Generator) -> tuple[InteractionBatch, FloatArray, float]:
    """A log, a candidate, and the candidate's true value over the population of contexts."""
    n, k = regime.n, regime.k
    slope = np.linspace(1.0, -1.0, k)

    def parts(x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        scores = np.outer(x, slope)
        logged = (1 - regime.floor) * _softmax(-regime.sharpness * scores) + regime.floor / k
        target = 0.9 * _softmax(2.0 * scores) + 0.1 / k
        q = 1 / (1 + np.exp(-(regime.rate + scores + 0.3 * np.sin(3 * x)[:, None])))
        return logged, target, q

    x = rng.normal(size=n)
    logged, target, q = parts(x)
    if regime.hidden:
        logged[:, 0] = 0.0
        logged /= logged.sum(axis=1, keepdims=True)
    chosen = np.minimum((np.cumsum(logged, axis=1) <= rng.random(n)[:, None]).sum(axis=1), k - 1)
    reward = (rng.random(n) < q[np.arange(n), chosen]).astype(np.float64)
    told = np.roll(logged, 1, axis=1) if regime.lies else logged
    offers = OfferSet([Offer(OfferId(str(j))) for j in range(k)])
    table = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), columns={"x": x})
    log = InteractionBatch(table, chosen, told[np.arange(n), chosen], reward, probabilities=told)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    _, at_nodes, q_nodes = parts(nodes)
    truth = float(weights @ (at_nodes * q_nodes).sum(axis=1) / weights.sum())
    return log, target, truth


def _softmax(scores: FloatArray) -> FloatArray:
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def coverage(n_repetitions: int, *, seed: int, can_judge: bool) -> list[Figure]:
    """Share of nominal 95 % intervals that hold the truth, where the checks of the candidate allow the estimate."""
    figures = []
    for r, regime in enumerate(COVERAGE):
        held = dict.fromkeys(JUDGED, 0)
        all_held = dict.fromkeys(JUDGED, 0)
        allowed, effective = 0, []
        for repetition in range(n_repetitions):
            log, target, truth = draw(regime, np.random.default_rng([seed, r, repetition]))
            panel = evaluate(log, {"c": target}, n_resamples=0, seed=repetition)
            effective.append(panel.effective_rows["c"] / regime.n)
            is_allowed = panel.verdicts["c"].word != "this log cannot answer"
            allowed += is_allowed
            for name in JUDGED:
                bounds = panel.estimate("c", name).bounds
                inside = bounds is not None and bounds.low <= truth <= bounds.high
                all_held[name] += inside
                held[name] += inside and is_allowed
        about = f"{regime.name}, ESS/n {np.median(effective):.3f}"
        figures.append(Figure(f"allowed ({about})", "share", allowed / n_repetitions))
        # A regime that is mostly refused says nothing of intervals: what is left is a chosen few.
        is_used = allowed >= 0.5 * n_repetitions
        for name in JUDGED:
            share = held[name] / allowed if is_used else all_held[name] / n_repetitions
            error = float(np.sqrt(0.05 * 0.95 / max(allowed, 1)))
            figures += _judged(
                f"coverage of {name} ({about})",
                share,
                is_used=is_used,
                runs=allowed if is_used else n_repetitions,
                can_judge=can_judge,
                note=f"standard error {error:.4f}" if is_used else "refused; over all repetitions, judged by nothing",
            )
    return figures


def _judged(name: str, share: float, *, is_used: bool, runs: int, can_judge: bool, note: str) -> list[Figure]:
    """A share with its lower rule and, since a figure has one rule, how far it is above the upper one."""
    must, above = (">= 0.93", "<= 0.97") if is_used else ("", "")
    return [
        Figure(name, "share", share, must=must, runs=runs, can_judge=can_judge, note=note),
        Figure(f"{name}, from above", "share", share, must=above, runs=runs, can_judge=can_judge),
    ]


def bounds(n_repetitions: int, *, seed: int, can_judge: bool) -> list[Figure]:
    """One-sided bounds and the confidence sequence at all times at once; and logs that break what they assume."""
    figures = []
    floor = 0.95 - 2 * float(np.sqrt(0.05 * 0.95 / n_repetitions))
    for r, regime in enumerate((COVERAGE[0], COVERAGE[2], COVERAGE[-1], HIDDEN)):
        found = dict.fromkeys(("Hoeffding bound", "empirical Bernstein bound", "lower confidence sequence"), 0)
        for repetition in range(n_repetitions):
            log, target, truth = draw(regime, np.random.default_rng([seed, 77 + r, repetition]))
            told = lower_bounds(log, target, reward_range=(0.0, 1.0), weight_cap=20.0)
            ends = (told.hoeffding, told.empirical_bernstein, float(told.sequence.max()))
            for name, end in zip(found, ends, strict=True):
                found[name] += end <= truth
        figures += [
            Figure(f"{name} holds ({regime.name})", "share", hits / n_repetitions, must=f">= {floor:.4f}", runs=n_repetitions, can_judge=can_judge)
            for name, hits in found.items()
        ]  # fmt: skip
    return [
        *figures,
        Figure("bounds refused where rows or rewards break what they assume", "share", _refused(seed), must=">= 1"),
    ]


HIDDEN = Regime("an offer never logged", 0.5, 0.3, hidden=True)


def _refused(seed: int) -> float:
    """Share of broken assumptions that are named instead of bounded."""
    log, target, _ = draw(COVERAGE[2], np.random.default_rng([seed, 99]))
    several = replace(log, table=replace(log.table, subjects=(np.arange(len(log)) // 2).astype(np.str_)))
    broken = ((several, (0.0, 1.0), 20.0), (log, (0.0, 0.5), 20.0), (log, (0.0, 1.0), 0.0), (log, (1.0, 0.0), 20.0))
    refused = 0
    for wrong, reward_range, cap in broken:
        try:
            lower_bounds(wrong, target, reward_range=reward_range, weight_cap=cap)
        except InvalidInputError:
            refused += 1
    return refused / len(broken)


SIMULATED = tuple(
    product(("uniform log", "fair overlap", "hardly any overlap"), ("fitted", "wrong", "none"), (True, False))
)


@dataclass(frozen=True)
class Scored:
    """Prefers the searched class, and discounts for those who like them; or, where the slope is negative, avoids them.

    Parameters
    ----------
    slope
        How strongly.
    floor
        Share of uniform exploration over eligible offers.
    hidden
        Offer that is never shown.
    """

    slope: float
    floor: float
    hidden: str = ""
    name: str = "scored"
    traits: PolicyTraits = field(default_factory=PolicyTraits)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Softmax of the scores over eligible offers, mixed with the uniform one."""
        searched, deal = table.columns["searched_class"], np.nan_to_num(table.columns["deal_share"], nan=0.3)
        scores = np.stack(
            [
                1.5 * (searched == o.id.split("_")[0]) + (3.0 * (deal - 0.3) if o.id.endswith("deal") else 0.0)
                for o in table.offers
            ],
            axis=1,
        )
        allowed = table.eligible & (np.asarray(table.offers.ids) != self.hidden)
        e = np.exp(self.slope * scores) * allowed
        p = (1 - self.floor) * e / e.sum(axis=1, keepdims=True)
        return np.asarray(p + self.floor * allowed / allowed.sum(axis=1, keepdims=True))


def simulated(overlap: str, model: str, is_supported: bool, *, seed: int) -> Panel:
    """The panel of one simulated log of first visits; the reward is a click."""
    hidden = "" if is_supported else "city_deal"
    logger = {
        "uniform log": Scored(0.0, 1.0, hidden),
        "fair overlap": Scored(-0.5, 0.3, hidden),
        "hardly any overlap": Scored(-8.0, 0.003, hidden),
    }[overlap]
    run = rollout(
        reference(),
        logger,
        n_subjects=6000,
        visit_days=7,
        follow_days=0,
        seed=seed,
        first_subject=seed,
        explore_share=0.0,
    )
    log = run.interactions("clicked").take(np.unique(run.row, return_index=True)[1])
    candidate = {"c": Scored(2.0, 0.1)}
    if model == "fitted":
        return evaluate(log, candidate, n_resamples=0, seed=seed)
    wrong = np.full(log.table.eligible.shape, 1.0 - log.reward.mean()) if model == "wrong" else None
    return evaluate(log, candidate, n_resamples=0, reward_model=wrong, fit_reward=None)


def flags(n_repetitions: int, *, seed: int, can_judge: bool) -> list[Figure]:
    """Share of logs on which the verdict is "this log cannot answer"."""
    figures: list[Figure] = []
    flagged: dict[bool, list[int]] = {True: [], False: []}

    def told(name: str, is_bad: bool, panels: Iterable[Panel]) -> None:
        hits = [p.verdicts["c"].word == "this log cannot answer" for p in panels]
        flagged[is_bad] += hits
        kind = "bad" if is_bad else "good"
        figures.append(Figure(f"flagged ({kind}: {name})", "share", float(np.mean(hits)), runs=n_repetitions))

    for r, (overlap, model, is_supported) in enumerate(SIMULATED):
        is_bad = overlap == "hardly any overlap" or not is_supported
        name = f"{overlap}, model {model}, {'all offers' if is_supported else 'an offer never'} logged, in simulation"
        seeds = range(100_000 * seed + 1000 * r, 100_000 * seed + 1000 * r + n_repetitions)
        told(name, is_bad, (simulated(overlap, model, is_supported, seed=s) for s in seeds))
    for r, regime in enumerate(FORMULAS):
        logs = (draw(regime, np.random.default_rng([seed, 500 + r, i])) for i in range(n_repetitions))
        told(regime.name, regime.is_bad, (evaluate(log, {"c": target}, n_resamples=0) for log, target, _ in logs))
    for is_bad, must in ((True, ">= 0.95"), (False, "<= 0.05")):
        hits = flagged[is_bad]
        name = f"flagged {'bad' if is_bad else 'good'} logs"
        figures.append(Figure(name, "share", float(np.mean(hits)), must=must, runs=len(hits), can_judge=can_judge))
    return figures


def main() -> int:
    """Run all of it."""
    options = parser(__doc__).parse_args()
    n = 40 if options.quick else 1000
    figures = coverage(n, seed=options.seed, can_judge=not options.quick)
    figures += bounds(n, seed=options.seed, can_judge=not options.quick)
    figures += flags(5 if options.quick else 50, seed=options.seed, can_judge=not options.quick)
    return finish("ope-accuracy", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
