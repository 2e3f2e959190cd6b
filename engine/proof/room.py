"""How much there is to gain in the reference world: what someone who sees into the visitors would reach."""

from __future__ import annotations

from typing import Any

from engine.proof.config import ProofConfig
from engine.proof.learning import FIRST
from engine.proof.truth import Values
from policies.fixed import FixedOrder
from policies.protocols import Policy
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.truth import Oracle

# What a contract costs an oracle, in kept subscribers: from 0 (keeps the most) to where it sells to the most loyal alone.
COSTS = (0.0, 0.5, 0.65, 0.7, 0.72, 0.74, 0.76, 0.78, 0.8)
BAR_CONVERSION, BAR_RETENTION = 0.12, 0.08
BAR_KEPT = (1.0 + BAR_CONVERSION) * (1.0 + BAR_RETENTION) - 1.0


def room(world: Scenario, incumbent: Policy, config: ProofConfig, *, seed: int) -> dict[str, Any]:
    """Truth of the incumbent, of every single offer, and of oracles that give contracts away for lasting ones."""

    def value(policy: Policy) -> Values:
        return Values.of(
            rollout(
                world, policy, n_subjects=config.n_truth_subjects, visit_days=config.visit_days, seed=seed,
                first_subject=FIRST["truth"], explore_share=config.serve_explore_share,
            )
        )  # fmt: skip

    base = value(incumbent)
    single = {
        str(offer.id): _told(value(FixedOrder((str(offer.id), "loyal_care"))), base)
        for offer in world.offers
        if offer.features["family"] not in ("none", "loyalty")
    }
    oracles = [
        {"cost_per_contract": cost, **_told(value(Oracle(world, seed=seed, cost_per_contract=cost)), base)}
        for cost in COSTS
    ]
    both = [o["retention"] for o in oracles if o["conversion"] >= BAR_CONVERSION and o["kept"] >= BAR_KEPT]
    return {
        "single": single,
        "oracles": oracles,
        "retention_with_both_bars": max(both) if both else None,
        "incumbent": {"retention": base.retention()},
    }


def _told(values: Values, base: Values) -> dict[str, float]:
    names = {"conversion": "subscribed", "kept": "kept_30d", "margin": "margin_eur"}
    told = {name: values.mean(outcome) / base.mean(outcome) - 1.0 for name, outcome in names.items()}
    return {**told, "retention": values.retention() / base.retention() - 1.0}
