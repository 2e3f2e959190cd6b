"""The questions of the gate, each a function from what was measured to a part with its reasons."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.gate.records import Limits, Part
from engine.models.metrics import calibration_floor, calibration_line, expected_calibration_error, with_interval
from offline_eval.panel import Panel
from policies.contract import ContractError, check_policy
from policies.errors import NextofferError
from policies.greedy import RewardModelPolicy
from policies.protocols import Policy
from policies.records import DecisionTable, FloatArray, InteractionBatch
from policies.sampling import decide_one

_N_TIMED = 300
_CONTRACT_ROWS = 64
_N_DRAWS = 20_000
_MIN_POSITIVES = 50


def contract_part(policy: Policy, table: DecisionTable, *, seed: int = 0) -> Part:
    """The contract that every policy has to keep, on decisions of this placement's own log."""
    name = "contract"
    k = table.n_offers
    if len(table) < 2 or k < 3:
        return Part(
            name, "open", (f"The log has {len(table)} decisions among {k} offers: too few to run the contract.",)
        )
    rows = min(len(table), _CONTRACT_ROWS)
    if rows == k:
        rows -= 1  # a square table hides a wrong axis
    part = table.take(np.linspace(0, len(table) - 1, max(rows, 2)).astype(np.int64))
    try:
        check_policy(policy, part, seed=seed, n_draws=_N_DRAWS)
    except ContractError as error:
        return Part(name, "refuse", (f"It breaks a rule of every policy: {error}.",))
    except (NextofferError, ValueError, KeyError, IndexError, TypeError) as error:
        return Part(name, "refuse", (f"It fails on decisions of this log: {type(error).__name__}: {error}.",))
    return Part(
        name, "pass", (f"It keeps the contract on {len(part)} decisions of the log.",), {"n_decisions": len(part)}
    )


def latency_part(policy: Policy, table: DecisionTable, *, limits: Limits) -> Part:
    """Processor time of single decisions, in the form that a server asks them.

    Processor time, because a machine that trains is a busy one: time on the wall would judge its neighbours.
    """
    rows = np.linspace(0, len(table) - 1, min(len(table), _N_TIMED)).astype(np.int64)
    singles = [table.take(slice(int(i), int(i) + 1)) for i in rows]
    try:
        for one in singles[:20]:
            decide_one(policy, one, uniform=0.5, explore_share=0.05)
        spent = []
        for one in singles:
            start = time.thread_time_ns()
            decide_one(policy, one, uniform=0.5, explore_share=0.05)
            spent.append((time.thread_time_ns() - start) / 1e6)
    except NextofferError as error:
        return Part("latency", "refuse", (f"It could not decide: {error}",))
    p50, p99 = (float(np.quantile(spent, q)) for q in (0.5, 0.99))
    word, than = ("pass", "within") if p99 <= limits.latency_budget_ms else ("refuse", "above")
    # Two digits: a time that differs from run to run would make each judgement a new one.
    told = f"99 of 100 decisions take {p99:.1g} ms of processor time or less, {than} the budget of {limits.latency_budget_ms:g} ms."
    figures = {"budget_ms": limits.latency_budget_ms, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3), "n": len(spent)}
    return Part("latency", word, (told,), figures)  # type: ignore[arg-type]  # one of two words


def calibration_part(policy: Policy, held_out: InteractionBatch, *, limits: Limits, seed: int = 0) -> Part:
    """Whether the reward model behind a policy means what it says, on time that it has not seen.

    A policy compares offers by the level of what it expects: a model that is sure of too much shows the wrong ones. Error beyond what
    perfect probabilities would show on so many rows *and* a slope outside the limits refuse; either alone is told.
    """
    name = "calibration"
    if not isinstance(policy, RewardModelPolicy):
        return Part(name, "open", ("It has no reward model that could be checked.",), is_needed=False)
    expected = policy.model.expected_reward(held_out.table)[np.arange(len(held_out)), held_out.chosen]
    reward = held_out.reward
    if not np.isin(reward, (0.0, 1.0)).all():
        return _level_part(expected, reward)
    n_positive = int(reward.sum())
    if n_positive < _MIN_POSITIVES:
        return Part(name, "open", (f"Held-out time has {n_positive} rewards; it takes {_MIN_POSITIVES} to tell.",))
    probability = np.clip(expected, 1e-6, 1 - 1e-6)
    error = expected_calibration_error(reward, probability)
    floor = calibration_floor(probability, rng=np.random.default_rng(seed), n_resamples=200)
    slope, intercept = calibration_line(reward, probability)
    subjects = held_out.table.subjects
    clusters = np.arange(len(reward)) if subjects is None else subjects
    rng = np.random.default_rng(seed)
    around = with_interval("calibration_slope", reward, probability, clusters, rng=rng, n_resamples=100)
    low, high = around.low, around.high
    # Only a slope that is surely outside counts: few rewards make any slope.
    is_off = high < limits.calibration_slope[0] or low > limits.calibration_slope[1]
    is_noisy = error <= floor.upper
    figures = {
        "expected_calibration_error": error,
        "floor": floor.upper,
        "slope": slope,
        "slope_low": low,
        "slope_high": high,
        "intercept": intercept,
        "n_positive": n_positive,
    }
    told = (
        f"Expected calibration error {error:.4f} where perfect probabilities show up to {floor.upper:.4f}; slope {slope:.2f} "
        f"[{low:.2f}, {high:.2f}]."
    )
    if is_off and not is_noisy:
        return Part(name, "refuse", (f"The reward model is not calibrated on held-out time. {told}",), figures)
    return Part(name, "pass", (told if is_noisy else f"Not perfect, and no ground to refuse. {told}",), figures)


