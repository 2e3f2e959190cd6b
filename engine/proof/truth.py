"""What policies are truly worth: paired rollouts in which they meet the same visitors with the same luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from engine.proof.config import ProofConfig
from engine.proof.learning import FIRST, AnyWorld
from policies.protocols import Policy
from policies.records import FloatArray
from simulator.rollouts import Rollout, rollout

OUTCOMES = ("subscribed", "kept_30d", "margin_eur")
_Z = 1.959964


@dataclass(frozen=True, slots=True, eq=False)
class Values:
    """Outcomes of each visitor under one policy; rows of two policies are the same visitors."""

    per_visitor: Mapping[str, FloatArray]

    @classmethod
    def of(cls, run: Rollout) -> Values:
        """Outcomes of a rollout whose windows are all over."""
        return cls({o: np.asarray(getattr(run.subjects, o), dtype=np.float64) for o in OUTCOMES})

    def mean(self, outcome: str) -> float:
        """Mean per visitor."""
        return float(self.per_visitor[outcome].mean())

    def difference(self, other: Values, outcome: str) -> tuple[float, float]:
        """Mean paired difference and its standard error."""
        off = self.per_visitor[outcome] - other.per_visitor[outcome]
        return float(off.mean()), float(off.std(ddof=1) / sqrt(len(off)))

    def lift(self, other: Values, outcome: str) -> dict[str, float]:
        """Relative change with a 95 % interval (delta method for a ratio of paired means)."""
        a, b = self.per_visitor[outcome], other.per_visitor[outcome]
        base = float(b.mean())
        ratio = float(a.mean()) / base
        error = float((a - ratio * b).std(ddof=1)) / (abs(base) * sqrt(len(a)))
        return {"lift": ratio - 1, "low": ratio - 1 - _Z * error, "high": ratio - 1 + _Z * error}

    def retention(self) -> float:
        """Kept ÷ subscribed: descriptive."""
        return self.mean("kept_30d") / self.mean("subscribed")


def true_values(
    world: AnyWorld, policies: Mapping[str, Policy], *, config: ProofConfig, seed: int, n_subjects: int | None = None
) -> dict[str, Values]:
    """Each policy as it would be served, explore share included."""
    n = n_subjects or config.n_truth_subjects
    return {
        name: Values.of(
            rollout(
                world, policy, n_subjects=n, visit_days=config.visit_days, seed=seed, first_subject=FIRST["truth"],
                explore_share=config.serve_explore_share,
            )
        )
        for name, policy in policies.items()
    }  # fmt: skip


def against(values: Mapping[str, Values], name: str, incumbent: str) -> dict[str, Any]:
    """Truth of one policy beside the incumbent's as plain values."""
    a, b = values[name], values[incumbent]
    told: dict[str, Any] = {}
    for outcome in OUTCOMES:
        off, error = a.difference(b, outcome)
        told[outcome] = {
            "value": a.mean(outcome), "incumbent": b.mean(outcome), "difference": off, "standard_error": error,
            **a.lift(b, outcome),
        }  # fmt: skip
    told["retention"] = {"value": a.retention(), "incumbent": b.retention(), "lift": a.retention() / b.retention() - 1}
    return told
