"""A randomised experiment turned into a confounded log with known propensities, and judged.

Rows are kept with a probability that depends on the arm and on one covariate. The kept log has unequal propensities that
are known exactly; the arms' means in it are biased; importance weighting and DR must recover the experiment's own arm
means. The keep probabilities of all arms have the same total for every covariate value, so that the kept people are like
all people.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offline_eval import evaluate
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet


@dataclass(frozen=True)
class Line:
    """One arm: truth, mean in the kept log, and estimates with their standard errors."""

    arm: str
    truth: float
    truth_error: float
    naive: float
    naive_error: float
    ips: float
    ips_error: float
    dr: float
    dr_error: float

    def off(self, value: float, error: float) -> float:
        """Standard errors between an estimate and the truth; the truth is itself a mean of a sample that holds the log."""
        return (value - self.truth) / error


def data_folder() -> Path:
    """The data folder, or a sentence."""
    folder = os.environ.get("NEXTOFFER_DATA_DIR")
    if not folder:
        raise SystemExit("NEXTOFFER_DATA_DIR is not set; point it at the folder with the data files")
    return Path(folder)


def judge(arms, arm, design, reward, is_high, columns, favoured, seed=0) -> list[Line]:
    """Confound and judge: ``design`` holds the experiment's arm probabilities, ``favoured`` the arm kept for high rows."""
    rng = np.random.default_rng(seed)
    k = len(arms)
    keep = np.empty((len(arm), k))
    # Relative to the design's probabilities, so that the sum over arms is one half for everyone.
    high = np.full(k, 0.5 * (1 - design[favoured] * 1.9) / (1 - design[favoured]))
    high[favoured] = 0.95
    low = np.full(k, 0.5 * (1 - design[favoured] * 0.4) / (1 - design[favoured]))
    low[favoured] = 0.2
    keep[:] = np.where(is_high[:, None], high, low)
    kept = rng.random(len(arm)) < keep[np.arange(len(arm)), arm]
    p = design * keep
    p /= p.sum(axis=1, keepdims=True)
    rows = np.flatnonzero(kept)
    offers = OfferSet([Offer(OfferId(a)) for a in arms])
    table = DecisionTable(offers, np.ones((len(rows), k), dtype=bool), columns={n: c[rows] for n, c in columns.items()})
    log = InteractionBatch(table, arm[rows], p[rows, arm[rows]], reward[rows], probabilities=p[rows])
    candidates = {a: np.tile(np.eye(k)[j], (len(rows), 1)) for j, a in enumerate(arms)}
    panel = evaluate(log, candidates, n_resamples=0, seed=seed)
    lines = []
    for j, name in enumerate(arms):
        truth, mine = reward[arm == j], log.reward[log.chosen == j]
        ips, dr = panel.estimate(name, "IPS"), panel.estimate(name, "DR")
        assert ips.value is not None
        assert dr.value is not None
        lines.append(
            Line(
                name, truth.mean(), truth.std() / len(truth) ** 0.5, mine.mean(), mine.std() / len(mine) ** 0.5,
                ips.value, ips.standard_error or 0.0, dr.value, dr.standard_error or 0.0,
            )
        )  # fmt: skip
    return lines


def report(title: str, lines: list[Line], favoured: str) -> int:
    """Print a table; 0 where IPS and DR are within 3 standard errors of the truth and the favoured arm's mean is not."""
    print(title)
    print(
        f"{'arm':16s} {'truth':>8s} {'arm mean':>9s} {'(s.e. off)':>10s} {'IPS':>8s} {'(s.e. off)':>10s} {'DR':>8s} {'(s.e. off)':>10s}"
    )
    for x in lines:
        print(
            f"{x.arm:16s} {x.truth:8.4f} {x.naive:9.4f} {x.off(x.naive, x.naive_error):10.1f} {x.ips:8.4f} "
            f"{x.off(x.ips, x.ips_error):10.1f} {x.dr:8.4f} {x.off(x.dr, x.dr_error):10.1f}"
        )
    return 0 if holds(lines, favoured) else 1


def holds(lines: list[Line], favoured: str) -> bool:
    """The rule."""
    recovered = all(abs(x.off(x.ips, x.ips_error)) <= 3 and abs(x.off(x.dr, x.dr_error)) <= 3 for x in lines)
    missed = any(abs(x.off(x.naive, x.naive_error)) > 3 for x in lines if x.arm == favoured)
    return recovered and missed
