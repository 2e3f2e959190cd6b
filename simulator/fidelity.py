"""How far one log of visits is from another: a calibrated simulator from the site, or one world from another.

Each visitor is followed for 30 days from the first visit; who came too late for that is left out of both logs. Compared are marginals,
survival of contracts, autocorrelation of visits, and by a classifier whole sequences of days: visits, clicks, contracts. What a
linear classifier on days, their neighbours, gaps and counts cannot see, this cannot see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, ndtr
from scipy.stats import ks_2samp, rankdata

from policies.errors import InvalidInputError
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, IntArray
from simulator.evidence import seen_from_the_start
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import FAMILIES
from simulator.times import delays_of

SEQUENCE_DAYS = 30
SURVIVAL_DAYS = (1, 7, 14, 30)
MIN_VISITORS = 100
_RIDGE = 1.0
_Z95 = 1.959964
_MAX_VISITS = 5


@dataclass(frozen=True, slots=True)
class Distance:
    """One comparison.

    Parameters
    ----------
    first, second
        The figure in each log; for a marginal its mean.
    error
        Standard error of their difference, over visitors.
    p_value
        Of the hypothesis that both logs follow one law; Kolmogorov and Smirnov's for marginals, else the normal one.
    adjusted_p
        By Holm's rule over all comparisons of the report.
    """

    name: str
    first: float
    second: float
    error: float
    p_value: float
    adjusted_p: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain values; None where a log has nothing to compare."""
        told: dict[str, Any] = {n: getattr(self, n) for n in Distance.__slots__}
        difference = self.second - self.first
        told |= {
            "difference": difference,
            "low": difference - _Z95 * self.error,
            "high": difference + _Z95 * self.error,
        }
        return {n: None if isinstance(v, float) and not np.isfinite(v) else v for n, v in told.items()}


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """All comparisons, and how well a classifier tells visitors of the two logs apart.

    Attributes
    ----------
    auc, auc_error
        Chance that it ranks a visitor of the second log above one of the first, on visitors it was not fitted on (0.5: it cannot tell); its standard error.
    n_first, n_second
        Visitors compared.
    """

    distances: tuple[Distance, ...]
    auc: float
    auc_error: float
    n_first: int
    n_second: int

    @property
    def auc_interval(self) -> tuple[float, float]:
        """95 %."""
        return self.auc - _Z95 * self.auc_error, self.auc + _Z95 * self.auc_error

    @property
    def is_told_apart(self) -> bool:
        """Whether the classifier's interval lies above 0.5."""
        return self.auc_interval[0] > 0.5

    def differing(self) -> tuple[str, ...]:
        """Comparisons whose difference chance does not explain, at 5 % over all of them together."""
        return tuple(d.name for d in self.distances if d.adjusted_p < 0.05)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        low, high = self.auc_interval
        return {
            "n_first": self.n_first,
            "n_second": self.n_second,
            "distances": [d.to_json() for d in self.distances],
            "differing": list(self.differing()),
            "classifier": {
                "auc": self.auc, "standard_error": self.auc_error, "low": low, "high": high,
                "is_told_apart": self.is_told_apart,
            },
        }  # fmt: skip


