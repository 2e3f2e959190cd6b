"""Every estimator that another library has too, on small logs with everything in them: whether the numbers are the same."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._figures import Figure
from offline_eval import evaluate
from offline_eval.estimators import (
    ClippedIPS,
    DirectMethod,
    DoublyRobust,
    DRos,
    InversePropensity,
    Replay,
    SelfNormalisedDoublyRobust,
    SelfNormalisedIPS,
    SubGaussianDoublyRobust,
    SubGaussianIPS,
    SwitchDoublyRobust,
)
from offline_eval.estimators.embedding import MarginalizedIPS, attribute_groups
from offline_eval.loggers import balanced, weighted
from offline_eval.sequential import evaluate_sequences
from offline_eval.slates import evaluate_slates
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch, Offer, OfferId, OfferSet

ESTIMATORS = (
    DirectMethod(),
    InversePropensity(),
    ClippedIPS(2.0),
    SelfNormalisedIPS(),
    DoublyRobust(),
    SelfNormalisedDoublyRobust(),
    SwitchDoublyRobust(1.0),
    DRos(2.0),
    SubGaussianIPS(0.3),
    SubGaussianDoublyRobust(0.3),
)
# Where the other library is not what the paper says; docs/math/off-policy-estimators.md tells what it does.
KNOWN_TO_DIFFER = ("SN-MIPS (two attributes)",)


def agreement_with_obp(python: str, *, seed: int) -> list[Figure]:
    """Largest relative difference to obp over all estimators that both have, on two loggers, attributes and slates."""
    rng = np.random.default_rng(seed)
    n, k, rows = 700, 6, np.arange(700)
    by_variant = {name: rng.dirichlet(np.ones(k), size=n) for name in "ab"}
    variant = np.where(rng.random(n) < 0.3, "a", "b")
    logged = np.where((variant == "a")[:, None], by_variant["a"], by_variant["b"])
    chosen = _drawn(rng, logged)
    target, q, reward = (
        rng.dirichlet(np.ones(k), size=n),
        rng.normal(0.5, 0.3, size=(n, k)),
        rng.normal(0.5, 1.0, size=n),
    )
    sure, attributes = np.eye(k)[target.argmax(axis=1)], np.stack([np.arange(k) % 2, np.arange(k) // 2 % 3], axis=1)
    offers = OfferSet([Offer(OfferId(str(j)), {"x": str(x), "y": str(y)}) for j, (x, y) in enumerate(attributes)])
    log = InteractionBatch(
        DecisionTable(offers, np.ones((n, k), dtype=np.bool_)),
        chosen,
        logged[rows, chosen],
        reward,
        probabilities=logged,
        variants=variant,
    )
    pooled = balanced(log, by_variant)
    slate_logged, slate_dist = rng.dirichlet(np.ones(4), size=(2, n, 3))
    slate_chosen = _drawn(rng, slate_logged.reshape(-1, 4)).reshape(n, 3)
    slate_q, slate_reward = rng.normal(size=(n, 3, 4)), rng.normal(size=(n, 3))
    of_shown = [
        np.take_along_axis(x, slate_chosen[:, :, None], 2)[:, :, 0] for x in (slate_logged, slate_dist, slate_q)
    ]

    panel = evaluate(log, {"c": target}, estimators=ESTIMATORS, reward_model=q, n_resamples=0)
    mine: dict[str, float | None] = {name: e.value for name, e in panel.estimates["c"].items()}
    mine["replay"] = _one(log, sure, Replay())
    mine["weighted IPS"] = weighted(log, target).value
    mine["weighted DR"] = weighted(log, target, estimator=DoublyRobust(), reward_model=q).value
    mine["balanced IPS"] = _one(pooled, target, InversePropensity())
    mine["balanced DR"] = _one(pooled, target, DoublyRobust(), q)
    for told, names in (("one attribute", ["x"]), ("two attributes", ["x", "y"])):
        for is_normalised in (False, True):
            estimator = MarginalizedIPS(attribute_groups(offers, names), is_normalised=is_normalised, label=told)
            mine[estimator.name] = _one(log, target, estimator)
    slates = evaluate_slates(
        of_shown[0], of_shown[1], slate_reward, q_chosen=of_shown[2], v=(slate_dist * slate_q).sum(axis=2)
    )
    mine |= {name: e.value for name, e in slates.items()}
    theirs = _asked(
        python,
        "_obp_agreement.py",
        target=target, q=q, reward=reward, chosen=chosen, propensity=log.propensity, logged=logged, sure=sure,
        attributes=attributes, variant=(variant == "b").astype(np.int64), pooled=pooled.propensity,
        slate_logged=of_shown[0], slate_target=of_shown[1], slate_reward=slate_reward, slate_chosen=slate_chosen,
        slate_q=slate_q, slate_dist=slate_dist,
    )  # fmt: skip
    return _compared("obp", mine, theirs)


def agreement_with_scope(python: str, *, seed: int) -> list[Figure]:
    """Largest relative difference to scope-rl over the sequential forms, on paths of one length."""
    rng = np.random.default_rng(seed)
    n_paths, horizon, k, discount = 200, 4, 3, 0.9
    n = n_paths * horizon
    logged, target = rng.dirichlet(np.ones(k), size=(2, n))
    chosen, reward, q = _drawn(rng, logged), rng.normal(1.0, 1.0, size=n), rng.normal(size=(n, k))
    offers = OfferSet([Offer(OfferId(str(j))) for j in range(k)])
    subjects = np.repeat(np.arange(n_paths), horizon).astype(np.str_)
    table = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), subjects=subjects)
    log = InteractionBatch(table, chosen, logged[np.arange(n), chosen], reward)
    panel = evaluate_sequences(log, target, q_values=q, discount=discount, n_resamples=1)
    theirs = _asked(
        python, "_scope_agreement.py", target=target, q=q, reward=reward, chosen=chosen, propensity=log.propensity,
        horizon=np.asarray(horizon), discount=np.asarray(discount),
    )  # fmt: skip
    return _compared("scope-rl", {name: e.value for name, e in panel.estimates.items()}, theirs)


def _one(log: InteractionBatch, target: FloatArray, estimator: Any, q: FloatArray | None = None) -> float | None:
    panel = evaluate(log, {"c": target}, estimators=[estimator], reward_model=q, fit_reward=None, n_resamples=0)
    return panel.estimate("c").value


def _drawn(rng: np.random.Generator, p: FloatArray) -> IntArray:
    below = (np.cumsum(p, axis=1) <= rng.random(len(p))[:, None]).sum(axis=1)
    return np.asarray(np.minimum(below, p.shape[1] - 1), dtype=np.int64)


def _asked(python: str, script: str, **arrays: Any) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.npz"
        np.savez(path, **arrays)
        command = [python, str(Path(__file__).parent / script), str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _compared(peer: str, mine: Mapping[str, float | None], theirs: Mapping[str, float]) -> list[Figure]:
    apart = {name: abs((mine[name] or 0.0) / value - 1.0) for name, value in theirs.items()}
    shared = {name: off for name, off in apart.items() if name not in KNOWN_TO_DIFFER}
    worst = max(shared, key=lambda name: shared[name])
    return [
        Figure(
            f"largest_difference_to_{peer}",
            "relative",
            shared[worst],
            must="<= 1e-9",
            note=f"{len(shared)} estimators: {', '.join(shared)}; the largest is that of {worst}",
        ),
        *(
            Figure(f"difference_to_{peer} ({name})", "relative", apart[name], note="theirs is not the published form")
            for name in KNOWN_TO_DIFFER
            if name in apart
        ),
    ]
