"""Synthetic decision points with a known rule, for tests of everything that is fitted on them."""

from __future__ import annotations

import numpy as np

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit

DAY_S = 86_400
VOCABULARIES = {"event_type": ["visit", "cart", "buy"], "item": ["bread", "milk", "tea", "nuts", "soap"]}


def decision_points(
    n: int = 600, *, seed: int = 0, strength: float = 1.0, n_subjects: int | None = None
) -> SequenceDataset:
    """Rows whose label follows the share of ``buy`` among the last events, an aggregate and the offer's kind.

    About one row in twelve has no events, one in fifteen is not matured, and aggregates are missing in one row in ten.
    """
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(n) < 1 / 12, 0, rng.integers(1, 40, size=n))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    m = int(offsets[-1])
    row = np.repeat(np.arange(n), lengths)
    taste = rng.normal(size=n)
    event_type = (1 + (rng.random(m) < 0.5) + (rng.random(m) < expit(taste[row] - 1.0))).astype(np.int32)
    gap_s = rng.exponential(2.0 * DAY_S, size=m).astype(np.int32)
    gap_s[offsets[:-1][lengths > 0]] = 0
    agg = rng.gamma(1.5, 20.0, size=n)
    kind = np.asarray(["big", "small", "tiny"])[rng.integers(0, 3, size=n)]
    bought = np.bincount(row, weights=event_type == 3, minlength=n) / np.maximum(lengths, 1)
    score = -1.5 + strength * (4.0 * (bought - 0.3) + 1.2 * (np.log1p(agg / 20) - 0.9) + 1.4 * (kind == "big"))
    matured = rng.random(n) >= 1 / 15
    label = np.where(matured, (rng.random(n) < expit(score)).astype(np.float64), np.nan)
    n_subjects = n_subjects or max(2, n // 3)
    split = np.asarray(["train", "validation", "calibration", "test"])[rng.choice(4, size=n, p=[0.5, 0.15, 0.15, 0.2])]
    return SequenceDataset(
        event_type=event_type,
        item=rng.integers(0, 6, size=m).astype(np.int32),
        gap_s=gap_s,
        value=rng.gamma(2.0, 5.0, size=m).astype(np.float32),
        offsets=offsets,
        gap_to_as_of_s=rng.integers(60, 20 * DAY_S, size=n).astype(np.int32),
        columns={
            "agg_spend": np.where(rng.random(n) < 0.1, np.nan, agg),
            "agg_visits": lengths.astype(np.float64),
            "customer_age": np.asarray(["19-24", "25-34", ""])[rng.integers(0, 3, size=n)],
            "offer_kind": kind,
        },
        label=label,
        is_matured=matured,
        subject=np.asarray([f"s{i}" for i in rng.integers(0, n_subjects, size=n)]),
        offer=np.asarray([f"o{i}" for i in rng.integers(0, 4, size=n)]),
        split=split,
        as_of=np.datetime64("2017-03-01", "us") + rng.integers(0, 200, size=n) * np.timedelta64(1, "D"),
        manifest={"vocabularies": VOCABULARIES},
    )
