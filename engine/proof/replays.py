"""What learning earns on real randomised logs, by replay: learned on one half, judged on the other, reported as it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engine.proof.real_logs import hillstrom_log, karlan_list_log, open_bandit_log, upworthy_tests
from offline_eval.estimators import default_estimators
from offline_eval.panel import evaluate
from policies.features import FeatureSpace
from policies.fixed import fit_incumbent
from policies.greedy import greedy
from policies.protocols import LearningRewardModel
from policies.records import InteractionBatch
from policies.reward_models import CrossedRidgeRewardModel, RidgeRewardModel

_Z = 1.959964
GAIN, NO_GAIN, LOSS = "gain", "no gain found", "loss"


def replays(folder: Path, *, seed: int) -> list[dict[str, Any]]:
    """One row a log: what the best single offer and the learned policy earn, their difference with a 95 % interval, and a word."""

    def ridge(space: FeatureSpace) -> LearningRewardModel:
        return RidgeRewardModel(space, ridge=10.0)

    def crossed(space: FeatureSpace) -> LearningRewardModel:
        return CrossedRidgeRewardModel(space, ridge=30.0)

    rows = [
        _judged("hillstrom", "visits per customer", hillstrom_log(folder), ridge, seed=seed),
        _judged("karlan_list", "gifts per letter", karlan_list_log(folder), crossed, seed=seed),
    ]
    for campaign in ("all", "men", "women"):
        log = open_bandit_log(folder, campaign)
        rows.append(_judged(f"open bandit, {campaign}", "clicks per impression", log, ridge, seed=seed))
    return [*rows, _upworthy(folder, seed=seed)]


def _judged(
    name: str,
    unit: str,
    log: InteractionBatch,
    make: Callable[[FeatureSpace], LearningRewardModel],
    *,
    seed: int,
) -> dict[str, Any]:
    order = np.random.default_rng(seed).permutation(len(log))
    train, test = log.take(order[: len(log) // 2]), log.take(order[len(log) // 2 :])
    model = make(FeatureSpace.fit(train.table))
    model.learn(train)
    incumbent = fit_incumbent(train, min_shown=20)
    panel = evaluate(
        test,
        {"incumbent": incumbent, "learned": greedy(model)},
        incumbent="incumbent",
        estimators=[e for e in default_estimators() if e.name in ("SNIPS", "DR")],
        reward_model=model,
        n_resamples=0,
        seed=seed,
    )
    off = panel.differences["learned"]["DR"]
    assert off.value is not None
    assert off.bounds is not None
    return {
        "log": name, "unit": unit, "rows": len(test), "compared_with": f"best single offer: {incumbent.default[0]}",
        "incumbent": panel.estimates["incumbent"]["DR"].value, "learned": panel.estimates["learned"]["DR"].value,
        "difference": off.value, "low": off.bounds.low, "high": off.bounds.high,
        "word": word(off.bounds.low, off.bounds.high), "word_of_the_log": panel.verdicts["learned"].word,
    }  # fmt: skip


def word(low: float, high: float) -> str:
    """What an interval allows to say."""
    return GAIN if low > 0 else LOSS if high < 0 else NO_GAIN


def _upworthy(folder: Path, *, seed: int) -> dict[str, Any]:
    """Each test's impressions are divided at random; the headline that clicks best in one half is shown in the other.

    Nobody is told apart here: it is the gain of a better single offer, over showing all headlines evenly.
    """
    rng = np.random.default_rng(seed)
    even, picked, rows = [], [], 0.0
    for clicks, shown in upworthy_tests(folder):
        first = rng.binomial(shown.astype(np.int64), 0.5)
        hits = rng.hypergeometric(
            clicks.astype(np.int64), (shown - clicks).astype(np.int64), np.minimum(first, shown.astype(np.int64))
        )
        rest, rest_hits = shown - first, clicks - hits
        if (first < 1).any() or (rest < 1).any():
            continue
        rate = rest_hits / rest
        even.append(float(rate.mean()))
        picked.append(float(rate[int(np.argmax((hits + 1.0) / (first + 60.0)))]))
        rows += float(rest.sum())
    off = np.asarray(picked) - np.asarray(even)
    mean, half = float(off.mean()), float(_Z * off.std(ddof=1) / np.sqrt(len(off)))
    return {
        "log": "upworthy", "unit": "clicks per impression", "rows": int(rows),
        "compared_with": f"all headlines evenly, {len(off):,} tests", "incumbent": float(np.mean(even)),
        "learned": float(np.mean(picked)), "difference": mean, "low": mean - half, "high": mean + half,
        "word": word(mean - half, mean + half), "word_of_the_log": "",
    }  # fmt: skip
