"""Taste that turns and rewards that come late: which learners stand it, on the same sets as the regret table.

Drift: in the second half of the rows the classes change places. Delay: what a round earned is learned so many rounds later.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from functools import partial

import numpy as np

from benchmarks._bandits import Labelled, Learner, Ours, load
from benchmarks._figures import Figure
from benchmarks._kept import Kept
from policies.features import FeatureSpace
from policies.linear import LinTS, LinUCB
from policies.logistic import LogisticThompson
from policies.protocols import OnlineLearner
from policies.vw import VowpalWabbit
from policies.windowed import Windowed

SETS = ("satimage", "pendigits", "adult")
_DELAY = 200


def _windowed(space: FeatureSpace, *, make: Callable[[FeatureSpace], OnlineLearner], window: int) -> OnlineLearner:
    return Windowed(make(space), window=window)


def learners(n_rows: int) -> dict[str, Callable[[FeatureSpace], OnlineLearner]]:
    """With their defaults, and with a memory of a quarter of the rows."""
    return {
        "LinUCB": LinUCB,
        "LinUCB, half-life": partial(LinUCB, half_life=n_rows / 4),
        "LinUCB, window": partial(_windowed, make=LinUCB, window=n_rows // 4),
        "LinTS": LinTS,
        "logistic Thompson": LogisticThompson,
        "logistic Thompson, window": partial(_windowed, make=LogisticThompson, window=n_rows // 4),
        "VW squarecb": VowpalWabbit,
    }


def drift_and_delay(*, n_rows: int, n_shuffles: int, seed: int, kept: Kept) -> list[Figure]:
    """Regret per round of each learner, mean over sets and shuffles, in a still world, a turning one and a late one."""
    data = {name: load(name) for name in SETS}
    figures = []
    for condition in ("still", "drift", "delay"):
        for name, make in learners(n_rows).items():
            found = [
                [
                    kept.value(f"{condition}/{s}/{n_rows}/{seed + i}/{name}", partial(_regret, data[s], make, condition, n_rows, seed + i))
                    for i in range(n_shuffles)
                ]
                for s in SETS
            ]  # fmt: skip
            per_shuffle = np.asarray(found).mean(axis=0)
            spread = (float(per_shuffle.min()), float(per_shuffle.max())) if n_shuffles > 1 else ()
            mean = float(per_shuffle.mean())
            figures.append(Figure(f"{condition}: {name}", "regret per round", mean, runs=n_shuffles, spread=spread))
            print(f"  {condition}: {name} {mean:.3f}", file=sys.stderr)
    return figures


def _regret(
    data: Labelled, make: Callable[[FeatureSpace], OnlineLearner], condition: str, n_rows: int, seed: int
) -> float:
    part = data.shuffled(seed, n_rows=n_rows)
    label = part.label.copy()
    if condition == "drift":
        moved = (np.arange(part.n_classes) + 1) % part.n_classes  # every class moves
        label[n_rows // 2 :] = moved[label[n_rows // 2 :]]
    return _progressive(Ours(make, part), part, label, delay=_DELAY if condition == "delay" else 0, seed=seed)


def _progressive(
    learner: Learner, part: Labelled, label: np.ndarray[tuple[int, ...], np.dtype[np.int64]], *, delay: int, seed: int
) -> float:
    uniforms = np.random.default_rng(seed).random(len(part.x))
    waiting: deque[tuple[int, int, float, float]] = deque()
    lost = 0.0
    for i, (x, u) in enumerate(zip(part.x, uniforms, strict=True)):
        chosen, probability = learner.choose(x, float(u))
        reward = float(chosen == label[i])
        lost += 1.0 - reward
        waiting.append((i, chosen, probability, reward))
        while waiting and waiting[0][0] <= i - delay:
            at, offer, p, earned = waiting.popleft()
            learner.tell(part.x[at], offer, p, earned)
    return lost / len(part.x)
