"""What others would have answered from the same worlds: whoever stops at p < 0.05 while peeking, and whoever believes plain IPS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.demo.candidates import INCUMBENT
from engine.demo.live import TREATMENT
from offline_eval.abtest import Replay
from offline_eval.estimators import default_estimators
from offline_eval.panel import evaluate
from policies.protocols import Policy
from policies.records import InteractionBatch

N_PEEKS = 20
SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Claim:
    """Whose lift is claimed; nobody's where ``policy`` is None."""

    policy: str | None

    @property
    def answer(self) -> str:
        """The answer in words."""
        return "cannot say" if self.policy is None else "lift"


def peeking(experiment: Replay, challenger: str) -> Claim:
    """Look twenty times, stop at the first p below 0.05, and call the winner."""
    for _, reading in experiment.over_time:
        try:
            effect = reading.of("kept", TREATMENT).effect
        except ValueError:  # too few visitors have matured to compare
            continue
        if effect.p_value < SIGNIFICANT:
            return Claim(challenger if effect.estimate > 0 else None)
    return Claim(None)


def plain_ips(
    log: InteractionBatch, candidates: Mapping[str, Policy], *, incumbent: Policy, explore_share: float
) -> Claim:
    """Pick the candidate with the largest IPS gain on the log it was learned from; believe its 95 % interval."""
    panel = evaluate(
        log,
        {INCUMBENT: incumbent, **candidates},
        incumbent=INCUMBENT,
        estimators=[e for e in default_estimators() if e.name == "IPS"],
        fit_reward=None,
        explore_share=explore_share,
        n_resamples=0,
    )
    found = {name: panel.differences[name]["IPS"] for name in candidates}
    gains = {name: float(e.value) for name, e in found.items() if e.value is not None}
    if not gains:
        return Claim(None)
    best = max(gains, key=lambda name: gains[name])
    bounds = found[best].bounds
    return Claim(best if bounds is not None and bounds.low > 0 else None)
