"""From a world's training log to a challenger: the incumbent, what was learned, and what the log alone says of it.

Every step is the product's own: ``simulator.rollouts`` logs through ``policies.sampling.decide``, learners are registered
policies, judges are those of the demo and the gate. Candidates go through their artefacts, as a registered version does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from engine.demo.candidates import INCUMBENT, joined
from engine.demo.judging import choose_challenger
from engine.proof.config import ProofConfig
from offline_eval.estimators import default_estimators
from offline_eval.panel import Panel, evaluate
from policies.features import FeatureSpace
from policies.fixed import IncumbentRules, Uniform, fit_incumbent
from policies.greedy import greedy
from policies.protocols import SaveablePolicy
from policies.records import FloatArray, IntArray, InteractionBatch
from policies.registry import load_policy
from policies.reward_models import CrossedRidgeRewardModel
from simulator.confounded import confounded_log
from simulator.habit import HabitScenario
from simulator.rollouts import RewardName, Rollout, rollout
from simulator.scenarios.car_subscription import Scenario

AnyWorld = Scenario | HabitScenario
# Names of the candidates: a better single offer; offers by what sells in this visit, by what of it is kept, by what is kept
# whichever visit it is sold in, and by that and its margin.
SINGLE, SELLS, KEPT, LASTING, WORTH = "single", "sells", "kept", "lasting", "worth"
CANDIDATES = (SINGLE, SELLS, KEPT, LASTING, WORTH)
REWARDS: tuple[RewardName, ...] = ("kept_30d", "subscribed", "margin_eur")
RIDGE = 10.0
# Ids of visitors of different cohorts never overlap.
FIRST = {"explore": 0, "log": 10_000_000, "truth": 20_000_000, "live": 30_000_000, "wide": 50_000_000}


@dataclass(frozen=True, slots=True, eq=False)
class TrainingLog:
    """What a site has when it begins.

    Attributes
    ----------
    rewards
        One batch a reward, the same decisions in each.
    incumbent
        Best single offer per stage, found on the first part.
    """

    rewards: Mapping[str, InteractionBatch]
    incumbent: IncumbentRules
    kept_per_visitor: float
    run: Rollout | None = None


def collect(
    world: AnyWorld, config: ProofConfig, *, seed: int, n_subjects: int, confounding: float = 0.0
) -> TrainingLog:
    """Even rotation, then the best single offer with its explore share; or a log that a hidden hand chose.

    Parameters
    ----------
    confounding
        Strength of the hidden hand (``simulator.confounded``); the site then believes propensities that are not true.
    """
    if confounding:
        n = n_subjects + n_subjects // 3
        rewards: dict[str, InteractionBatch] = {
            r: confounded_log(world, n_subjects=n, seed=seed, strength=confounding, reward=r)[0] for r in REWARDS
        }
        incumbent = fit_incumbent(rewards["kept_30d"], stage_column="stage")
        return TrainingLog(rewards, incumbent, float(rewards["kept_30d"].reward.sum()) / n)
    explore = rollout(
        world, Uniform(), n_subjects=n_subjects // 3, visit_days=config.visit_days, seed=seed,
        first_subject=FIRST["explore"], explore_share=1.0,
    )  # fmt: skip
    incumbent = fit_incumbent(explore.interactions("kept_30d"), stage_column="stage")
    log = rollout(
        world, incumbent, n_subjects=n_subjects, visit_days=config.visit_days, seed=seed + 1,
        first_subject=FIRST["log"], explore_share=config.log_explore_share,
    )  # fmt: skip
    joint: dict[str, InteractionBatch] = {r: joined(explore.interactions(r), log.interactions(r)) for r in REWARDS}
    return TrainingLog(joint, incumbent, log.mean("kept_30d")[0], log)


def to_go(batch: InteractionBatch) -> FloatArray:
    """What each decision's visitor earns from here on, shape ``(n,)``.

    The log credits an outcome to the last decision before the contract; here every decision up to that one earns it, so that an
    offer that makes a later visit worth more earns it too. Learned under the logging policy: one step of improvement over it.
    """
    assert batch.table.subjects is not None
    assert batch.table.at is not None
    _, visitor = np.unique(batch.table.subjects, return_inverse=True)
    order = np.lexsort((batch.table.at, visitor))
    ahead = np.cumsum(batch.reward[order][::-1])[::-1]
    # Sums from each row to the end of all rows, less those that begin after the visitor's last row.
    end = np.flatnonzero(np.append(visitor[order][1:] != visitor[order][:-1], True))
    after = np.append(ahead, 0.0)[end + 1]
    out = np.empty(len(order))
    out[order] = ahead - np.repeat(after, np.diff(np.append(-1, end)))
    return out


def halves(log: InteractionBatch, *, seed: int) -> tuple[IntArray, IntArray]:
    """Rows to learn from and rows to judge on, divided by visitor so that nobody is on both sides."""
    assert log.table.subjects is not None
    names, visitor = np.unique(log.table.subjects, return_inverse=True)
    side = np.random.default_rng(seed).random(len(names)) < 0.5
    return np.flatnonzero(side[visitor]), np.flatnonzero(~side[visitor])


def learn(log: TrainingLog, rows: IntArray) -> dict[str, SaveablePolicy]:
    """Every candidate, as its artefact brings it back."""
    kept, sold, margin = (log.rewards[r].take(rows) for r in ("kept_30d", "subscribed", "margin_eur"))
    lasting = replace(kept, reward=to_go(kept))
    # A kept subscriber and the average margin of a contract are worth the same.
    per_contract = abs(float(margin.reward.sum())) / max(float(sold.reward.sum()), 1.0)
    worth = replace(kept, reward=lasting.reward + to_go(margin) / max(per_contract, 1e-9))
    model = CrossedRidgeRewardModel(FeatureSpace.fit(kept.table), ridge=RIDGE)
    model.learn(kept)
    made: dict[str, SaveablePolicy] = {
        SINGLE: fit_incumbent(kept, stage_column="stage"),
        SELLS: greedy(model.for_reward(sold)),
        KEPT: greedy(model),
        LASTING: greedy(model.for_reward(lasting)),
        WORTH: greedy(model.for_reward(worth)),
    }
    return {name: as_registered(policy) for name, policy in made.items()}


def as_registered(policy: SaveablePolicy) -> SaveablePolicy:
    """The policy as a server loads it from its artefact."""
    loaded = load_policy(policy.to_artifact())
    assert isinstance(loaded, SaveablePolicy)
    return loaded


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """A challenger and what the log says of every candidate.

    Attributes
    ----------
    loses_margin
        Candidates that are no challenger because the log shows that they lose margin.
    same
        Candidates that are none because they show what the incumbent shows.
    """

    candidates: Mapping[str, SaveablePolicy]
    challenger: str
    word: str
    panel: Panel
    loses_margin: tuple[str, ...]
    same: tuple[str, ...] = ()


def challenge(log: TrainingLog, config: ProofConfig, *, seed: int) -> Learned:
    """Learn on half of the visitors, judge on the other half, and choose by the log alone."""
    learn_rows, judge_rows = halves(log.rewards["kept_30d"], seed=seed)
    candidates = learn(log, learn_rows)
    everyone = {INCUMBENT: log.incumbent, **candidates}
    estimators = {e.name: e for e in default_estimators()}
    share = config.serve_explore_share
    panel = evaluate(
        log.rewards["kept_30d"].take(judge_rows), everyone, incumbent=INCUMBENT, explore_share=share, n_resamples=0,
        estimators=[estimators[name] for name in ("DM", "IPS", "SNIPS", "DR")], n_folds=2, seed=seed,
    )  # fmt: skip
    margin = evaluate(
        log.rewards["margin_eur"].take(judge_rows), everyone, incumbent=INCUMBENT, explore_share=share, n_resamples=0,
        estimators=[estimators["SNIPS"]], fit_reward=None,
    )  # fmt: skip
    loses = [n for n in candidates if (b := margin.differences[n]["SNIPS"].bounds) is not None and b.high < 0]
    # What shows the same earns the same, which the log knows without error: its verdict would beat that of every real candidate.
    same = [n for n in candidates if panel.differences[n]["SNIPS"].standard_error == 0.0]
    left = [n for n in candidates if n not in loses and n not in same] or list(candidates)
    challenger, _ = choose_challenger(replace(panel, verdicts={n: panel.verdicts[n] for n in left}))
    return Learned(candidates, challenger, panel.verdicts[challenger].word, panel, tuple(loses), tuple(same))
