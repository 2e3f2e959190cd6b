"""Hillstrom e-mail challenge (64,000 customers, three randomised arms), confounded by past spending and judged."""

from __future__ import annotations

import csv
import gzip
import sys

import numpy as np
from confounded import Line, data_folder, judge, report

ARMS = ["No E-Mail", "Mens E-Mail", "Womens E-Mail"]
FAVOURED = 2


def lines(seed: int = 0) -> list[Line]:
    """Truth and estimates of each arm; the reward is a visit within two weeks."""
    with gzip.open(data_folder() / "hillstrom" / "hillstrom.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    arm = np.array([ARMS.index(r["segment"]) for r in rows])
    history = np.array([float(r["history"]) for r in rows])
    columns = {
        "recency": np.array([float(r["recency"]) for r in rows]),
        "history": np.log(history),
        **{name: np.array([float(r[name]) for r in rows]) for name in ("mens", "womens", "newbie")},
        "channel": np.array([r["channel"] for r in rows]),
    }
    is_high = (columns["womens"] == 1) & (columns["newbie"] == 0)
    visit = np.array([float(r["visit"]) for r in rows])
    return judge(ARMS, arm, np.full(3, 1 / 3), visit, is_high, columns, FAVOURED, seed)


if __name__ == "__main__":
    sys.exit(report("Hillstrom, visits", lines(), ARMS[FAVOURED]))
