"""Judge the candidates on the log, put the simulator's truth beside every number, and choose a challenger."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.demo.candidates import FIRST_SUBJECT, INCUMBENT, REWARD
from engine.demo.config import DemoConfig
from offline_eval.panel import Panel, evaluate
from offline_eval.ranking import best
from policies.protocols import Policy
from policies.records import InteractionBatch
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.truth import PolicyTruth, mean_per_decision, truth_of

ESTIMATORS = ("DM", "IPS", "SNIPS", "DR")


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """What the simulator knows of one policy."""

    per_decision: tuple[float, float]
    per_visitor: PolicyTruth


def judge_on_log(
    log: InteractionBatch, candidates: Mapping[str, Policy], *, incumbent: Policy, config: DemoConfig
) -> Panel:
    """Estimate every policy as it would be served (explore share included) on rows no candidate learned from."""
    return evaluate(
        log,
        {INCUMBENT: incumbent, **candidates},
        incumbent=INCUMBENT,
        explore_share=config.serve_explore_share,
        n_resamples=100,
        seed=config.seed,
    )


def choose_challenger(panel: Panel) -> tuple[str, str]:
    """Name of the candidate that goes live, and why: the best verdict, then the largest estimated gain; never by the truth beside it."""
    chosen = best(panel)
    word = panel.verdicts[chosen].word
    if word == "recommend":
        return chosen, f"the log recommends {chosen}: its estimated gain is the largest of those it recommends"
    return chosen, f"the log recommends nobody; {chosen} has the best verdict there is ({word}), so the test decides"


def know_the_truth(
    scenario: Scenario,
    policies: Mapping[str, Policy],
    *,
    config: DemoConfig,
    on_policy: Callable[[int, int], None] | None = None,
) -> dict[str, Truth]:
    """Let each policy choose for the same visitors with the same luck, until every window is over."""
    out: dict[str, Truth] = {}
    for name, policy in policies.items():
        run = rollout(
            scenario,
            policy,
            n_subjects=config.n_truth_subjects,
            visit_days=config.visit_days,
            seed=config.seed + 2,
            first_subject=FIRST_SUBJECT["truth"],
            explore_share=config.serve_explore_share,
        )
        out[name] = Truth(mean_per_decision(run, run.rewards[REWARD]), truth_of(run))
        if on_policy is not None:
            on_policy(len(out), len(policies))
    return out


def judged_json(panel: Panel, truths: Mapping[str, Truth]) -> dict[str, Any]:
    """Panel and truth as plain values."""
    return {
        "panel": panel.to_json(),
        "truth": {
            name: {
                "in_simulation": True,
                "per_decision": {"mean": t.per_decision[0], "standard_error": t.per_decision[1]},
                "per_visitor": t.per_visitor.to_json(),
            }
            for name, t in truths.items()
        },
    }
