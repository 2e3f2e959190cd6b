"""Candidates on held-out time, against the incumbent: what the log says, and what each costs to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.gate.parts import calibration_part, contract_part, guardrail_part, latency_part, ope_part
from engine.gate.records import Limits, Part
from offline_eval.panel import Panel, evaluate
from offline_eval.ranking import best, differing
from policies.protocols import Policy
from policies.records import InteractionBatch

INCUMBENT = "incumbent"


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What the log says of all candidates.

    Attributes
    ----------
    chosen
        The candidate with the best verdict, among equals the largest gain; one that shows what the incumbent shows only where all do.
        By the log, never by the simulator.
    parts
        Of the chosen one: contract, latency, calibration, off-policy evaluation, guardrails.
    """

    chosen: str
    parts: tuple[Part, ...]
    panel: Panel
    guardrails: Mapping[str, Panel]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "chosen": self.chosen,
            "parts": [p.to_json() for p in self.parts],
            "panel": self.panel.to_json(),
            "values": {n: _estimate(self.panel, n) for n in (INCUMBENT, self.chosen)},
            "lift": self.panel.differences[self.chosen][self.panel.headline].to_json(),
            "ranking": [
                {"candidate": n, "verdict": v.word, "difference": self.panel.differences[n][self.panel.headline].value}
                for n, v in self.panel.verdicts.items()
            ],
        }


def judge(
    primary: InteractionBatch,
    guardrails: Mapping[str, InteractionBatch],
    candidates: Mapping[str, Policy],
    *,
    incumbent: Policy,
    explore_share: float,
    limits: Limits,
    seed: int,
    n_resamples: int = 100,
) -> Judged:
    """Judge candidates on rows that none of them learned from.

    Parameters
    ----------
    guardrails
        The same rows with other rewards, by name.
    """
    everyone = {INCUMBENT: incumbent, **candidates}

    def panel_of(batch: InteractionBatch, policies: Mapping[str, Policy], effect: float | None = None) -> Panel:
        return evaluate(
            batch,
            policies,
            incumbent=INCUMBENT,
            explore_share=explore_share,
            minimal_effect=effect,
            n_resamples=n_resamples,
            seed=seed,
        )

    panel = panel_of(primary, everyone, limits.minimal_effect)
    chosen = best(differing(panel))
    two = {INCUMBENT: incumbent, chosen: candidates[chosen]}
    others = {name: panel_of(batch, two) for name, batch in guardrails.items()}
    policy = candidates[chosen]
    parts = (
        contract_part(policy, primary.table, seed=seed),
        latency_part(policy, primary.table, limits=limits),
        calibration_part(policy, primary, limits=limits, seed=seed),
        ope_part(panel, chosen),
        *(guardrail_part(f"guardrail {n}", p, chosen, limits=limits) for n, p in others.items()),
    )
    return Judged(chosen, parts, panel, others)


def _estimate(panel: Panel, name: str) -> dict[str, Any]:
    found = panel.estimates[name][panel.headline]
    return found.to_json()
