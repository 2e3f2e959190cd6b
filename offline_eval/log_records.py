"""What one reading of a log leaves for diagnostics, of the log and of each candidate; two parts of a log merge.

Sums are exact whatever the number of rows. Of the weights the heaviest million are kept as they are, so that the share of the
top 1 % is exact up to 10^8 rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline_eval.estimators.base import Rows
from offline_eval.moments import UIntArray, squared
from offline_eval.summaries import Calibration, CountsByOffer, RepeatedIds, SampledWeights, TimeSums, merged
from policies.records import BoolArray, FloatArray

MAX_HEAVIEST = 1 << 20
# Groups of rows (a policy, a variant, a segment, a day) whose shown offers are counted by themselves.
MAX_GROUPS = 512


@dataclass(slots=True, eq=False)
class CandidateRecord:
    """What diagnostics need of one candidate; arrays by offer have shape ``(k,)``.

    Attributes
    ----------
    n_rows, weight, weight2, n_shown, n_counting
        Rows, sum of weights, sum of their squares, rows with a weight above zero, and above their mean, which is 1.
    heaviest
        The largest weights in no order, at least as many as 1 % of the rows up to 10^8 rows.
    sample
        Evenly spread weights, for the picture of their distribution.
    target_total, unsupported_total
        Sums over rows of the candidate's distribution, shape ``(k,)``, and of its probability on offers with logged probability
        0; None where distributions are not known.
    weight_by_offer
        Total weight of the rows that showed each offer.
    time
        Weighted rewards over time; None where rows have no times.
    n_heaviest
        How many to keep: enough for 1 % of the rows, where their number is known beforehand.
    lowest, at_lowest, at_zero
        Least reward so far, and rows with weight above zero, weight and squared weight of the rows that earned it, and of those
        that earned 0.
    """

    k: int
    n_rows: int = 0
    weight: float = 0.0
    weight2: float = 0.0
    n_shown: int = 0
    n_counting: int = 0
    heaviest: FloatArray = field(default_factory=lambda: np.zeros(0))
    sample: SampledWeights = field(default_factory=SampledWeights)
    target_total: FloatArray | None = None
    weight_by_offer: FloatArray = field(default_factory=lambda: np.zeros(0))
    unsupported_total: float | None = 0.0
    lowest: float = np.inf
    at_lowest: FloatArray = field(default_factory=lambda: np.zeros(3))
    at_zero: FloatArray = field(default_factory=lambda: np.zeros(3))
    time: TimeSums | None = None
    n_heaviest: int = MAX_HEAVIEST
    _least_kept: float = -np.inf
    _heavy: list[FloatArray] = field(default_factory=list)
    _n_heavy: int = 0

    def __post_init__(self) -> None:
        if not len(self.weight_by_offer):
            self.weight_by_offer = np.zeros(self.k)
            self.target_total = np.zeros(self.k)

    @property
    def effective_rows(self) -> float:
        """``(sum w)^2 / sum w^2`` (Kish 1965): how many rows of equal weight would tell as much."""
        return self.weight**2 / self.weight2 if self.weight2 > 0 else 0.0

    @property
    def largest(self) -> float:
        """The largest weight."""
        return float(self.heaviest.max()) if len(self.heaviest) else 0.0

    @property
    def target_by_offer(self) -> FloatArray | None:
        """Mean probability of each offer; None for the logging policy without logged distributions."""
        return None if self.target_total is None else self.target_total / max(self.n_rows, 1)

    @property
    def unsupported(self) -> float | None:
        """Mean candidate probability on offers with logged probability 0; None where distributions were not logged."""
        return None if self.unsupported_total is None else self.unsupported_total / max(self.n_rows, 1)

    def positives(self, usual: float) -> tuple[int, float]:
        """Rows that count for the candidate with another reward than the ``usual`` one of the log, and their effective number."""
        usually = self.at_lowest if usual == self.lowest else self.at_zero
        n, weight, weight2 = np.asarray([self.n_shown, self.weight, self.weight2]) - usually
        return round(n), float(weight**2 / weight2) if n > 0 and weight2 > 0 else 0.0

    def add(self, rows: Rows, at: NDArray[np.datetime64] | None = None) -> None:
        """Add rows, with their times where they are known."""
        w = rows.weight
        whole = _weighed(w)
        self.n_rows += len(w)
        self.n_shown += int(whole[0])
        self.weight += float(whole[1])
        self.weight2 += float(whole[2])
        self.n_counting += int(np.count_nonzero(w > 1))
        if at is not None:
            self.time = self.time or TimeSums()
            self.time.add(at, rows.reward, w)
        heavy = w if self._least_kept < 0 else w[w > self._least_kept]
        self._heavy.append(heavy)
        self._n_heavy += len(heavy)
        if self._n_heavy > 2 * self.n_heaviest:
            self.settle()
        self.sample.add(w)
        self.weight_by_offer += np.bincount(rows.chosen, weights=w, minlength=self.k)
        if rows.target is None or self.target_total is None:
            self.target_total = None
        else:
            self.target_total += np.einsum("ij->j", rows.target)
        if rows.logged is None or rows.target is None or self.unsupported_total is None:
            self.unsupported_total = None
        elif not rows.logged.min() > 0:
            self.unsupported_total += float(rows.target[rows.logged <= 0].sum())
        low = float(rows.reward.min())
        if low < self.lowest:
            self.lowest, self.at_lowest = low, np.zeros(3)
        of_low = _weighed_where(rows.reward == low, w, whole)
        if low == self.lowest:
            self.at_lowest += of_low
        if low <= 0:
            self.at_zero += of_low if low == 0 else _weighed_where(rows.reward == 0, w, whole)

    def settle(self) -> None:
        """Cut the heaviest weights to their number."""
        whole = np.concatenate([self.heaviest, *self._heavy])
        if len(whole) > self.n_heaviest:
            whole = np.partition(whole, len(whole) - self.n_heaviest)[-self.n_heaviest :].copy()
            self._least_kept = float(whole[0])  # as many weigh at least as much: lighter ones cannot be among them
        self.heaviest, self._heavy, self._n_heavy = whole, [], len(whole)

    def top(self) -> FloatArray:
        """The heaviest 1 % of all rows (at least one) and the next one, in ascending order."""
        m = max(1, self.n_rows // 100)
        n = len(self.heaviest)
        if n <= m + 1:
            return np.sort(self.heaviest)
        return np.sort(np.partition(self.heaviest, n - m - 1)[-m - 1 :])

    def merge(self, other: CandidateRecord) -> CandidateRecord:
        """Both parts of a log together."""
        out = CandidateRecord(
            self.k,
            self.n_rows + other.n_rows,
            self.weight + other.weight,
            self.weight2 + other.weight2,
            self.n_shown + other.n_shown,
            self.n_counting + other.n_counting,
            sample=self.sample.merge(other.sample),
            weight_by_offer=self.weight_by_offer + other.weight_by_offer,
        )
        out._heavy = [self.heaviest, other.heaviest]
        out.settle()
        out.target_total = merged(self.target_total, other.target_total)
        out.unsupported_total = merged(self.unsupported_total, other.unsupported_total)
        out.lowest = min(self.lowest, other.lowest)
        out.at_lowest = sum((r.at_lowest for r in (self, other) if r.lowest == out.lowest), np.zeros(3))
        out.at_zero = self.at_zero + other.at_zero
        out.time = _either(self.time, other.time)
        return out


def _weighed_where(mask: BoolArray, weights: FloatArray, whole: FloatArray) -> FloatArray:
    """Of the rows in the mask; where these are most rows, what the others leave of the whole, which takes a fraction of the time."""
    if 2 * np.count_nonzero(mask) <= len(mask):
        return _weighed(weights[mask])
    return np.asarray(whole - _weighed(weights[~mask]))


def _weighed(weights: FloatArray) -> FloatArray:
    """Weights above zero, their sum and that of their squares."""
    return np.asarray([np.count_nonzero(weights), weights.sum(), squared(weights)], dtype=np.float64)


@dataclass(slots=True, eq=False)
class LogRecord:
    """What diagnostics need of the log itself.

    Attributes
    ----------
    counts, counts_by_group
        Shown offers against logged propensities: of all rows, and of those with one policy, variant, segment or day.
    reward_total, reward2_total, lowest, highest, n_at_lowest, n_at_zero
        Sum, sum of squares and range of the rewards, and the number of rows with the least and with 0.
    spread
        Least and largest of propensity times number of eligible offers.
    ids
        Hashes of decision ids; None where rows have none.
    calibration, time
        Model's values against rewards, and rewards over time; None where not known.
    model_range
        Least and largest of the model's values of shown offers.
    gap
        Rows, sum and squared sum of the model's mean under the logged distribution less its value of the shown offer.
    """

    k: int
    n_rows: int = 0
    n_units: int | None = None
    counts: CountsByOffer | None = None
    counts_by_group: dict[tuple[str, str], CountsByOffer] = field(default_factory=dict)
    reward_total: float = 0.0
    reward2_total: float = 0.0
    lowest: float = np.inf
    highest: float = -np.inf
    n_at_lowest: int = 0
    n_at_zero: int = 0
    spread: tuple[float, float] = (np.inf, -np.inf)
    ids: RepeatedIds | None = field(default_factory=RepeatedIds)
    calibration: Calibration | None = None
    model_range: tuple[float, float] = (np.inf, -np.inf)
    time: TimeSums | None = None
    gap: FloatArray = field(default_factory=lambda: np.zeros(3))

    @property
    def usual_reward(self) -> float:
        """What a row earns where nothing happens: the least reward, or 0 where that is more frequent (a refund may be below it)."""
        return 0.0 if self.n_at_zero > self.n_at_lowest else self.lowest

    @property
    def n_positive(self) -> int:
        """Rows with another reward than the usual one."""
        return self.n_rows - max(self.n_at_lowest, self.n_at_zero)

    @property
    def mean_reward(self) -> float:
        """Mean reward of the log."""
        return self.reward_total / max(self.n_rows, 1)

    @property
    def reward_variance(self) -> float:
        """Variance of the rewards over rows."""
        return max(self.reward2_total / max(self.n_rows, 1) - self.mean_reward**2, 0.0)

    @property
    def n_duplicates(self) -> int | None:
        """Rows that repeat an earlier decision id; None where rows have none."""
        return None if self.ids is None else self.ids.count()

    @property
    def logged_gap(self) -> tuple[float, float] | None:
        """Mean gap of the A/A check and its standard error; None where not every row has one."""
        n, total, square = self.gap
        if n < 2 or n != self.n_rows:
            return None
        mean = total / n
        return float(mean), float(np.sqrt(max(square / n - mean**2, 0.0) / (n - 1)))

    def add(
        self, reward: FloatArray, *, propensity: FloatArray, eligible: BoolArray | None, counts: CountsByOffer
    ) -> None:
        """Add rows; ``eligible`` is None where every offer could be shown in every row."""
        self.n_rows += len(reward)
        self.counts = counts if self.counts is None else self.counts.merge(counts)
        self.reward_total += float(reward.sum())
        self.reward2_total += squared(reward)
        low = float(reward.min())
        if low < self.lowest:
            self.lowest, self.n_at_lowest = low, 0
        n_low = int(np.count_nonzero(reward == low))
        if low == self.lowest:
            self.n_at_lowest += n_low
        if low <= 0:
            self.n_at_zero += n_low if low == 0 else int(np.count_nonzero(reward == 0))
        self.highest = max(self.highest, float(reward.max()))
        share = propensity * (self.k if eligible is None else eligible.sum(axis=1, dtype=np.float64))
        self.spread = (min(self.spread[0], float(share.min())), max(self.spread[1], float(share.max())))

    def add_group(self, kind: str, name: str, counts: CountsByOffer) -> None:
        """Add rows that have a policy, variant, segment or day in common; beyond 512 of these, no more are opened."""
        known = self.counts_by_group.get((kind, name))
        if known is not None:
            self.counts_by_group[kind, name] = known.merge(counts)
        elif len(self.counts_by_group) < MAX_GROUPS:
            self.counts_by_group[kind, name] = counts

    def add_ids(self, hashed: UIntArray | None) -> None:
        """Add decision ids; None where the rows have none."""
        if hashed is None or self.ids is None:
            self.ids = None
        else:
            self.ids.add(hashed)

    def add_time(self, at: NDArray[np.datetime64], reward: FloatArray) -> None:
        """Add rewards with their times."""
        self.time = self.time or TimeSums()
        self.time.add(at, reward)

    def add_model(self, values: FloatArray, reward: FloatArray, gap: FloatArray | None) -> None:
        """Add the model's values of shown offers."""
        if self.calibration is None:
            self.calibration = Calibration.starting_with(values)
        self.calibration.add(values, reward)
        self.model_range = min(self.model_range[0], float(values.min())), max(self.model_range[1], float(values.max()))
        if gap is not None:
            self.gap += np.asarray([len(gap), gap.sum(), squared(gap)])

    def merge(self, other: LogRecord) -> LogRecord:
        """Both parts of a log together."""
        out = LogRecord(self.k, self.n_rows + other.n_rows)
        a, b = self.counts, other.counts
        out.counts = b if a is None else (a if b is None else a.merge(b))
        for record in (self, other):
            for (kind, name), counts in record.counts_by_group.items():
                out.add_group(kind, name, counts)
        out.reward_total = self.reward_total + other.reward_total
        out.reward2_total = self.reward2_total + other.reward2_total
        out.lowest, out.highest = min(self.lowest, other.lowest), max(self.highest, other.highest)
        out.n_at_lowest = sum(r.n_at_lowest for r in (self, other) if r.lowest == out.lowest)
        out.n_at_zero = self.n_at_zero + other.n_at_zero
        out.spread = (min(self.spread[0], other.spread[0]), max(self.spread[1], other.spread[1]))
        out.ids = None if self.ids is None or other.ids is None else self.ids.merge(other.ids)
        out.calibration = _either(self.calibration, other.calibration)
        mine, theirs = self.model_range, other.model_range
        out.model_range = min(mine[0], theirs[0]), max(mine[1], theirs[1])
        out.time = _either(self.time, other.time)
        out.gap = self.gap + other.gap
        return out


def _either(a: Any, b: Any) -> Any:
    return b if a is None else (a if b is None else a.merge(b))
