"""What doubly robust evaluation is for: classification as a bandit, after Dudík, Langford and Li (2011), figure 1.

Each task is cut in half. On one half a linear classifier is trained; on the other, labels become offers, one is shown at random
and the reward is 1 where it is right. The classifier's accuracy on that half is the truth. The figure's claims, over many draws of
the shown offers: DM is biased, IPS and DR are not, and DR's error is smaller than that of IPS on every task.
"""

from __future__ import annotations

import gzip
import io
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from confounded import data_folder
from pyarrow import csv

from offline_eval import evaluate
from offline_eval.estimators import DirectMethod, DoublyRobust, InversePropensity
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet

TASKS = {"letter": "LetterRecognition.parquet", "satimage": "Satellite.parquet", "pendigits": "pendigits.csv.gz"}
ESTIMATORS = (DirectMethod(), InversePropensity(), DoublyRobust())


@dataclass(frozen=True)
class Line:
    """Bias and root mean squared error of each estimator on one task, by name, and the standard error of the bias."""

    task: str
    truth: float
    bias: dict[str, float]
    bias_error: dict[str, float]
    rmse: dict[str, float]


def read(task: str) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features and labels from 0."""
    path = data_folder() / "classification" / TASKS[task]
    if path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        names = [f"x{i}" for i in range(16)] + ["label"]
        content = io.BytesIO(gzip.decompress(path.read_bytes()))
        table = csv.read_csv(content, read_options=csv.ReadOptions(column_names=names))
    label = next(c for c in table.column_names if c.lower() in ("lettr", "classes", "label", "class"))
    x = np.column_stack([np.asarray(table[c], dtype=float) for c in table.column_names if c != label])
    y = np.unique(np.asarray(table[label].to_pylist()), return_inverse=True)[1]
    return (x - x.mean(axis=0)) / np.maximum(x.std(axis=0), 1e-9), y


def judge(task: str, *, n_draws: int = 20, seed: int = 0) -> Line:
    """Errors over many draws of the shown offers."""
    x, y = read(task)
    rng = np.random.default_rng(seed)
    order, k = rng.permutation(len(y))[:12_000], int(y.max()) + 1
    train, rows = np.array_split(order, 2)
    with_one = np.column_stack([np.ones(len(x)), x])
    gram = with_one[train].T @ with_one[train] + np.eye(with_one.shape[1])
    theta = np.linalg.solve(gram, with_one[train].T @ np.eye(k)[y[train]])
    target = np.eye(k)[(with_one[rows] @ theta).argmax(axis=1)]
    truth = float(target[np.arange(len(rows)), y[rows]].mean())
    offers = OfferSet([Offer(OfferId(str(j))) for j in range(k)])
    table = DecisionTable(offers, np.ones((len(rows), k), dtype=bool), vectors={"x": x[rows].astype(np.float32)})
    found: dict[str, list[float]] = {e.name: [] for e in ESTIMATORS}
    for draw in range(n_draws):
        shown = rng.integers(0, k, size=len(rows))
        reward = (shown == y[rows]).astype(float)
        log = InteractionBatch(table, shown, np.full(len(rows), 1 / k), reward)
        panel = evaluate(log, {"c": target}, estimators=ESTIMATORS, n_resamples=0, seed=draw)
        for name, values in found.items():
            value = panel.estimate("c", name).value
            assert value is not None
            values.append(value - truth)
    off = {name: np.asarray(values) for name, values in found.items()}
    return Line(
        task,
        truth,
        {name: float(e.mean()) for name, e in off.items()},
        {name: float(e.std(ddof=1) / n_draws**0.5) for name, e in off.items()},
        {name: float(np.sqrt((e**2).mean())) for name, e in off.items()},
    )


def holds(line: Line) -> bool:
    """The figure's claims on one task."""
    unbiased = all(abs(line.bias[name]) <= 3 * line.bias_error[name] for name in ("IPS", "DR"))
    biased = abs(line.bias["DM"]) > 3 * line.bias_error["DM"]
    return unbiased and biased and line.rmse["DR"] < line.rmse["IPS"]


def main() -> int:
    """Print a table; 0 where the claims hold on every task."""
    lines = [judge(task) for task in TASKS]
    for line in lines:
        told = "   ".join(
            f"{name} bias {line.bias[name]:+.4f} ± {line.bias_error[name]:.4f}, rmse {line.rmse[name]:.4f}"
            for name in line.bias
        )
        print(f"{line.task:10s} truth {line.truth:.4f}   {told}   {'holds' if holds(line) else 'DOES NOT HOLD'}")
    return 0 if all(holds(line) for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
