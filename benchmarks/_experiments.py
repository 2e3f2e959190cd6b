"""Real experiments as judges of learners: headline tests, an e-mail campaign, a fund-raising campaign."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks._bandits import data_folder
from benchmarks._figures import Figure
from benchmarks._kept import Kept
from engine.proof.real_logs import hillstrom_log, karlan_list_log, upworthy_tests
from policies.features import FeatureSpace
from policies.greedy import greedy
from policies.linear import LinTS
from policies.protocols import LearningRewardModel, OnlineLearner, Policy
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from policies.reward_models import CrossedRidgeRewardModel, RidgeRewardModel
from policies.sampling import decide
from policies.thompson import BetaThompson

# A test's impressions come in so many batches, and a site learns between two of them.
_N_UPDATES = 30


def upworthy(n_tests: int | None, *, seed: int, can_judge: bool, kept: Kept | None = None) -> list[Figure]:
    """Regret per 1,000 impressions over real headline tests, each as long as it was, arms shuffled, click rates as found.

    Thompson sampling and a contextual learner (LinTS, which sees how far the test has come) beside uniform; a win is one where
    the two 95 % intervals over tests lie apart.
    """
    kept = kept or Kept()
    lost: list[list[float]] = []
    for test, (clicks, shown) in _tests(n_tests, np.random.default_rng(seed)):
        order = np.random.default_rng([seed, test]).permutation(len(clicks))
        rate, size = (clicks / shown)[order], max(1, int(shown.sum()) // _N_UPDATES)
        each = [
            kept.value(f"upworthy/{seed}/{test}/{name}", partial(_regret, make, rate, size=size, seed=[seed, test, i]))
            for i, (name, make) in enumerate(_LEARNERS.items())
        ]
        lost.append([1000 * r for r in (*each, float(rate.max() - rate.mean()))])  # what uniform loses needs no run
    regrets = np.asarray(lost)
    mean, half = regrets.mean(axis=0), 1.96 * regrets.std(axis=0, ddof=1) / np.sqrt(len(regrets))
    out = []
    for i, name in enumerate(_LEARNERS):
        is_apart = bool(mean[i] + half[i] < mean[2] - half[2] or mean[i] - half[i] > mean[2] + half[2])
        out.append(
            Figure(
                f"upworthy_{name}", "clicks lost per 1,000", float(mean[i]), must="< 1", judge_ratio=True, baseline=("uniform", float(mean[2])),
                can_judge=can_judge, runs=len(regrets), spread=(float(mean[i] - half[i]), float(mean[i] + half[i])),
                note=f"uniform [{mean[2] - half[2]:.3g}, {mean[2] + half[2]:.3g}]: intervals {'apart' if is_apart else 'overlap'}",
            )
        )  # fmt: skip
    return out


_LEARNERS: dict[str, Callable[[FeatureSpace], OnlineLearner]] = {"thompson": lambda _: BetaThompson(), "lints": LinTS}


def _tests(n_tests: int | None, rng: np.random.Generator) -> list[tuple[int, tuple[FloatArray, FloatArray]]]:
    """Which test, and clicks and impressions of each of its arms."""
    tests = upworthy_tests(data_folder())
    return [(int(i), tests[i]) for i in rng.permutation(len(tests))[:n_tests]]


def _batch_table(offers: OfferSet, n: int, progress: float) -> DecisionTable:
    eligible = np.ones((n, len(offers)), dtype=np.bool_)
    return DecisionTable(offers, eligible, {"progress": np.full(n, progress)})


def _regret(make: Callable[[FeatureSpace], OnlineLearner], rate: FloatArray, *, size: int, seed: list[int]) -> float:
    """Expected clicks lost per impression by what the policy shows, while it learns from clicks that are drawn."""
    rng, lost = np.random.default_rng(seed), 0.0
    offers = OfferSet([Offer(OfferId(f"headline {i}")) for i in range(len(rate))])
    policy = make(FeatureSpace.fit(_batch_table(offers, 2, 0.5)))
    for update in range(_N_UPDATES):
        # Nothing in the context differs within a batch, so one row says what all get.
        p = policy.probabilities(_batch_table(offers, 1, update / _N_UPDATES))
        table = _batch_table(offers, size, update / _N_UPDATES)
        draws = decide(_Told(policy, p), table, uniforms=rng.random(size))
        lost += float(rate.max() - draws.probabilities[0] @ rate)
        reward = (rng.random(size) < rate[draws.chosen]).astype(np.float64)
        policy.learn(InteractionBatch(table, draws.chosen, draws.propensity, reward))
    return lost / _N_UPDATES


class _Told:
    """The answer of a policy for one row, given for every row."""

    def __init__(self, policy: Policy, row: FloatArray) -> None:
        self.name, self.traits, self._row = policy.name, policy.traits, row

    def probabilities(self, table: DecisionTable) -> FloatArray:
        return np.repeat(self._row, len(table), axis=0)


def hillstrom(seed: int) -> Figure:
    """Visits of a learned policy less those of the best fixed e-mail, on the half it was not trained on, with 95 % interval."""
    batch = hillstrom_log(data_folder())
    return _over_best_fixed(
        "hillstrom", "visits per customer", batch, lambda space: RidgeRewardModel(space, ridge=10.0), seed=seed
    )


def karlan_list(seed: int) -> Figure:
    """Gifts of a learned policy less those of the best fixed letter among 37 (match ratio, ceiling, example), as for hillstrom."""
    batch = karlan_list_log(data_folder())
    return _over_best_fixed(
        "karlan_list", "gifts per letter", batch, lambda space: CrossedRidgeRewardModel(space, ridge=30.0), seed=seed
    )


def _over_best_fixed(
    name: str,
    unit: str,
    batch: InteractionBatch,
    make: Callable[[FeatureSpace], LearningRewardModel],
    *,
    seed: int,
) -> Figure:
    """Doubly robust difference to the best fixed offer of the training half; a claim is made only where its interval is above 0."""
    n = len(batch)
    order = np.random.default_rng(seed).permutation(n)
    train, test = batch.take(order[: n // 2]), batch.take(order[n // 2 :])
    model = make(FeatureSpace.fit(train.table))
    model.learn(train)
    k = batch.table.n_offers
    best = int(np.argmax([train.reward[train.chosen == i].mean() for i in range(k)]))
    target = greedy(model).probabilities(test.table)
    q = model.expected_reward(test.table)
    rows = np.arange(len(test))
    residual = (test.reward - q[rows, test.chosen]) / test.propensity

    def scores(policy: FloatArray) -> FloatArray:
        return np.asarray((policy * q).sum(axis=1) + policy[rows, test.chosen] * residual)

    fixed = np.zeros_like(target)
    fixed[:, best] = 1.0
    apart = scores(target) - scores(fixed)
    mean, half = float(apart.mean()), float(1.96 * apart.std(ddof=1) / np.sqrt(len(apart)))
    verdict = "a gain" if mean - half > 0 else "no gain that this log can show"
    return Figure(
        f"{name}_over_best_fixed", unit, mean, runs=1, spread=(mean - half, mean + half),
        note=f"doubly robust: learned {scores(target).mean():.4f}, best fixed ({batch.table.offers.ids[best]}) "
        f"{scores(fixed).mean():.4f}; {verdict}",
    )  # fmt: skip