def _level_part(expected: FloatArray, reward: FloatArray) -> Part:
    gap = float((reward - expected).mean())
    error = float((reward - expected).std(ddof=1) / np.sqrt(len(reward)))
    z = gap / error if error > 0 else 0.0
    figures = {"mean_gap": gap, "standard_error": error}
    told = f"Rewards are {gap:+.4g} from what the model expects on average, {abs(z):.1f} standard errors."
    return Part("calibration", "pass" if abs(z) < 5 else "refuse", (told,), figures)


def ope_part(panel: Panel, candidate: str) -> Part:
    """What the log says of the candidate against the incumbent."""
    verdict = panel.verdicts[candidate]
    difference = panel.differences[candidate][panel.headline]
    figures = {
        "verdict": verdict.word,
        "estimator": verdict.estimator,
        "rows": panel.n_rows,
        "effective_sample_size": panel.effective_rows[candidate],
        "difference": difference.to_json(),
    }
    word = f"{verdict.word.capitalize()}: "  # as the report has it, beside the gate's own
    reasons = (word + verdict.reasons[0], *verdict.reasons[1:])
    if verdict.word == "recommend":
        return Part("off-policy evaluation", "pass", reasons, figures)
    if verdict.word == "do not use":
        return Part("off-policy evaluation", "refuse", reasons, figures)
    if verdict.word == "caution" and difference.bounds is not None and difference.bounds.low <= 0:
        return Part("off-policy evaluation", "refuse", reasons, figures)  # no gain, and none that matters is likely
    settling = tuple(f"What would settle it: {data}" for data in verdict.would_settle)
    return Part("off-policy evaluation", "open", (*reasons, *settling), figures)


def guardrail_part(name: str, panel: Panel, candidate: str, *, limits: Limits) -> Part:
    """Another reward of the same decisions that must not be lost: refused where a loss is proven.

    What is neither proven nor excluded is told and left to the canary, whose guardrails look at all times.
    """
    difference = panel.differences[candidate][panel.headline]
    value = panel.estimates[panel.incumbent][panel.headline].value
    figures = {"difference": difference.to_json(), "incumbent": value}
    if difference.bounds is None or difference.value is None or value is None:
        return Part(name, "open", (f"The log gives no estimate: {difference.note or 'no rows'}.",), figures)
    low, high = difference.bounds.low, difference.bounds.high
    if low == high == 0.0 and not value:
        told = "The log credits no such outcome to these decisions, so it says nothing; the canary watches it."
        return Part(name, "open", (told,), figures, is_needed=False)
    accepted = limits.loss_tolerance * abs(value)
    told = f"difference to the incumbent {difference.value:+.4g}, interval {low:+.4g} to {high:+.4g}, incumbent {value:.4g}"
    if high < 0:
        return Part(name, "refuse", (f"A loss is proven: {told}.",), figures)
    if low > -accepted:
        return Part(name, "pass", (f"A loss of more than {accepted:.4g} is excluded: {told}.",), figures)
    return Part(
        name,
        "open",
        (f"A loss is neither proven nor excluded: {told}; the canary watches it.",),
        figures,
        is_needed=False,
    )


@dataclass(frozen=True, slots=True)
class SimulatedDifference:
    """Candidate less incumbent on the fitted site, per visitor, over what the log leaves open; in simulation."""

    outcome: str
    value: float
    low: float
    high: float
    candidate: float
    candidate_low: float
    candidate_high: float
    incumbent: float

    def to_json(self) -> dict[str, Any]:
        """Plain values, labelled."""
        return {"in_simulation": True, **{name: getattr(self, name) for name in self.__slots__}}


def simulator_part(
    found: Sequence[SimulatedDifference] | str, *, primary: str, limits: Limits, n_visitors: int = 0
) -> Part:
    """What the site fitted on the log says.

    Parameters
    ----------
    found
        A difference for each outcome, or a sentence that says why there is none.
    primary
        The outcome that has to rise; the others must not be proven lower.
    """
    name = "simulator"
    if isinstance(found, str):
        return Part(name, "open", (found,), in_simulation=True)
    figures = {"n_visitors": n_visitors, "outcomes": {d.outcome: d.to_json() for d in found}}
    lost = [d for d in found if d.high < 0]
    mine = next(d for d in found if d.outcome == primary)
    told = tuple(
        f"In simulation, on the site fitted on {n_visitors:,} visitors of the log: {d.outcome} {d.value:+.4g} a visitor, "
        f"interval {d.low:+.4g} to {d.high:+.4g}, incumbent {d.incumbent:.4g}."
        for d in (lost or [mine, *(d for d in found if d is not mine)])
    )
    if lost:
        return Part(name, "refuse", told, figures, in_simulation=True)
    return Part(name, "pass" if mine.low > 0 else "open", told, figures, in_simulation=True)
