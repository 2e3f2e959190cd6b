"""Off-policy evaluation: whether intervals cover, and whether the verdict refuses where they do not.

Coverage: worlds are formulas (contexts, a logging policy and a candidate of chosen overlap, rewards of known mean); each
repetition draws a new log and fits its reward model on it, across folds. Intervals are counted where the verdict allows the
estimate, and refusals beside them. A regime that is refused in more than half of the repetitions is refused: its few allowed logs
are a chosen sample and judge nothing.

Bounds: one-sided bounds at the end and the lower confidence sequence at every row; looks: the two-sided confidence sequence of DR and
SNDR at each of sixteen looks at a growing log, beside the ordinary interval read in the same way, which is what peeking does to it.

Flags: logs of the simulator, overlap x quality of the reward model x support, and formulas for what the simulator has no
regime for. Thresholds of the verdict were fixed before these regimes were written; regimes are named good or bad by how they
are made, never by how they came out. Use a seed that nobody has looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from benchmarks._figures import Figure, finish, parser
from offline_eval import Panel, evaluate
from offline_eval.any_time import any_time_bounds
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
    visits
        Rows of each subject, who keeps the context and an inclination of their own.
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
    visits: int = 1
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
    Regime("five rows a subject", 0.2, 0.3, n=5000, visits=5),
    Regime("rare reward", 0.2, 0.5, n=10_000, rate=-4.0),
)
FORMULAS = (
    Regime("rare reward, many rows", 0.5, 0.5, n=20_000, rate=-3.5),
    Regime("propensities that lie", 1.0, 0.3, lies=True, is_bad=True),
    Regime("few rows", 1.0, 0.3, n=60, is_bad=True),
    Regime("hardly any reward", 0.5, 0.3, n=2000, rate=-6.5, is_bad=True),
)


def _named(*names: str) -> tuple[Regime, ...]:
    return tuple(next(r for r in COVERAGE if r.name == name) for name in names)


def draw(regime: Regime, rng: np.random.Generator) -> tuple[InteractionBatch, FloatArray, float]:
    """A log, a candidate, and the candidate's true value over the population of contexts."""
    n, k = regime.n, regime.k
    slope = np.linspace(1.0, -1.0, k)
    inclination = 0.0 if regime.visits == 1 else 1.0

    def parts(x: FloatArray, own: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        scores = np.outer(x, slope)
        logged = (1 - regime.floor) * _softmax(-regime.sharpness * scores) + regime.floor / k
        target = 0.9 * _softmax(2.0 * scores) + 0.1 / k
        q = 1 / (1 + np.exp(-(regime.rate + scores + (0.3 * np.sin(3 * x) + inclination * own)[:, None])))
        return logged, target, q

    subject = np.arange(n) // regime.visits
    x = rng.normal(size=subject[-1] + 1)[subject]
    own = rng.normal(size=subject[-1] + 1)[subject] if inclination else np.zeros(n)
    logged, target, q = parts(x, own)
    if regime.hidden:
        logged[:, 0] = 0.0
        logged /= logged.sum(axis=1, keepdims=True)
    chosen = np.minimum((np.cumsum(logged, axis=1) <= rng.random(n)[:, None]).sum(axis=1), k - 1)
    reward = (rng.random(n) < q[np.arange(n), chosen]).astype(np.float64)
    told = np.roll(logged, 1, axis=1) if regime.lies else logged
    offers = OfferSet([Offer(OfferId(str(j))) for j in range(k)])
    subjects = subject.astype(np.str_) if regime.visits > 1 else None
    table = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), columns={"x": x}, subjects=subjects)
    log = InteractionBatch(table, chosen, told[np.arange(n), chosen], reward, probabilities=told)
    return log, target, _truth(parts, with_inclination=bool(inclination))


