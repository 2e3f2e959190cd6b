"""How fast and how well the learners learn: VW through our adapter, LinTS and LinUCB beside their floor, real experiments.

``python -m benchmarks.learning [--quick]``; MABWiser is measured where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._bandits import Labelled, MABWiser, data_folder, has, run
from benchmarks._figures import Figure, finish, parser
from policies.features import FeatureSpace
from policies.fixed import Uniform
from policies.greedy import greedy
from policies.linear import LinTS, LinUCB
from policies.protocols import OnlineLearner
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from policies.reward_models import RidgeRewardModel
from policies.sampling import decide
from policies.thompson import BetaThompson
from policies.vw import VowpalWabbit

N_OFFERS, WIDTH = 20, 32


def _world(n: int, seed: int, *, k: int = N_OFFERS, d: int = WIDTH) -> InteractionBatch:
    rng = np.random.default_rng(seed)
    offers = OfferSet([Offer(OfferId(f"o{i}"), {"price": float(i)}) for i in range(k)])
    block = rng.normal(size=(n, d)).astype(np.float32)
    table = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), {}, {"x": block})
    draws = decide(Uniform(), table, uniforms=rng.random(n))
    rate = 1 / (1 + np.exp(-(block @ rng.normal(size=(d, k)) / np.sqrt(d))[np.arange(n), draws.chosen]))
    return InteractionBatch(table, draws.chosen, draws.propensity, (rng.random(n) < rate).astype(np.float64))


def _median_us(call: Callable[[], object], *, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return float(np.median(times) * 1e6)


def linear_speed(*, repeats: int, seed: int) -> list[Figure]:
    """One decision and one update at 20 offers and 32 features, beside a bare gemv of the same size and MABWiser."""
    batch = _world(2_000, seed)
    space = FeatureSpace.fit(batch.table)
    one, row = batch.table.take(slice(0, 1)), batch.take(slice(0, 1))
    stacked = np.ones((N_OFFERS * (WIDTH + 1), WIDTH + 1), dtype=np.float32)
    x = np.ones(WIDTH + 1, dtype=np.float32)
    some_x = batch.table.vectors["x"][0]
    figures = []
    for name, learner in (("linucb", LinUCB(space)), ("lints", LinTS(space))):
        learner.learn(batch)
        rounds = [
            (
                _median_us(lambda: stacked @ x, repeats=repeats),
                _median_us(lambda a=learner: a.state.mean_and_variance(one), repeats=repeats),  # type: ignore[misc]
                _median_us(lambda a=learner: a.probabilities(one), repeats=repeats),  # type: ignore[misc]
                _median_us(lambda a=learner: a.learn(row), repeats=repeats),  # type: ignore[misc]
            )
            for _ in range(5)
        ]
        floor, score, whole, update = np.median(rounds, axis=0)
        baseline = ("one float32 gemv of the stacked inverses", float(floor))
        figures += [
            Figure(f"{name}_score", "us", float(score), baseline=baseline, runs=5, note="encode, mean and variance of each offer"),
            Figure(f"{name}_decide", "us", float(whole), must="<= 6", baseline=baseline, judge_ratio=True, runs=5),
            Figure(f"{name}_update", "us", float(update), runs=5),
        ]  # fmt: skip
        if has("mabwiser"):
            kind = {"linucb": "LinUCB", "lints": "LinTS"}[name]
            peer = MABWiser(kind, Labelled("", batch.table.vectors["x"], batch.chosen, N_OFFERS))
            for i in range(40):
                peer.tell(batch.table.vectors["x"][i], int(batch.chosen[i]), 1.0, float(batch.reward[i]))
            decide_us = _median_us(lambda p=peer: p.choose(some_x, 0.5), repeats=max(5, repeats // 20))  # type: ignore[misc]
            update_us = _median_us(lambda p=peer: p.tell(some_x, 1, 1.0, 1.0), repeats=max(5, repeats // 20))  # type: ignore[misc]
            figures += [
                Figure(f"{name}_decide_speedup", "times", decide_us / float(whole), must=">= 10", baseline=("MABWiser, us", decide_us)),
                Figure(f"{name}_update_speedup", "times", update_us / float(update), must=">= 100", baseline=("MABWiser, us", update_us)),
            ]  # fmt: skip
    return figures


_NATIVE = """
import sys, time
from vowpal_wabbit_next import run_cli_driver
started = time.process_time()
run_cli_driver(sys.argv[1:])
print(time.process_time() - started)
"""


def vw_learning(n: int, *, runs: int, seed: int) -> Figure:
    """Interactions a second of processor time through the adapter, from columns, over VW's own driver on the same events as text."""
    batch = _world(n, seed, k=10, d=16)
    space = FeatureSpace.fit(batch.table)
    adapter = VowpalWabbit(space)
    contexts, offers = space.encode_contexts(batch.table), space.encode_offers(batch.table.offers)
    ratios, ours, native = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.txt"
        tails = [f"|o {_features(adapter._offer_hashes, z)}" for z in offers]
        with path.open("w") as file:
            for x, chosen, reward, p in zip(contexts, batch.chosen, batch.reward, batch.propensity, strict=True):
                file.write(f"shared |c {_features(adapter._context_hashes, x)}\n")
                file.writelines(f"{f'0:{-reward}:{p} ' if i == chosen else ''}{tail}\n" for i, tail in enumerate(tails))
                file.write("\n")
        arguments = [
            "--cb_explore_adf",
            "--squarecb",
            "--cb_type",
            "mtr",
            "-q",
            "co",
            "-b",
            "18",
            "--quiet",
            "-d",
            str(path),
        ]
        for _ in range(runs):
            learner = VowpalWabbit(space)
            started = time.process_time()
            learner.learn(batch)
            ours.append(n / (time.process_time() - started))
            done = subprocess.run(
                [sys.executable, "-c", _NATIVE, *arguments], capture_output=True, text=True, check=True
            )
            native.append(n / float(done.stdout.split()[-1]))
            ratios.append(ours[-1] / native[-1])
    return Figure(
        "vw_learning", "interactions/s", float(np.median(ours)), must=">= 0.85", aim=">= 1.2",
        baseline=("VW's own driver on the same events", float(np.median(native))), judge_ratio=True, runs=runs,
        spread=(min(ratios), max(ratios)), note="spread is of the ratio; the driver's time holds its parsing, ours the encoding",
    )  # fmt: skip


