"""Find the incumbent on a training log, and make everything that wants to beat it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.demo.config import DemoConfig
from engine.training.reward import fit_reward_model
from policies.artifact import load_artifact
from policies.features import FeatureSpace
from policies.fixed import IncumbentRules, Uniform, fit_incumbent
from policies.greedy import greedy
from policies.linear import LinTS
from policies.protocols import SaveablePolicy
from policies.records import InteractionBatch
from policies.registry import load_policy
from policies.squarecb import squarecb
from policies.stacking import concatenate
from policies.vw import VowpalWabbit
from simulator.rollouts import RewardName, Rollout, rollout
from simulator.scenarios.car_subscription import Scenario

# What a policy is trained to earn: a subscriber who is still there 30 days later.
REWARD: RewardName = "kept_30d"
INCUMBENT = "incumbent"
# Subjects of different cohorts never overlap: their ids start here.
FIRST_SUBJECT = {"explore": 0, "log": 10_000_000, "truth": 20_000_000, "live": 30_000_000}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingLogs:
    """What the site collected before anyone trained a model.

    Attributes
    ----------
    explore
        A first stretch of even rotation, on which the incumbent is found.
    incumbent
        The best single offer per stage.
    log
        The incumbent at work with its explore share: what candidates learn from and are judged on.
    """

    explore: Rollout
    incumbent: IncumbentRules
    log: Rollout


def collect(scenario: Scenario, config: DemoConfig) -> TrainingLogs:
    """Rotate offers evenly for a while, find the incumbent, then log the incumbent with its explore share."""
    explore = rollout(
        scenario,
        Uniform(),
        n_subjects=config.n_log_subjects // 3,
        visit_days=config.visit_days,
        seed=config.seed,
        first_subject=FIRST_SUBJECT["explore"],
        explore_share=1.0,
    )
    incumbent = fit_incumbent(explore.interactions("kept_30d"), stage_column="stage")
    log = rollout(
        scenario,
        incumbent,
        n_subjects=config.n_log_subjects,
        visit_days=config.visit_days,
        seed=config.seed + 1,
        first_subject=FIRST_SUBJECT["log"],
        explore_share=config.log_explore_share,
    )
    return TrainingLogs(explore, incumbent, log)


def halves(log: Rollout, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to be judged on, divided by subject so that nobody is on both sides."""
    side = np.random.default_rng(seed).random(len(log.subjects.n_visits)) < 0.5
    return np.flatnonzero(side[log.row]), np.flatnonzero(~side[log.row])


def train(logs: TrainingLogs, *, rows: np.ndarray, ppo: Path | None, seed: int) -> dict[str, SaveablePolicy]:
    """Every candidate, from the rows of the log that are for learning and the even rotation before it."""
    batch = logs.log.interactions(REWARD).take(rows)
    both = joined(logs.explore.interactions(REWARD), batch)
    space = FeatureSpace.fit(both.table)
    model = fit_reward_model(both, kind="lightgbm", seed=seed, space=space)
    crossed = fit_reward_model(both, kind="logistic", seed=seed, space=space)
    vw = VowpalWabbit(space, explorer="squarecb", learning_rate=0.1)
    vw.learn(both)
    lints = LinTS(space, scale=0.15, ridge=10.0)
    lints.learn(both)
    out: dict[str, SaveablePolicy] = {
        "greedy_lightgbm": greedy(model),
        "greedy_logistic": greedy(crossed),
        "squarecb": squarecb(crossed, n_seen=len(both)),
        "vw_squarecb": vw,
        "lints": lints,
        "uniform": Uniform(),
    }
    if ppo is not None:
        policy = load_policy(load_artifact(ppo))
        assert isinstance(policy, SaveablePolicy)
        out["ppo"] = policy
    return out


def joined(a: InteractionBatch, b: InteractionBatch) -> InteractionBatch:
    """Rows of two logs of one site, one after the other."""
    return concatenate([a, b])