def _truth(
    parts: Callable[[FloatArray, FloatArray], tuple[FloatArray, FloatArray, FloatArray]], *, with_inclination: bool
) -> float:
    """The candidate's mean reward over normal contexts and inclinations, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    others, their_weights = np.polynomial.hermite_e.hermegauss(40) if with_inclination else (np.zeros(1), np.ones(1))
    _, target, q = parts(np.repeat(nodes, len(others)), np.tile(others, len(nodes)))
    both = np.outer(weights, their_weights).ravel()
    return float(both @ (target * q).sum(axis=1) / both.sum())


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
    for r, regime in enumerate(
        (*_named("as the log", "some overlap", "very heavy weights"), HIDDEN, *_named("rare reward"))
    ):
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


def looks(n_repetitions: int, *, seed: int, can_judge: bool) -> list[Figure]:
    """Two-sided confidence sequences read at every look, and ordinary intervals read in the same way."""
    figures = []
    floor = 0.95 - 2 * float(np.sqrt(0.05 * 0.95 / n_repetitions))
    for r, regime in enumerate(_named("as the log", "little overlap", "five rows a subject", "very heavy weights")):
        held = {name: [0, 0] for name in ("DR", "SNDR")}
        n_refused, n_looks = 0, 0
        for repetition in range(n_repetitions):
            log, target, truth = draw(regime, np.random.default_rng([seed, 900 + r, repetition]))
            assert log.probabilities is not None
            model = np.full(target.shape, 0.3)  # not a good one: it is fixed, so that only the looks differ
            missed = {name: [False, False] for name in held}
            for n in range(regime.n // N_LOOKS, regime.n + 1, regime.n // N_LOOKS):
                n_looks += 1
                panel = evaluate(log.take(slice(0, n)), {"c": target[:n]}, reward_model=model[:n], n_resamples=0)
                for name, both in missed.items():
                    try:
                        sequence = any_time_bounds(panel, "c", best_at=regime.n, estimator=name)
                    except InvalidInputError:
                        n_refused += name == "DR"
                        continue
                    once = panel.estimate("c", name).bounds
                    assert once is not None
                    both[0] |= not sequence.low <= truth <= sequence.high
                    both[1] |= not once.low <= truth <= once.high
            for name, both in missed.items():
                held[name][0] += not both[0]
                held[name][1] += not both[1]
        refused = n_refused / n_looks
        figures.append(Figure(f"looks at which the confidence sequence is refused ({regime.name})", "share", refused))
        must = f">= {floor:.4f}" if refused < 0.5 else ""  # what is refused is not judged
        for name, (sequence_hits, once_hits) in held.items():
            figures += [
                Figure(f"confidence sequence of {name} holds at all looks ({regime.name})", "share", sequence_hits / n_repetitions, must=must, runs=n_repetitions, can_judge=can_judge),
                Figure(f"ordinary interval of {name} holds at all looks ({regime.name})", "share", once_hits / n_repetitions, runs=n_repetitions),
            ]  # fmt: skip
    return figures


N_LOOKS = 16
HIDDEN = Regime("an offer never logged", 0.5, 0.3, hidden=True)


def _refused(seed: int) -> float:
    """Share of broken assumptions that are named instead of bounded."""
    log, target, _ = draw(_named("some overlap")[0], np.random.default_rng([seed, 99]))
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


PARTS = ("coverage", "bounds", "looks", "flags")


def main() -> int:
    """Run all of it, or parts."""
    made = parser(__doc__)
    made.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run")
    options = made.parse_args()
    judged = {"seed": options.seed, "can_judge": not options.quick}
    n = 40 if options.quick else 1000
    figures: list[Figure] = []
    for part in options.parts:
        if part == "coverage":
            figures += coverage(n, **judged)
        elif part == "bounds":
            figures += bounds(n, **judged)
        elif part == "looks":
            figures += looks(10 if options.quick else 500, **judged)
        else:
            figures += flags(5 if options.quick else 50, **judged)
    return finish("ope-accuracy", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
