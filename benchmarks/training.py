"""Training on ragged sequences: batches of near-equal length against padding every row to the maximum.

Both train the same network, from the same start, for the same number of passes over the same rows; what is compared is
samples a second of processor time (interleaved, one thread) and the AUC on rows that neither saw. Each framework has a process of its own.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks._figures import Figure, finish, parser
from engine.models.dataset import SequenceDataset
from engine.models.metrics import Interval, expit, paired_difference
from engine.models.propensity import PropensityModel

MAX_EVENTS = 128
# As each model trains by default.
OURS = {"gru": "buckets", "transformer": "tokens", "cnn": "buckets"}
# Passes until both ways of batching have learned what there is.
EPOCHS = {"gru": 4, "transformer": 4, "cnn": 10}
# The convolution is cheap beside the fixed cost of a step, so that less of a step is padding.
MUST = {"gru": ">= 5.0", "transformer": ">= 5.0", "cnn": ">= 2.5"}


def ragged(n: int, *, seed: int) -> SequenceDataset:
    """Histories with many short and few long rows (log-normal lengths, median 12, cut at 128), and a label from their events."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(12), 0.9, size=n).astype(np.int64), 1, MAX_EVENTS)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    m = int(offsets[-1])
    row = np.repeat(np.arange(n), lengths)
    taste = rng.normal(size=n)
    event_type = (1 + (rng.random(m) < 0.5) + (rng.random(m) < expit(taste[row] - 1.0))).astype(np.int32)
    gap_s = rng.exponential(86_400.0 * np.exp(-0.3 * taste[row])).astype(np.int32)
    gap_s[offsets[:-1]] = 0
    label = (rng.random(n) < expit(-1.0 + 1.2 * taste)).astype(np.float64)
    return SequenceDataset(
        event_type=event_type,
        item=rng.integers(0, 50, size=m).astype(np.int32),
        gap_s=gap_s,
        value=rng.gamma(2.0, 5.0, size=m).astype(np.float32),
        offsets=offsets,
        gap_to_as_of_s=rng.integers(60, 86_400, size=n).astype(np.int32),
        columns={"agg_noise": rng.normal(size=n)},
        label=label,
        is_matured=np.ones(n, dtype=np.bool_),
        subject=np.arange(n).astype(np.str_),
        offer=np.full(n, "all"),
        split=np.full(n, "train"),
        as_of=np.zeros(n, dtype="datetime64[us]"),
    )


def one_fit(kind: str, batching: str, data: dict[str, SequenceDataset], *, epochs: int, seed: int) -> tuple[float, Any]:
    """Samples a second of the passes over the training rows (batching included, scoring the validation rows not) and predictions on the test rows."""
    shared: dict[str, Any] = {"batching": batching, "max_epochs": epochs, "patience": epochs, "seed": seed}
    shared["rows_per_batch"] = 128
    model = _model(kind, shared)
    seconds = model.fit(data["train"], data["validation"]).history["train_cpu_seconds"]
    # The first pass pays for what a framework prepares once (graphs, buffers).
    return (epochs - 1) * len(data["train"]) / sum(seconds[1:]), model.predict(data["test"])


def _model(kind: str, shared: dict[str, Any]) -> PropensityModel:
    if kind == "cnn":
        from engine.models.keras_cnn import CNNConfig, KerasCNN

        return KerasCNN(CNNConfig(**shared))
    import torch

    from engine.models.torch_sequence import GRUConfig, TorchGRU
    from engine.models.torch_transformer import TorchTransformer, TransformerConfig

    torch.set_num_threads(1)
    return TorchGRU(GRUConfig(**shared)) if kind == "gru" else TorchTransformer(TransformerConfig(**shared))


def measure(kind: str, *, quick: bool, runs: int) -> list[Figure]:
    """Both ways of batching in turn; the ratio is the median over runs."""
    n = 2_000 if quick else 6_000
    whole = ragged(n + 2_500, seed=1)
    rows = np.arange(len(whole))
    data = {
        "train": whole.take(rows[:n]),
        "validation": whole.take(rows[n : n + 500]),
        "test": whole.take(rows[n + 500 :]),
    }
    # Imports and first calls.
    one_fit(kind, OURS[kind], {**data, "train": data["train"].take(rows[:200])}, epochs=2, seed=0)
    rates: dict[str, list[float]] = {"ours": [], "padded": []}
    scores: dict[str, list[Any]] = {"ours": [], "padded": []}
    for run in range(runs):
        for batching in ("ours", "padded"):
            rate, score = one_fit(
                kind,
                OURS[kind] if batching == "ours" else batching,
                data,
                epochs=2 if quick else EPOCHS[kind],
                seed=run,
            )
            rates[batching].append(rate)
            scores[batching].append(score)
    ratios = np.array(rates["ours"]) / np.array(rates["padded"])
    middle = int(np.argsort(ratios)[len(ratios) // 2])
    speed = Figure(
        name=f"{kind}_samples_per_second",
        unit="samples/s",
        ours=rates["ours"][middle],
        baseline=(f"the same {kind}, every row padded to {MAX_EVENTS}", rates["padded"][middle]),
        must=MUST[kind],
        judge_ratio=True,
        can_judge=not quick,
        runs=runs,
        spread=[float(r) for r in ratios],
    )
    gap = _auc_gap(data["test"], np.mean(scores["ours"], axis=0), np.mean(scores["padded"], axis=0))
    same = Figure(
        name=f"{kind}_auc_ours_minus_padded",
        unit="AUC",
        ours=gap.value,
        must=">= -0.01",
        can_judge=not quick,
        runs=runs,
        spread=[gap.low, gap.high],
        note="paired difference on rows that neither saw, 95 % interval",
    )
    return [speed, same]


def _auc_gap(test: SequenceDataset, ours: Any, theirs: Any) -> Interval:
    return paired_difference(
        "roc_auc", test.label, ours, theirs, test.subject, rng=np.random.default_rng(0), n_resamples=200
    )


def main() -> int:
    """Run from the command line."""
    made = parser(__doc__)
    made.add_argument("--models", default=",".join(OURS), help=f"among {', '.join(OURS)}")
    options = made.parse_args()
    kinds = options.models.split(",")
    if not set(kinds) <= set(OURS):
        made.error(f"unknown model in {options.models}; expected some of {', '.join(OURS)}")
    os.environ |= {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    figures: list[Figure] = []
    for kind in kinds:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
            figures += process.submit(measure, kind, quick=options.quick, runs=1 if options.quick else 3).result()
    return finish("training", figures, quick=options.quick, path=options.json, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
