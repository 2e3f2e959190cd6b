"""Reads a log once, in chunks, and keeps what every estimator, interval and diagnostic needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from offline_eval.estimators.base import ONE, REWARD, Column, Estimator, Rows, Shrunk
from offline_eval.moments import (
    N_HASHED_GROUPS,
    Accumulator,
    Moments,
    groups_of,
    hash_numbers,
    hash_text,
    unit_groups,
)
from offline_eval.reward_models import CrossFitted, check_expected
from policies.errors import InvalidInputError
from policies.protocols import Policy, RewardModel
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch, OfferSet
from policies.sampling import check_distribution, with_explore_share

Candidate = Policy | FloatArray
Model = RewardModel | CrossFitted | FloatArray

# Probabilities and model values of a chunk stay in the processor's cache: about 4 MB a matrix.
_CHUNK_CELLS = 1 << 19
_BUFFER_ROWS = 1 << 16
SEPARATOR = "\x1f"


class Log(Protocol):
    """A log that can be read in chunks, in the same order every time."""

    @property
    def offers(self) -> OfferSet:
        """Offers of all rows."""
        ...

    def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
        """Consecutive parts of at most ``n_rows`` rows."""
        ...


class Part:
    """Consecutive rows of a log; the table is cut only where someone needs it."""

    def __init__(self, batch: InteractionBatch, start: int, rows: slice) -> None:
        self.start = start
        self._batch, self._rows = batch, rows
        self.chosen: IntArray = batch.chosen[rows]
        self.propensity: FloatArray = batch.propensity[rows]
        self.reward: FloatArray = batch.reward[rows]
        self.eligible = batch.table.eligible[rows]
        self.logged = None if batch.probabilities is None else batch.probabilities[rows]

    @cached_property
    def table(self) -> DecisionTable:
        """What was known before the choices."""
        return self._batch.table.take(self._rows)

    def column(self, name: str) -> NDArray[np.str_] | None:
        """A text column of the log, where there is one."""
        whole = self._batch.table.subjects if name == "subjects" else getattr(self._batch, name)
        return None if whole is None else whole[self._rows]

    @property
    def at(self) -> NDArray[np.datetime64] | None:
        """Times, where there are any."""
        return None if self._batch.table.at is None else self._batch.table.at[self._rows]

    def __len__(self) -> int:
        return len(self.chosen)


@dataclass(slots=True, eq=False)
class CandidateRecord:
    """What diagnostics need of one candidate.

    Attributes
    ----------
    weights
        Weight of each row, shape ``(n,)``.
    target_by_offer
        Mean probability of each offer, shape ``(k,)``; None for the logging policy without logged distributions.
    weight_by_offer
        Total weight of the rows that showed each offer, shape ``(k,)``.
    unsupported
        Total candidate probability on offers with logged probability 0; None where distributions were not logged.
    """

    weights: FloatArray
    target_by_offer: FloatArray | None
    weight_by_offer: FloatArray
    unsupported: float | None


@dataclass(slots=True, eq=False)
class LogRecord:
    """What diagnostics need of the log itself; arrays by offer have shape ``(k,)``."""

    n_rows: int
    n_units: int | None
    count_by_offer: FloatArray
    inverse_propensity_by_offer: FloatArray
    inverse_propensity2_by_offer: FloatArray
    eligible_by_offer: FloatArray
    logged_by_offer: FloatArray | None
    logged_variance_by_offer: FloatArray | None
    n_positive: int
    n_duplicates: int | None
    propensity_spread: float
    reward: FloatArray
    model_chosen: FloatArray | None
    at: NDArray[np.datetime64] | None
    logged_gap: tuple[float, float] | None
    lowest_reward: float
    highest_reward: float


@dataclass(slots=True, eq=False)
class Pass:
    """Everything one reading of a log leaves behind."""

    moments: Moments
    candidates: dict[str, CandidateRecord]
    log: LogRecord
    estimators: dict[str, tuple[Estimator, ...]] = field(default_factory=dict)


def read_once(
    log: InteractionBatch | Log,
    candidates: Mapping[str, Candidate | None],
    estimators: Sequence[Estimator],
    *,
    model: Model | None,
    explore_share: float,
) -> Pass:
    """Read a log once.

    Parameters
    ----------
    candidates
        Policies or probabilities by name; None stands for the policy that logged.
    model
        A reward model, a cross-fitted one, or its values of shape ``(n, k)``.
    explore_share
        Share of uniform exploration that a ``Policy`` would be served with.
    """
    used = [e for e in estimators if model is not None or not e.needs_model]
    columns = _columns(used)
    names = [ONE, REWARD] + [f"{c}{SEPARATOR}{col.name}" for c in candidates for col in columns]
    state: _State | None = None
    for part in _parts(log):
        if state is None:
            state = _State(log, names, list(candidates), part.eligible.shape[1])
        q = _model_values(model, part)
        gap = _gap(part, q)
        blocks: list[FloatArray] = [np.ones(len(part)), part.reward]
        for name, candidate in candidates.items():
            rows = _rows(name, candidate, part, q, explore_share)
            blocks.extend(column.of(rows) for column in columns)
            state.add_candidate(name, rows)
        state.add_log(part, None if q is None else q[np.arange(len(part)), part.chosen], gap)
        state.add_blocks(blocks, part)
    if state is None or state.n_rows == 0:
        raise InvalidInputError("the log has no rows; expected at least two decisions with rewards")
    return state.finish({name: tuple(used) for name in candidates})


def _parts(log: InteractionBatch | Log) -> Iterator[Part]:
    start = 0
    if isinstance(log, InteractionBatch):
        step = min(max(256, _CHUNK_CELLS // log.table.n_offers), _BUFFER_ROWS)
        for begin in range(0, len(log), step):
            yield Part(log, begin, slice(begin, min(begin + step, len(log))))
        return
    for batch in log.chunks(_BUFFER_ROWS):
        step = min(max(256, _CHUNK_CELLS // batch.table.n_offers), _BUFFER_ROWS)
        for begin in range(0, len(batch), step):
            rows = slice(begin, min(begin + step, len(batch)))
            yield Part(batch, start + begin, rows)
        start += len(batch)


def _columns(estimators: Sequence[Estimator]) -> list[Column]:
    found: dict[str, Column] = {}
    for estimator in estimators:
        wanted = list(estimator.columns)
        if isinstance(estimator, Shrunk):
            wanted.append(estimator.shrunk_weight)
        for column in wanted:
            found.setdefault(column.name, column)
    found.setdefault("w", Column("w", lambda rows: rows.weight))
    return list(found.values())


def _model_values(model: Model | None, part: Part) -> FloatArray | None:
    if model is None:
        return None
    shape = part.eligible.shape
    if isinstance(model, np.ndarray):
        return check_expected(model[part.start : part.start + len(part)], (shape[0], shape[1]))
    if isinstance(model, CrossFitted):
        return model.expected_reward(part.table, model.folds_of(part.table, part.start))
    return check_expected(model.expected_reward(part.table), (shape[0], shape[1]))


def _gap(part: Part, q: FloatArray | None) -> FloatArray | None:
    """Mean of the model under the logged distribution less its value of the shown offer: 0 on average if both are true."""
    if q is None or part.logged is None:
        return None
    return np.asarray(np.einsum("ij,ij->i", part.logged, q) - q[np.arange(len(part)), part.chosen])


def _rows(name: str, candidate: Candidate | None, part: Part, q: FloatArray | None, explore_share: float) -> Rows:
    index = np.arange(len(part))
    q_chosen = None if q is None else q[index, part.chosen]
    if candidate is None:
        target, target_chosen = part.logged, part.propensity
        weight = np.ones(len(part))
    else:
        target = _target(name, candidate, part, explore_share)
        target_chosen = target[index, part.chosen]
        weight = target_chosen / part.propensity
    q_target = q_chosen if q is None or target is None else np.einsum("ij,ij->i", target, q)
    return Rows(
        weight=weight,
        reward=part.reward,
        propensity=part.propensity,
        chosen=part.chosen,
        target=target,
        target_chosen=target_chosen,
        model_chosen=q_chosen,
        model_target=q_target,
        logged=part.logged,
        eligible=part.eligible,
    )


def _target(name: str, candidate: Candidate, part: Part, explore_share: float) -> FloatArray:
    if isinstance(candidate, np.ndarray):
        target: FloatArray = np.asarray(candidate[part.start : part.start + len(part)], dtype=np.float64)
        is_whole = target.shape == part.eligible.shape
        if not is_whole or not _is_distribution(target, part):
            check_distribution(target, part.eligible, policy_name=name)
        return target
    raw = np.asarray(candidate.probabilities(part.table), dtype=np.float64)
    check_distribution(raw, part.eligible, policy_name=name)
    return with_explore_share(np.where(part.eligible, raw, 0.0), part.eligible, explore_share)


def _is_distribution(target: FloatArray, part: Part) -> bool:
    """The same rules as ``check_distribution`` in fewer passes; not-a-number fails the first comparison."""
    if not target.min() >= 0.0:
        return False
    if not np.abs(target @ np.ones(target.shape[1]) - 1.0).max() <= 1e-4:
        return False
    return bool(part.eligible.all()) or not (target[~part.eligible] > 0).any()


class _State:
    """Sums under way."""

    def __init__(self, log: InteractionBatch | Log, names: Sequence[str], candidates: Sequence[str], k: int) -> None:
        self.k = k
        self.n_rows = 0
        self._fixed: IntArray | None = None
        self._n_units: int | None = None
        if isinstance(log, InteractionBatch):
            self._fixed, n_groups, self._n_units, rows_are_units = unit_groups(log.table.subjects, len(log))
        else:
            n_groups, rows_are_units = N_HASHED_GROUPS, False
        self._sums = Accumulator(names, n_groups=n_groups, rows_are_units=rows_are_units)
        self._n_groups = n_groups
        self._buffer = np.empty((len(names), _BUFFER_ROWS))
        self._buffer_groups = np.empty(_BUFFER_ROWS, dtype=np.int64)
        self._held = 0
        self._weights: dict[str, list[FloatArray]] = {c: [] for c in candidates}
        self._target: dict[str, FloatArray | None] = {c: np.zeros(k) for c in candidates}
        self._weight_by_offer = {c: np.zeros(k) for c in candidates}
        self._unsupported: dict[str, float | None] = dict.fromkeys(candidates, 0.0)
        self._by_offer = np.zeros((6, k))
        self._has_logged = True
        self._n_positive = 0
        self._lowest, self._highest = np.inf, -np.inf
        self._spread = [np.inf, -np.inf]
        self._ids: list[NDArray[np.uint64]] = []
        self._has_ids = True
        self._reward: list[FloatArray] = []
        self._q: list[FloatArray] = []
        self._at: list[NDArray[np.datetime64]] = []
        self._gap = np.zeros(3)

    def add_candidate(self, name: str, rows: Rows) -> None:
        self._weights[name].append(rows.weight)
        self._weight_by_offer[name] += np.bincount(rows.chosen, weights=rows.weight, minlength=self.k)
        total = self._target[name]
        if rows.target is None or total is None:
            self._target[name] = None
        else:
            total += np.ones(len(rows.target)) @ rows.target
        missing = self._unsupported[name]
        if rows.logged is None or rows.target is None or missing is None:
            self._unsupported[name] = None
        else:
            self._unsupported[name] = missing + float(rows.target[rows.logged <= 0].sum())

    def add_log(self, part: Part, q_chosen: FloatArray | None, gap: FloatArray | None) -> None:
        k, inverse = self.k, 1.0 / part.propensity
        self._by_offer[0] += np.bincount(part.chosen, minlength=k)
        self._by_offer[1] += np.bincount(part.chosen, weights=inverse, minlength=k)
        self._by_offer[2] += np.bincount(part.chosen, weights=inverse**2, minlength=k)
        self._by_offer[3] += np.count_nonzero(part.eligible, axis=0)
        if part.logged is None:
            self._has_logged = False
        else:
            self._by_offer[4] += part.logged.sum(axis=0)
            self._by_offer[5] += (part.logged * (1.0 - part.logged)).sum(axis=0)
        self._lowest = min(self._lowest, float(part.reward.min()))
        self._highest = max(self._highest, float(part.reward.max()))
        share = part.propensity * np.count_nonzero(part.eligible, axis=1)
        self._spread = [min(self._spread[0], float(share.min())), max(self._spread[1], float(share.max()))]
        ids = part.column("decision_ids")
        if ids is None:
            self._has_ids = False
        else:
            self._ids.append(hash_text(ids))
        self._reward.append(part.reward)
        if q_chosen is not None:
            self._q.append(q_chosen)
        if part.at is not None:
            self._at.append(part.at)
        if gap is not None:
            self._gap += (len(gap), gap.sum(), (gap**2).sum())

    def add_blocks(self, blocks: Sequence[FloatArray], part: Part) -> None:
        n = len(part)
        if self._held + n > _BUFFER_ROWS:
            self._flush()
        held = slice(self._held, self._held + n)
        for j, block in enumerate(blocks):
            self._buffer[j, held] = block
        self._buffer_groups[held] = self._group(part)
        self._held += n
        self.n_rows += n

    def _group(self, part: Part) -> IntArray:
        if self._fixed is not None:
            return self._fixed[part.start : part.start + len(part)]
        subjects = part.column("subjects")
        rows = np.arange(part.start, part.start + len(part))
        return groups_of(hash_numbers(rows) if subjects is None else hash_text(subjects), self._n_groups)

    def _flush(self) -> None:
        self._sums.add(self._buffer[:, : self._held], self._buffer_groups[: self._held])
        self._held = 0

    def finish(self, estimators: dict[str, tuple[Estimator, ...]]) -> Pass:
        self._flush()
        reward = np.concatenate(self._reward)
        candidates = {}
        for name in self._weights:
            target, missing = self._target[name], self._unsupported[name]
            candidates[name] = CandidateRecord(
                weights=np.concatenate(self._weights[name]),
                target_by_offer=None if target is None else target / self.n_rows,
                weight_by_offer=self._weight_by_offer[name],
                unsupported=None if missing is None else missing / self.n_rows,
            )
        n_gap, gap_sum, gap_square = self._gap
        gap = None
        if n_gap == self.n_rows and n_gap > 1:
            mean = gap_sum / n_gap
            gap = (mean, float(np.sqrt(max(gap_square / n_gap - mean**2, 0.0) / (n_gap - 1))))
        by = self._by_offer
        log = LogRecord(
            n_rows=self.n_rows,
            n_units=self._n_units,
            count_by_offer=by[0],
            inverse_propensity_by_offer=by[1],
            inverse_propensity2_by_offer=by[2],
            eligible_by_offer=by[3],
            logged_by_offer=by[4] if self._has_logged else None,
            logged_variance_by_offer=by[5] if self._has_logged else None,
            n_positive=int(np.count_nonzero(reward > self._lowest)),
            n_duplicates=self.n_rows - len(np.unique(np.concatenate(self._ids))) if self._has_ids else None,
            propensity_spread=self._spread[1] / self._spread[0],
            reward=reward,
            model_chosen=np.concatenate(self._q) if self._q else None,
            at=np.concatenate(self._at) if self._at else None,
            logged_gap=gap,
            lowest_reward=self._lowest,
            highest_reward=self._highest,
        )
        return Pass(self._sums.moments(n_units=self._n_units), candidates, log, estimators)


__all__ = ["Candidate", "CandidateRecord", "Log", "LogRecord", "Model", "Pass", "read_once"]
