"""How fast and how well the learners learn: VW through our adapter, LinTS and LinUCB beside their floor, real experiments.

``python -m benchmarks.learning [--quick] [--parts speed upworthy campaigns store]``; MABWiser is measured where it is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks._bandits import Labelled, MABWiser, has, run
from benchmarks._experiments import hillstrom, karlan_list, upworthy
from benchmarks._figures import Figure, end_what_was_started, finish, parser
from benchmarks._kept import Kept
from benchmarks._learning_from_store import figures as from_store
from policies.features import FeatureSpace
from policies.fixed import Uniform
from policies.linear import LinTS, LinUCB
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet
from policies.sampling import decide
from policies.vw import VowpalWabbit

N_OFFERS, WIDTH = 20, 32
PARTS = ("speed", "upworthy", "campaigns", "store")


def _world(n: int, seed: int, *, k: int = N_OFFERS, d: int = WIDTH) -> InteractionBatch:
    rng = np.random.default_rng(seed)
    offers = OfferSet([Offer(OfferId(f"o{i}"), {"price": float(i)}) for i in range(k)])
    block = rng.normal(size=(n, d)).astype(np.float32)
    table = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), {}, {"x": block})
    draws = decide(Uniform(), table, uniforms=rng.random(n))
    rate = 1 / (1 + np.exp(-(block @ rng.normal(size=(d, k)) / np.sqrt(d))[np.arange(n), draws.chosen]))
    return InteractionBatch(table, draws.chosen, draws.propensity, (rng.random(n) < rate).astype(np.float64))


_N_CONTEXTS = 100


def _median_us(calls: Sequence[Callable[[], object]], *, repeats: int) -> float:
    """Median over calls of the median time of each: what a decision costs depends on who asks."""
    times = np.empty((repeats, len(calls)))
    for row in times:
        for j, call in enumerate(calls):
            started = time.perf_counter()
            call()
            row[j] = time.perf_counter() - started
    return float(np.median(np.median(times, axis=0)) * 1e6)


def linear_speed(*, repeats: int, seed: int) -> list[Figure]:
    """One decision and one update at 20 offers and 32 features, beside a bare gemv of the same size and MABWiser.

    A decision is ``probabilities`` of a table of one row that is there already: encoding, scoring and the exact distribution.
    An update is ``learn`` of one interaction, everything it changes included.
    """
    batch = _world(2_000, seed)
    space = FeatureSpace.fit(batch.table)
    tables = [batch.table.take(slice(i, i + 1)) for i in range(_N_CONTEXTS)]
    rows = [batch.take(slice(i, i + 1)) for i in range(_N_CONTEXTS)]
    stacked = np.ones((N_OFFERS * (WIDTH + 1), WIDTH + 1), dtype=np.float32)
    x = np.ones(WIDTH + 1, dtype=np.float32)
    contexts = batch.table.vectors["x"]
    figures = []
    for name, learner in (("linucb", LinUCB(space)), ("lints", LinTS(space))):
        learner.learn(batch)
        peer = _mabwiser(name, batch) if has("mabwiser") else None
        timed: list[list[Callable[[], object]]] = [
            [partial(np.matmul, stacked, x)] * _N_CONTEXTS,
            [partial(learner.state.mean_and_variance, t) for t in tables],
            [partial(learner.probabilities, t) for t in tables],
            [partial(learner.learn, row) for row in rows],
        ]
        if peer is not None:
            timed.append([partial(peer.choose, contexts[i], 0.5) for i in range(10)])
            timed.append([partial(peer.tell, contexts[i], int(batch.chosen[i]), 1.0, 1.0) for i in range(10)])
        rounds = [[_median_us(calls, repeats=max(2, repeats * len(calls) // _N_CONTEXTS)) for calls in timed] for _ in range(5)]  # fmt: skip
        floor, score, whole, update, *theirs = np.median(rounds, axis=0)
        spread = np.asarray([r[2] / r[0] for r in rounds])
        baseline = ("one float32 gemv of the stacked inverses", float(floor))
        figures += [
            Figure(f"{name}_score", "us", float(score), baseline=baseline, runs=5, note="encode, mean and variance of each offer"),
            Figure(f"{name}_decide", "us", float(whole), must="<= 6", baseline=baseline, judge_ratio=True, runs=5,
                   spread=(float(spread.min()), float(spread.max())), note="median of 100 contexts; spread is of the ratio"),
            Figure(f"{name}_update", "us", float(update), runs=5),
        ]  # fmt: skip
        if theirs:
            each = [[r[4] / r[2] for r in rounds], [r[5] / r[3] for r in rounds]]
            figures += [
                Figure(f"{name}_decide_speedup", "times", float(np.median(each[0])), must=">= 10", baseline=("MABWiser, us", float(theirs[0])),
                       runs=5, spread=(min(each[0]), max(each[0]))),
                Figure(f"{name}_update_speedup", "times", float(np.median(each[1])), must=">= 100", baseline=("MABWiser, us", float(theirs[1])),
                       runs=5, spread=(min(each[1]), max(each[1]))),
            ]  # fmt: skip
    return figures


def _mabwiser(name: str, batch: InteractionBatch) -> MABWiser:
    kind = {"linucb": "LinUCB", "lints": "LinTS"}[name]
    peer = MABWiser(kind, Labelled("", batch.table.vectors["x"], batch.chosen, N_OFFERS))
    for i in range(40):
        peer.tell(batch.table.vectors["x"][i], int(batch.chosen[i]), 1.0, float(batch.reward[i]))
    return peer


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


def main() -> int:
    """Run all of it."""
    end_what_was_started()
    made = parser(__doc__)
    made.add_argument(
        "--tests", type=int, default=None, help="headline tests drawn at random; default: all 4,873, four minutes"
    )
    made.add_argument("--parts", nargs="*", default=list(PARTS), choices=PARTS)
    made.add_argument(
        "--keep",
        type=Path,
        default=None,
        help="folder of the headline tests measured so far: a run that was cut off goes on from it",
    )
    options = made.parse_args()
    quick = options.quick
    kept = Kept(options.keep / "learning.jsonl" if options.keep else None)
    figures: list[Figure] = []
    if "speed" in options.parts:
        figures += linear_speed(repeats=10 if quick else 50, seed=options.seed)
        figures.append(vw_learning(2_000 if quick else 20_000, runs=2 if quick else 5, seed=options.seed))
    if "upworthy" in options.parts:
        figures += upworthy(30 if quick else options.tests, seed=options.seed, can_judge=not quick, kept=kept)
    if "campaigns" in options.parts:
        figures += [hillstrom(options.seed), karlan_list(options.seed)]
    if "store" in options.parts:
        figures += from_store(quick=quick, seed=options.seed)
    return finish("learning", figures, quick=quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(run(main))
