"""Off-policy evaluation: time and memory against plain numpy, one estimator after the other, in the same run.

The plain version is what one writes by hand: for each estimator its weights, its model terms, its mean, and for each
resample the counts of each subject taken to the rows. It computes the same numbers, which is checked. With ``--peer PYTHON``,
an interpreter that has Open Bandit Pipeline (obp 0.5.7, Python 3.10 at most, matplotlib below 3.8), obp runs on the same log and
its estimates are compared, and all estimators that both have on a smaller log with several loggers, attributes and slates; with
``--sequence-peer PYTHON`` the sequential ones with scope-rl.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._figures import Figure, finish, parser
from benchmarks._peers import agreement_with_obp, agreement_with_scope
from offline_eval import evaluate
from offline_eval.estimators import (
    ClippedIPS,
    DirectMethod,
    DoublyRobust,
    DRos,
    InversePropensity,
    SelfNormalisedDoublyRobust,
    SelfNormalisedIPS,
    SwitchDoublyRobust,
)
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch, Offer, OfferId, OfferSet

ESTIMATORS = (
    DirectMethod(),
    InversePropensity(),
    ClippedIPS(cap=10.0),
    SelfNormalisedIPS(),
    DoublyRobust(),
    SelfNormalisedDoublyRobust(),
    SwitchDoublyRobust(10.0),
    DRos(100.0),
)
N_RESAMPLES = 100


def made_log(n: int, k: int, n_subjects: int, *, seed: int) -> tuple[InteractionBatch, FloatArray, FloatArray]:
    """A log with its candidate and model values, from formulas."""
    rng = np.random.default_rng(seed)
    target = rng.random((n, k))
    target /= target.sum(axis=1, keepdims=True)
    q = rng.random((n, k)) * 0.1
    chosen = rng.integers(0, k, size=n)
    reward = (rng.random(n) < q[np.arange(n), chosen]).astype(np.float64)
    subjects = np.char.add("s", rng.integers(0, n_subjects, size=n).astype(np.str_))
    offers = OfferSet([Offer(OfferId(str(j))) for j in range(k)])
    table = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), subjects=subjects)
    return InteractionBatch(table, chosen, np.full(n, 1.0 / k), reward), target, q


def ours(log: InteractionBatch, target: FloatArray, q: FloatArray) -> dict[str, float]:
    """All estimators, intervals, bootstrap, checks and verdict."""
    panel = evaluate(log, {"c": target}, estimators=ESTIMATORS, reward_model=q, n_resamples=N_RESAMPLES)
    return {name: e.value or 0.0 for name, e in panel.estimates["c"].items()}


def subject_numbers(log: InteractionBatch) -> IntArray:
    """Each row's subject as a number from 0."""
    assert log.table.subjects is not None
    return np.asarray(np.unique(log.table.subjects, return_inverse=True)[1], dtype=np.int64)


def plain(log: InteractionBatch, target: FloatArray, q: FloatArray) -> dict[str, float]:
    """Each estimator by itself, with its own resamples."""
    rng = np.random.default_rng(0)
    subject = subject_numbers(log)
    n_subjects = int(subject.max()) + 1
    out = {}
    for name, terms in _ROW_TERMS.items():
        out[name] = _combine(terms(log, target, q), np.ones(len(log)))
        values = []
        for _ in range(N_RESAMPLES):
            counts = np.bincount(rng.integers(0, n_subjects, size=n_subjects), minlength=n_subjects)
            values.append(_combine(terms(log, target, q), counts[subject].astype(np.float64)))
        np.quantile(values, [0.025, 0.975])
    return out


def plain_rows(log: InteractionBatch, target: FloatArray, q: FloatArray) -> dict[str, float]:
    """As ``plain``, with each estimator's row terms computed once and only the averages repeated."""
    rng = np.random.default_rng(0)
    subject = subject_numbers(log)
    n_subjects = int(subject.max()) + 1
    out = {}
    for name, terms in _ROW_TERMS.items():
        parts = terms(log, target, q)
        out[name] = _combine(parts, np.ones(len(log)))
        values = []
        for _ in range(N_RESAMPLES):
            counts = np.bincount(rng.integers(0, n_subjects, size=n_subjects), minlength=n_subjects)
            values.append(_combine(parts, counts[subject].astype(np.float64)))
        np.quantile(values, [0.025, 0.975])
    return out