def _features(hashes: NDArray[np.uint64], x: NDArray[np.float32]) -> str:
    return " ".join(f"{h}:{v:.7g}" for h, v in zip(hashes.tolist(), x.tolist(), strict=True) if v)


def upworthy(n_tests: int, *, n_rounds: int, seed: int, can_judge: bool) -> list[Figure]:
    """Regret a round of Thompson sampling and of uniform over real headline tests, arms shuffled, click rates as found."""
    rng = np.random.default_rng(seed)
    regrets = []
    for clicks, shown in _tests(n_tests, rng):
        order = rng.permutation(len(clicks))
        rate = (clicks / shown)[order]
        regrets.append(
            [_bandit_regret(policy, rate, n_rounds=n_rounds, rng=rng) for policy in (BetaThompson(), Uniform())]
        )
    ours, uniform = np.asarray(regrets).T
    difference = uniform - ours
    half = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    mean = float(difference.mean())
    return [
        Figure(
            "upworthy_thompson_saves", "clicks per 1,000 impressions", 1000 * mean, must="> 0",
            baseline=("regret of uniform", float(1000 * uniform.mean())), can_judge=can_judge and abs(mean) > half, runs=len(difference),
            spread=(float(1000 * (mean - half)), float(1000 * (mean + half))),
        )
    ]  # fmt: skip