def fidelity(first: Rollout, second: Rollout, *, seed: int = 0) -> FidelityReport:
    """Compare two logs, visitor by visitor: those whom each has seen since their first visit, in all comparisons.

    Raises
    ------
    InvalidInputError
        If one of them has fewer than 100 visitors whose 30 days are over.

    References
    ----------
    Lopez-Paz and Oquab (2017), "Revisiting classifier two-sample tests"; DeLong, DeLong and Clarke-Pearson (1988) for the error.
    """
    first, second = seen_from_the_start(first), seen_from_the_start(second)
    a, b = (_Lives.of(run) for run in (first, second))
    distances = [
        _marginal(f"visits in {SEQUENCE_DAYS} days", a.visits.sum(axis=1), b.visits.sum(axis=1)),
        _marginal(f"clicks in {SEQUENCE_DAYS} days", a.clicks.sum(axis=1), b.clicks.sum(axis=1)),
        _marginal("days between visits", a.gaps, b.gaps),
        _difference(f"signed in {SEQUENCE_DAYS} days", _mean(a.has_signed), _mean(b.has_signed)),
        _marginal("days from click to contract", delays_of(first), delays_of(second)),
    ]
    distances += [
        _difference(f"clicks per view, {family}", a.click_rate(i), b.click_rate(i))
        for i, family in enumerate(FAMILIES)
        if a.click_rate(i)[1] > 0 and b.click_rate(i)[1] > 0
    ]
    distances += [
        _difference(f"active {day} days after signing", _survival(first, day), _survival(second, day))
        for day in SURVIVAL_DAYS
    ]
    distances += [
        _difference(
            f"autocorrelation of visits, {lag} days apart", _correlation(lag, a.visits), _correlation(lag, b.visits)
        )
        for lag in (1, 2, 3)
    ]
    auc, error = _tell_apart(a.features(), b.features(), seed=seed)
    return FidelityReport(tuple(_holm(distances)), auc, error, len(a.visits), len(b.visits))


def days_of_arrival(run: Rollout) -> int:
    """Over how many days the visitors of a log came for the first time."""
    first = np.full(len(run.subjects.n_visits), run.last_day)
    np.minimum.at(first, run.row, run.day)
    return int(first[run.row].max()) + 1


@dataclass(frozen=True, slots=True, eq=False)
class AsLogged:
    """Shows offers as a log did on average: by stage, class searched for and number of visits so far.

    What the logging policy knew beyond that is not in it.

    Parameters
    ----------
    known
        Mean logged distribution of each combination seen, each of shape ``(k,)``.
    """

    known: dict[tuple[str, str, int], FloatArray]
    name = "as logged"
    traits = PolicyTraits()

    @classmethod
    def of(cls, run: Rollout) -> AsLogged:
        """As this log did."""
        keys = _situations(run.table)
        return cls(
            {k: run.probabilities[[i for i, key in enumerate(keys) if key == k]].mean(axis=0) for k in set(keys)}
        )

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """The log's mean distribution over what is eligible; uniform where the log never was."""
        k = len(table.offers)
        unknown = np.full(k, 1.0 / k)
        out = np.stack([self.known.get(key, unknown) for key in _situations(table)]) * table.eligible
        empty = out.sum(axis=1) <= 0
        out[empty] = table.eligible[empty]
        return np.asarray(out / out.sum(axis=1, keepdims=True), dtype=np.float64)