Terms = tuple[FloatArray | None, FloatArray | None, FloatArray | None]


def _combine(parts: Terms, counts: FloatArray) -> float:
    """Mean of the first, plus the second over the rows or over the third."""
    first, second, bottom = parts
    value = 0.0
    if first is not None:
        value += float((counts * first).sum() / counts.sum())
    if second is not None:
        value += float((counts * second).sum() / (counts.sum() if bottom is None else (counts * bottom).sum()))
    return value


def _weights(log: InteractionBatch, target: FloatArray) -> FloatArray:
    return np.asarray(target[np.arange(len(log)), log.chosen] / log.propensity)


def _residual(log: InteractionBatch, q: FloatArray) -> FloatArray:
    return np.asarray(log.reward - q[np.arange(len(log)), log.chosen])


def _dm(target: FloatArray, q: FloatArray) -> FloatArray:
    return np.asarray((target * q).sum(axis=1))


def _shrunk(w: FloatArray, kind: str) -> FloatArray:
    return np.where(w <= 10.0, w, 0.0) if kind == "switch" else np.asarray(100.0 * w / (w**2 + 100.0))


_ROW_TERMS: dict[str, Callable[[InteractionBatch, FloatArray, FloatArray], Terms]] = {
    "DM": lambda log, t, q: (_dm(t, q), None, None),
    "IPS": lambda log, t, q: (None, _weights(log, t) * log.reward, None),
    "clipped IPS (cap 10)": lambda log, t, q: (None, np.minimum(_weights(log, t), 10.0) * log.reward, None),
    "SNIPS": lambda log, t, q: (None, (w := _weights(log, t)) * log.reward, w),
    "DR": lambda log, t, q: (_dm(t, q), _weights(log, t) * _residual(log, q), None),
    "SNDR": lambda log, t, q: (_dm(t, q), (w := _weights(log, t)) * _residual(log, q), w),
    "Switch-DR (10)": lambda log, t, q: (_dm(t, q), _shrunk(_weights(log, t), "switch") * _residual(log, q), None),
    "DRos (100)": lambda log, t, q: (_dm(t, q), _shrunk(_weights(log, t), "os") * _residual(log, q), None),
}


class Memory:
    """Peak resident memory above the start, sampled while a block runs."""

    def __enter__(self) -> Memory:
        self._stop, self._base = threading.Event(), _resident()
        self.peak = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, _resident() - self._base)