def _tests(n_tests: int, rng: np.random.Generator) -> list[tuple[FloatArray, FloatArray]]:
    import pandas as pd

    folder = data_folder() / "upworthy"
    clicks, shown = (
        pd.read_csv(folder / f"{name}_matrix.csv.gz", index_col=0).to_numpy(dtype=np.float64) for name in ("y", "n")
    )
    rows = rng.permutation(np.flatnonzero((shown > 0).sum(axis=1) > 1))[:n_tests]
    return [(clicks[row][shown[row] > 0], shown[row][shown[row] > 0]) for row in rows]


def _bandit_regret(
    policy: BetaThompson | Uniform, rate: FloatArray, *, n_rounds: int, rng: np.random.Generator
) -> float:
    size = 50  # impressions between two updates, as a site that learns every minute has them
    k = len(rate)
    offers = OfferSet([Offer(OfferId(f"headline {i}")) for i in range(k)])
    table = DecisionTable(offers, np.ones((size, k), dtype=np.bool_))
    lost = 0.0
    for _ in range(n_rounds // size):
        draws = decide(policy, table, uniforms=rng.random(size))
        reward = (rng.random(size) < rate[draws.chosen]).astype(np.float64)
        lost += float((rate.max() - rate[draws.chosen]).sum())
        if isinstance(policy, OnlineLearner):
            policy.learn(InteractionBatch(table, draws.chosen, draws.propensity, reward))
    return lost / (n_rounds // size * size)


def hillstrom(seed: int) -> Figure:
    """Visits of a learned policy less those of the best fixed e-mail, on the half it was not trained on, with 95 % interval."""
    import pandas as pd

    frame = pd.read_csv(data_folder() / "hillstrom" / "hillstrom.csv.gz")
    arms = sorted(frame["segment"].unique())
    offers = OfferSet([Offer(OfferId(a)) for a in arms])
    names = ("recency", "history", "mens", "womens", "newbie")
    columns: dict[str, NDArray[np.float64] | NDArray[np.str_]] = {c: frame[c].to_numpy(dtype=np.float64) for c in names}
    columns |= {c: frame[c].astype(str).to_numpy(dtype=str) for c in ("zip_code", "channel")}
    n = len(frame)
    table = DecisionTable(offers, np.ones((n, 3), dtype=np.bool_), columns)
    chosen = np.asarray([arms.index(a) for a in frame["segment"]], dtype=np.int64)
    batch = InteractionBatch(table, chosen, np.full(n, 1 / 3), frame["visit"].to_numpy(dtype=np.float64))
    order = np.random.default_rng(seed).permutation(n)
    train, test = batch.take(order[: n // 2]), batch.take(order[n // 2 :])
    model = RidgeRewardModel(FeatureSpace.fit(train.table), ridge=10.0)
    model.learn(train)
    best = int(np.argmax([train.reward[train.chosen == i].mean() for i in range(3)]))
    target = greedy(model).probabilities(test.table)
    q = model.expected_reward(test.table)
    rows = np.arange(len(test))
    residual = (test.reward - q[rows, test.chosen]) / test.propensity
    apart = target.copy()
    apart[:, best] -= 1.0
    scores = (apart * q).sum(axis=1) + apart[rows, test.chosen] * residual
    mean, half = float(scores.mean()), float(1.96 * scores.std(ddof=1) / np.sqrt(len(scores)))
    verdict = "a gain" if mean - half > 0 else "no gain that this log can show"
    return Figure(
        "hillstrom_over_best_fixed", "visits per customer", mean, runs=1, spread=(mean - half, mean + half),
        note=f"doubly robust, best fixed offer {arms[best]!r}: {verdict}",
    )  # fmt: skip


def main() -> int:
    """Run all of it."""
    options = parser(__doc__).parse_args()
    quick = options.quick
    figures = linear_speed(repeats=200 if quick else 1_000, seed=options.seed)
    figures.append(vw_learning(2_000 if quick else 20_000, runs=2 if quick else 5, seed=options.seed))
    figures += upworthy(
        20 if quick else 300, n_rounds=1_000 if quick else 3_000, seed=options.seed, can_judge=not quick
    )
    figures.append(hillstrom(options.seed))
    return finish("learning", figures, quick=quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(run(main))
