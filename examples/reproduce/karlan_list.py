"""Karlan and List (2007), matching donations (50,083 people, control and three match ratios), confounded and judged."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow.parquet as pq
from confounded import Line, data_folder, judge, report

ARMS = ["control", "match 1:1", "match 2:1", "match 3:1"]
FAVOURED = 1


def lines(seed: int = 0) -> list[Line]:
    """Truth and estimates of each arm; the reward is whether a person gave."""
    table = pq.read_table(data_folder() / "karlan_list_2007" / "charitable.parquet")

    def column(name: str) -> np.ndarray:
        return np.nan_to_num(table[name].to_numpy(zero_copy_only=False).astype(float))

    treated, two, three = column("treatment"), column("treat_ratio2"), column("treat_ratio3")
    arm = np.where(treated == 0, 0, np.where(two == 1, 2, np.where(three == 1, 3, 1)))
    share = np.bincount(arm, minlength=4) / len(arm)  # the design: about 1/3 and 2/9 each
    columns = {name: column(name) for name in ("freq", "mrm2", "dormant", "female", "couple")}
    return judge(
        ARMS,
        arm,
        share,
        column("out_gavedum"),
        (columns["mrm2"] <= 10) & (columns["freq"] >= 8),
        columns,
        FAVOURED,
        seed,
    )


if __name__ == "__main__":
    sys.exit(report("Karlan and List, gave", lines(), ARMS[FAVOURED]))