def _resident() -> float:
    """Resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def _cpu(work: Callable[[], dict[str, float]]) -> tuple[float, dict[str, float]]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def speed(n: int, k: int, *, runs: int, seed: int, can_judge: bool, peer: str | None) -> list[Figure]:
    """CPU and memory on one log in memory."""
    log, target, q = made_log(n, k, n // 10, seed=seed)
    ours(log, target, q)  # imports, caches and the first touch of memory are not what is measured
    mine, rows, agree = [], [], 0.0
    for _ in range(runs):
        seconds, found = _cpu(lambda: ours(log, target, q))
        mine.append(seconds)
        beside, other = _cpu(lambda: plain_rows(log, target, q))
        rows.append(beside)
        agree = max(agree, *(abs(found[name] / other[name] - 1) for name in other))
    with Memory() as memory:
        ours(log, target, q)
    fraction = 10  # every step is linear in the rows, and the whole takes minutes
    whole, _ = _cpu(lambda: plain(log.take(slice(0, n // fraction)), target[: n // fraction], q[: n // fraction]))
    whole *= fraction
    size = f"{n:,} rows x {k} offers, 8 estimators, {N_RESAMPLES} clustered resamples"
    ratios = sorted(a / b for a, b in zip(mine, rows, strict=True))
    figures = [
        Figure(
            "cpu_panel", "s", float(np.median(mine)), must="<= 0.05", judge_ratio=True, runs=runs, can_judge=can_judge,
            baseline=("plain numpy, an estimator at a time, row terms kept for its resamples", float(np.median(rows))),
            spread=(ratios[0], ratios[-1]), note=f"{size}; ratio 0.05 is 20 times less; spread is of the ratio",
        ),
        Figure(
            "cpu_panel_against_repeated_terms", "s", float(np.median(mine)), runs=runs, spread=(min(mine), max(mine)),
            baseline=("plain numpy, row terms computed again in each resample (a tenth of the rows, times ten)", whole),
        ),
        Figure("extra_memory", "MiB", memory.peak, must="<= 300", can_judge=can_judge),
        Figure("largest_relative_difference", "", agree, must="<= 1e-9"),
    ]  # fmt: skip
    if peer is not None:
        again, _ = _cpu(lambda: ours(log, target, q))
        theirs = _peer(peer, n, k, seed=seed)
        found = ours(log, target, q)
        apart = max(abs(found[name] / value - 1) for name, value in theirs["values"].items())
        figures += [
            Figure(
                "cpu_panel_against_obp", "s", float(np.median([*mine, again])), must="<= 0.01", judge_ratio=True,
                runs=runs, baseline=("obp in an environment of its own, resampling rows", theirs["seconds"]), can_judge=can_judge,
                note="ratio 0.01 is 100 times less",
            ),
            Figure("extra_memory_of_obp", "MiB", theirs["extra_mib"]),
            Figure("largest_relative_difference_to_obp", "", apart, must="<= 1e-9"),
        ]  # fmt: skip
    return figures


def _peer(python: str, n: int, k: int, *, seed: int) -> dict[str, Any]:
    """What obp says of the same log, from a process of its own."""
    script = str(Path(__file__).parent / "_obp_peer.py")
    command = [python, script, str(n), str(k), str(seed), str(N_RESAMPLES)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def streamed(n: int, k: int, *, seed: int, can_judge: bool) -> list[Figure]:
    """A Parquet folder read in parts."""
    from offline_eval.interop.arrow import ParquetLog, write_parquet
    from policies.fixed import Uniform

    part, n_different = 500_000, 4
    with tempfile.TemporaryDirectory() as folder:
        for i in range(max(1, n // part)):
            path = Path(folder) / f"part-{i:04d}.parquet"
            if i >= n_different:  # a reader does not know that it has seen these rows before
                path.hardlink_to(Path(folder) / f"part-{i % n_different:04d}.parquet")
                continue
            log, _, _ = made_log(min(part, n), k, part // 10, seed=seed + i)
            ids = np.char.add(
                f"{i}-", np.arange(len(log)).astype(np.str_)
            )  # logs of a service have ids, which are compared
            write_parquet(replace(log, decision_ids=ids), path)
        del log, ids
        offers = [str(j) for j in range(k)]
        with Memory() as memory:
            started = time.process_time()
            panel = evaluate(
                ParquetLog(folder, offers), {"uniform": Uniform()}, fit_reward=None, n_resamples=N_RESAMPLES
            )
            seconds = time.process_time() - started
    return [
        Figure(
            "streamed_memory",
            "MiB",
            memory.peak,
            must="<= 2048",
            can_judge=can_judge and n >= 20_000_000,
            note=f"{panel.n_rows:,} rows in files of {part:,}, {n_different} of them different",
        ),
        Figure("streamed_cpu_per_million_rows", "s", seconds / panel.n_rows * 1e6),
    ]


def main() -> int:
    """Run all of it."""
    made = parser(__doc__)
    made.add_argument("--stream-rows", type=int, default=20_000_000, help="rows of the streamed log")
    made.add_argument("--peer", help="Python with obp, to be measured beside")
    made.add_argument("--sequence-peer", help="Python with scope-rl, to be compared with")
    options = made.parse_args()
    n = 100_000 if options.quick else 1_000_000
    figures = speed(
        n, 80, runs=3 if options.quick else 7, seed=options.seed, can_judge=not options.quick, peer=options.peer
    )
    figures += streamed(
        500_000 if options.quick else options.stream_rows, 4, seed=options.seed, can_judge=not options.quick
    )
    if options.peer is not None:
        figures += agreement_with_obp(options.peer, seed=options.seed)
    if options.sequence_peer is not None:
        figures += agreement_with_scope(options.sequence_peer, seed=options.seed)
    return finish("ope", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