def _situations(table: DecisionTable) -> list[tuple[str, str, int]]:
    visits = np.minimum(table.columns["n_visits"], _MAX_VISITS).astype(np.int64).tolist()
    return list(zip(table.columns["stage"].tolist(), table.columns["searched_class"].tolist(), visits, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class _Lives:
    """Days of the visitors of a log whose 30 days are over, shape ``(n, SEQUENCE_DAYS)`` each; figures of theirs."""

    visits: FloatArray
    clicks: FloatArray
    is_active: FloatArray
    gaps: FloatArray
    has_signed: FloatArray
    views: IntArray
    view_clicks: IntArray

    @classmethod
    def of(cls, run: Rollout) -> _Lives:
        n = len(run.subjects.n_visits)
        start = np.full(n, np.iinfo(np.int64).max // 2)
        np.minimum.at(start, run.row, run.day)
        who = np.flatnonzero(start + SEQUENCE_DAYS <= run.last_day + 1)
        if len(who) < MIN_VISITORS:
            raise InvalidInputError(
                f"a log has {len(who)} visitors who were followed for {SEQUENCE_DAYS} days; expected at least {MIN_VISITORS}"
            )
        place = np.full(n, -1)
        place[who] = np.arange(len(who))
        offset = run.day - start[run.row]
        inside = np.flatnonzero((place[run.row] >= 0) & (offset < SEQUENCE_DAYS))
        at = place[run.row[inside]], offset[inside]
        visits, clicks = np.zeros((len(who), SEQUENCE_DAYS)), np.zeros((len(who), SEQUENCE_DAYS))
        visits[at] = 1.0
        np.maximum.at(clicks, at, run.rewards["clicked"][inside])
        days = np.arange(SEQUENCE_DAYS)[None, :] + start[who][:, None]
        signed, left = run.subjects.signed_day[who][:, None], run.subjects.cancelled_day[who][:, None]
        active = (signed >= 0) & (signed <= days) & ((left < 0) | (left > days))
        family = [FAMILIES.index(str(o.features["family"])) for o in run.table.offers]
        shown = np.asarray(family)[run.chosen[inside]]
        flat = at[0] * len(FAMILIES) + shown
        shape = len(who) * len(FAMILIES)
        rows, columns = np.nonzero(visits)
        same = rows[1:] == rows[:-1]
        return cls(
            visits=visits,
            clicks=clicks,
            is_active=active.astype(np.float64),
            gaps=(columns[1:] - columns[:-1])[same].astype(np.float64),
            has_signed=((signed >= 0) & (signed < start[who][:, None] + SEQUENCE_DAYS))[:, 0].astype(np.float64),
            views=np.bincount(flat, minlength=shape).reshape(-1, len(FAMILIES)),
            view_clicks=np.bincount(flat[run.rewards["clicked"][inside] > 0], minlength=shape).reshape(
                -1, len(FAMILIES)
            ),
        )

    def click_rate(self, family: int) -> tuple[float, float]:
        """Clicks over views of a family of offers, and the standard error over visitors."""
        views, clicks = self.views[:, family], self.view_clicks[:, family]
        if not clicks.sum():
            return 0.0, 0.0
        rate = clicks.sum() / views.sum()
        return float(rate), float(np.sqrt(((clicks - rate * views) ** 2).sum()) / views.sum())

    def features(self) -> FloatArray:
        """What the classifier sees of each visitor, shape ``(n, d)``."""
        n_visits, n_clicks = self.visits.sum(axis=1), self.clicks.sum(axis=1)
        rows, columns = np.nonzero(self.visits)
        same = rows[1:] == rows[:-1]
        gap, owner = (columns[1:] - columns[:-1])[same], rows[1:][same]
        gaps = np.zeros((len(n_visits), SEQUENCE_DAYS))
        np.add.at(gaps, (owner, gap), 1.0)
        last = np.zeros(len(n_visits))
        np.maximum.at(last, rows, columns.astype(np.float64))
        single = [n_visits, n_visits**2, n_clicks, n_clicks**2, n_clicks / n_visits, last, last**2]
        pairs = [self.visits[:, :-lag] * self.visits[:, lag:] for lag in (1, 2, 3)]
        again = self.clicks[:, :-1] * self.visits[:, 1:]
        return np.hstack([self.visits, self.clicks, self.is_active, gaps, *pairs, again, np.stack(single, axis=1)])


def _mean(values: FloatArray) -> tuple[float, float]:
    return float(values.mean()), float(values.std() / np.sqrt(len(values)))


def _survival(run: Rollout, day: int) -> tuple[float, float]:
    """Share of contracts active a number of days after signing, by Kaplan and Meier, and Greenwood's error; nan without contracts."""
    signed = np.unique(run.row)
    signed = signed[run.subjects.signed_day[signed] >= 0]
    start, left = run.subjects.signed_day[signed], run.subjects.cancelled_day[signed]
    if not len(signed):
        return float("nan"), float("nan")
    is_end = left >= 0
    lasted = np.where(is_end, left, run.last_day) - start
    alive, variance = 1.0, 0.0
    for t in range(1, day + 1):
        at_risk = int((lasted >= t).sum())
        ends = int((is_end & (lasted == t)).sum())
        if not at_risk:
            return float("nan"), float("nan")
        alive *= 1.0 - ends / at_risk
        variance += ends / (at_risk * max(at_risk - ends, 1))
    return alive, float(alive * np.sqrt(variance))


def _correlation(lag: int, visits: FloatArray) -> tuple[float, float]:
    """Of coming on two days ``lag`` apart, after the first day (on which everyone comes), and its error over visitors."""
    early, late = visits[:, 1:-lag], visits[:, 1 + lag :]
    x = (early - early.mean()) / max(early.std(), 1e-12)
    y = (late - late.mean()) / max(late.std(), 1e-12)
    r = float((x * y).mean())
    influence = (x * y - 0.5 * r * (x**2 + y**2)).mean(axis=1)
    return r, float(influence.std() / np.sqrt(len(influence)))


def _marginal(name: str, a: FloatArray | IntArray, b: FloatArray | IntArray) -> Distance:
    if not len(a) or not len(b):
        return Distance(name, float("nan"), float("nan"), float("nan"), 1.0)
    error = float(np.sqrt(a.var() / len(a) + b.var() / len(b)))
    return Distance(name, float(a.mean()), float(b.mean()), error, float(ks_2samp(a, b).pvalue))


def _difference(name: str, a: tuple[float, float], b: tuple[float, float]) -> Distance:
    error = float(np.hypot(a[1], b[1]))
    p_value = float(2.0 * ndtr(-abs(a[0] - b[0]) / error)) if error > 0 else 1.0
    return Distance(name, a[0], b[0], error, p_value)


def _holm(distances: list[Distance]) -> list[Distance]:
    """With p-values that hold for all of them together."""
    p = np.asarray([d.p_value for d in distances])
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return [
        Distance(d.name, d.first, d.second, d.error, d.p_value, float(q))
        for d, q in zip(distances, adjusted, strict=True)
    ]


def _tell_apart(a: FloatArray, b: FloatArray, *, seed: int) -> tuple[float, float]:
    """Area under the curve of a ridge logistic regression on the half of the visitors it was not fitted on; its error.

    One split, not folds: areas of folds are not independent, and an interval from them is too short by a third.
    """
    rng = np.random.default_rng(seed)
    n = min(len(a), len(b))
    x = np.concatenate([rng.permutation(a)[:n], rng.permutation(b)[:n]])
    spread = x.std(axis=0)
    x = (x[:, spread > 0] - x[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    x = np.hstack([np.ones((2 * n, 1)), x])
    y = np.repeat([0.0, 1.0], n)
    train = np.tile(np.arange(n) % 2 == 0, 2)
    scores = x[~train] @ _logistic(x[train], y[train])
    area, variance = area_under_curve(scores[y[~train] < 0.5], scores[y[~train] > 0.5])
    return area, float(np.sqrt(variance))


def _logistic(x: FloatArray, y: FloatArray) -> FloatArray:
    w = np.zeros(x.shape[1])
    for _ in range(25):
        p = expit(x @ w)
        gradient = x.T @ (y - p) - _RIDGE * w
        information = (x * (p * (1.0 - p))[:, None]).T @ x + _RIDGE * np.eye(len(w))
        step = np.linalg.solve(information, gradient)
        w = w + step
        if np.abs(step).max() < 1e-6:
            break
    return np.asarray(w, dtype=np.float64)


def area_under_curve(negative: FloatArray, positive: FloatArray) -> tuple[float, float]:
    """Chance that a positive score is above a negative one (ties count half), and the variance of that by DeLong's rule."""
    m, n = len(positive), len(negative)
    ranks = rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - rankdata(positive)) / n  # of each positive: the share of negatives below it
    below = 1.0 - (ranks[m:] - rankdata(negative)) / m
    return float(above.mean()), float(above.var(ddof=1) / m + below.var(ddof=1) / n)
