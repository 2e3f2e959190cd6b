"""How far one log of visits is from another: a calibrated simulator from the site, or one world from another.

Distances of marginals, survival of contracts, autocorrelation of visits, and a classifier that tries to tell the two apart from
the days of each visitor's market window. What a linear classifier on days, clicks and their neighbours cannot see, this cannot see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import ks_2samp

from policies.errors import InvalidInputError
from policies.records import FloatArray
from simulator.rollouts import Rollout
from simulator.world import MARKET_DAYS

SURVIVAL_DAYS = (1, 7, 14, 30)
_RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class Distance:
    """One comparison.

    Parameters
    ----------
    first, second
        The figure in each log; for a marginal its mean.
    error
        Standard error of their difference.
    p_value
        Of the hypothesis that both logs follow one law; Kolmogorov and Smirnov's for marginals, else the normal one.
    """

    name: str
    first: float
    second: float
    error: float
    p_value: float


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """All comparisons, and the share of visitors a classifier assigns to the right log (0.5: it cannot tell)."""

    distances: tuple[Distance, ...]
    accuracy: float
    accuracy_error: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "distances": [{n: getattr(d, n) for n in Distance.__slots__} for d in self.distances],
            "classifier": {"accuracy": self.accuracy, "standard_error": self.accuracy_error},
        }


def fidelity(first: Rollout, second: Rollout, *, seed: int = 0) -> FidelityReport:
    """Compare two logs, visitor by visitor.

    Raises
    ------
    InvalidInputError
        If one of them has fewer than 100 visitors.
    """
    for run in (first, second):
        if len(run.subjects.n_visits) < 100:
            raise InvalidInputError(
                f"a log has {len(run.subjects.n_visits)} visitors; expected at least 100 to compare anything"
            )
    a, b = _visit_days(first), _visit_days(second)
    distances = [
        _marginal("visits in the market window", a[0].sum(axis=1), b[0].sum(axis=1)),
        _marginal("clicks in the market window", a[1].sum(axis=1), b[1].sum(axis=1)),
        _share("signed", *_rates(first), *_rates(second)),
    ]
    distances += [
        _share(f"active {day} days after signing", *_active(first, day), *_active(second, day)) for day in SURVIVAL_DAYS
    ]
    distances += [_correlation(lag, a[0], b[0]) for lag in (1, 2, 3)]
    return FidelityReport(tuple(distances), *_tell_apart(np.hstack(a), np.hstack(b), seed=seed))


def _visit_days(run: Rollout) -> tuple[FloatArray, FloatArray]:
    """Visits and clicks of each visitor on each day of the market window, both ``(n_subjects, MARKET_DAYS)``."""
    n = len(run.subjects.n_visits)
    start = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(start, run.row, run.day)
    offset = run.day - start[run.row]
    inside = offset < MARKET_DAYS
    visits, clicks = np.zeros((n, MARKET_DAYS)), np.zeros((n, MARKET_DAYS))
    visits[run.row[inside], offset[inside]] = 1.0
    clicks[run.row[inside], offset[inside]] = run.rewards["clicked"][inside]
    return visits, clicks


def _rates(run: Rollout) -> tuple[float, int]:
    signed = run.subjects.signed_day >= 0
    return float(signed.mean()), len(signed)


def _active(run: Rollout, day: int) -> tuple[float, int]:
    signed, left = run.subjects.signed_day, run.subjects.cancelled_day
    seen = (signed >= 0) & run.subjects.is_matured
    alive = (left[seen] < 0) | (left[seen] - signed[seen] > day)
    return (float(alive.mean()) if seen.any() else float("nan")), int(seen.sum())


def _marginal(name: str, a: FloatArray, b: FloatArray) -> Distance:
    error = float(np.sqrt(a.var() / len(a) + b.var() / len(b)))
    return Distance(name, float(a.mean()), float(b.mean()), error, float(ks_2samp(a, b).pvalue))


def _share(name: str, a: float, n_a: int, b: float, n_b: int) -> Distance:
    pooled = (a * n_a + b * n_b) / max(n_a + n_b, 1)
    error = float(np.sqrt(pooled * (1.0 - pooled) * (1.0 / max(n_a, 1) + 1.0 / max(n_b, 1))))
    return Distance(name, a, b, error, _two_sided(a - b, error))


def _correlation(lag: int, a: FloatArray, b: FloatArray) -> Distance:
    """Of coming on two days ``lag`` apart, after the first day (on which everyone comes)."""

    def of(days: FloatArray) -> tuple[float, int]:
        early, late = days[:, 1:-lag].ravel(), days[:, 1 + lag :].ravel()
        return float(np.corrcoef(early, late)[0, 1]), len(early)

    (r_a, n_a), (r_b, n_b) = of(a), of(b)
    error = float(np.sqrt((1 - r_a**2) ** 2 / n_a + (1 - r_b**2) ** 2 / n_b))
    return Distance(f"autocorrelation of visits, {lag} days apart", r_a, r_b, error, _two_sided(r_a - r_b, error))


def _two_sided(difference: float, error: float) -> float:
    from scipy.special import ndtr

    return float(2.0 * ndtr(-abs(difference) / error)) if error > 0 else 1.0


def _tell_apart(a: FloatArray, b: FloatArray, *, seed: int) -> tuple[float, float]:
    """Accuracy on held-out visitors of a ridge logistic regression on days, clicks and neighbouring visits; its error."""
    n = min(len(a), len(b))
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.permutation(a)[:n], rng.permutation(b)[:n]])
    visits = x[:, :MARKET_DAYS]
    x = np.hstack([np.ones((2 * n, 1)), x, visits[:, :-1] * visits[:, 1:], visits[:, :-2] * visits[:, 2:]])
    y = np.repeat([0.0, 1.0], n)
    order = rng.permutation(2 * n)
    train, test = order[:n], order[n:]
    w = np.zeros(x.shape[1])
    for _ in range(25):
        p = expit(x[train] @ w)
        gradient = x[train].T @ (y[train] - p) - _RIDGE * w
        information = (x[train] * (p * (1.0 - p))[:, None]).T @ x[train] + _RIDGE * np.eye(len(w))
        step = np.linalg.solve(information, gradient)
        w = w + step
        if np.abs(step).max() < 1e-8:
            break
    accuracy = float(((x[test] @ w > 0) == (y[test] > 0)).mean())
    return accuracy, float(np.sqrt(0.25 / n))
