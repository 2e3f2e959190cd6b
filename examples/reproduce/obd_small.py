"""The Open Bandit sample: uniform log judged for the Thompson policy, and a Thompson log that must be refused for uniform."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confounded import data_folder

from offline_eval import Panel, evaluate
from offline_eval.interop.arrow import from_arrow
from offline_eval.interop.columns import Columns
from policies.records import InteractionBatch

# zr-obp examples/obd, campaign all, random -> Thompson.
PUBLISHED = {"DM": 0.157, "IPS": 0.311, "SNIPS": 0.312, "DR": 0.292}
NAMES = Columns(offer="item_id", reward="click", propensity="propensity_score", at="timestamp")


def read(name: str, n_items: int) -> tuple[InteractionBatch, np.ndarray]:
    """A log and the position (0 to 2) of each row."""
    table = pq.read_table(data_folder() / "obd_small" / f"{name}.parquet")
    position = table["position"].to_numpy()
    keep = [c for c in table.column_names if not c.startswith("user-item_affinity")]
    table = table.select(keep)
    stamp = pc.cast(pc.utf8_slice_codeunits(pc.cast(table["timestamp"], pa.string()), 0, 26), pa.timestamp("us"))
    table = table.set_column(0, "timestamp", stamp)
    return from_arrow(table, offers=[str(j) for j in range(n_items)], columns=NAMES), position - position.min()


def thompson(campaign: str, position: np.ndarray, *, n_draws: int = 100_000, seed: int = 0) -> np.ndarray:
    """The published Thompson policy: chance of each item in each of three positions, from its priors, by simulation."""
    import re

    text = (data_folder() / "obd_small" / "prior_bts.yaml").read_text()
    block = re.search(rf"^{campaign}:\n((?: .*\n)+)", text, re.M).group(1)
    alpha, beta = (
        np.array(
            [float(v) for v in re.findall(r"- ([\d.]+)", re.search(rf"  {name}:\n((?:    - .*\n)+)", block).group(1))]
        )
        for name in ("alpha", "beta")
    )
    rng = np.random.default_rng(seed)
    counts = np.zeros((3, len(alpha)))
    for _ in range(n_draws // 1000):
        top = np.argsort(-rng.beta(alpha, beta, size=(1000, len(alpha))), axis=1)[:, :3]
        for slot in range(3):
            counts[slot] += np.bincount(top[:, slot], minlength=len(alpha))
    share = counts / counts.sum(axis=1, keepdims=True)
    return share[position]


def forward() -> tuple[Panel, float]:
    """Uniform log, Thompson candidate: the panel, and what the Thompson log really earned."""
    log, position = read("all_random", 80)
    truth = float(pc.mean(pq.read_table(data_folder() / "obd_small" / "all_bts.parquet")["click"]).as_py())
    return evaluate(log, {"thompson": thompson("all", position)}), truth


def backward() -> Panel:
    """Thompson log of the women's campaign, uniform candidate: the log lacks most of what it would show."""
    log, _ = read("women_bts", 46)
    return evaluate(log, {"uniform": np.full((len(log), 46), 1 / 46)})


def main() -> int:
    """Print both; 0 where the second is refused."""
    panel, truth = forward()
    for name, published in PUBLISHED.items():
        value = panel.estimate("thompson", name).value
        print(
            f"{name:6s} {value:.5f}, truth {truth:.5f}, relative error {abs(value - truth) / truth:.3f}   published {published:.3f}"
        )
    print(panel.verdicts["thompson"].word, panel.verdicts["thompson"].reasons[0], sep=": ")
    refused = backward()
    print(
        f"women's, Thompson to uniform: {refused.verdicts['uniform'].word} (ESS {refused.effective_rows['uniform']:.0f}, ",
        end="",
    )
    print(f"largest weight {refused.largest_weight['uniform']:,.0f})")
    for reason in refused.verdicts["uniform"].reasons:
        print(f"  {reason}")
    return 0 if refused.verdicts["uniform"].word == "this log cannot answer" else 1


if __name__ == "__main__":
    sys.exit(main())
