"""Reads a log once, in chunks, and keeps what every estimator, interval and diagnostic needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from offline_eval.candidates import Candidate, target_of
from offline_eval.estimators.base import ONE, RESIDUAL, REWARD, WEIGHT, Column, Estimator, Rows, Shrunk
from offline_eval.log_records import MAX_HEAVIEST, CandidateRecord, LogRecord
from offline_eval.moments import (
    Accumulator,
    Grouping,
    Moments,
    UIntArray,
    hash_numbers,
    hash_text,
    subject_groups,
)
from offline_eval.reward_models import CrossFitted, check_expected
from offline_eval.summaries import Calibration, CountsByOffer
from policies.errors import InvalidInputError
from policies.protocols import RewardModel
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray, InteractionBatch, OfferSet
from policies.sampling import check_distribution

Model = RewardModel | CrossFitted | FloatArray

# Probabilities and model values of a chunk stay in the processor's cache: about 4 MB a matrix.
_CHUNK_CELLS = 1 << 19
_BUFFER_ROWS = 1 << 16
# Rows whose columns are added to groups at once: each addition passes over all groups.
_SUMMED_ROWS = 1 << 18
SEPARATOR = "\x1f"
# Context columns of text with more values than this are no segments.
MAX_SEGMENTS = 12


class Log(Protocol):
    """A log that can be read in chunks, in the same order every time."""

    @property
    def offers(self) -> OfferSet:
        """Offers of all rows."""
        ...

    def chunks(self, n_rows: int) -> Iterator[InteractionBatch]:
        """Consecutive parts of at most ``n_rows`` rows."""
        ...


@runtime_checkable
class DistributedLog(Log, Protocol):
    """A log that is read where it lies, in parts whose readings merge; ``chunks`` gives a sample to fit reward models on."""

    def read_once(
        self,
        candidates: Mapping[str, Candidate | None],
        estimators: Sequence[Estimator],
        *,
        model: Model | None,
        explore_share: float,
    ) -> Pass:
        """What one reading leaves behind; see the function of this name."""
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

    def of_chosen(self, values: FloatArray) -> FloatArray:
        """The value of the shown offer in each row of ``(n, k)``, shape ``(n,)``."""
        return np.asarray(values.reshape(-1).take(self._flat), dtype=np.float64)

    @cached_property
    def _flat(self) -> IntArray:
        n, k = self.eligible.shape
        return np.arange(0, n * k, k) + self.chosen

    @cached_property
    def barred(self) -> BoolArray | None:
        """Offers that could not be shown, shape ``(n, k)``; None where every offer could be in every row."""
        return None if self.eligible.all() else ~self.eligible

    def column(self, name: str) -> NDArray[np.str_] | None:
        """A text column of the log, where there is one."""
        whole = self._batch.table.subjects if name == "subjects" else getattr(self._batch, name)
        return None if whole is None else whole[self._rows]

    @cached_property
    def ids(self) -> UIntArray | None:
        """Hashes of the decision ids, where there are any."""
        ids = self.column("decision_ids")
        return None if ids is None else hash_text(ids)

    @property
    def units(self) -> UIntArray:
        """Hashes of what is independent of each other: of the subjects, else of the ids, else of the rows' numbers."""
        subjects = self.column("subjects")
        if subjects is not None:
            return hash_text(subjects)
        return hash_numbers(np.arange(self.start, self.start + len(self))) if self.ids is None else self.ids

    @property
    def at(self) -> NDArray[np.datetime64] | None:
        """Times, where there are any."""
        return None if self._batch.table.at is None else self._batch.table.at[self._rows]

    @property
    def rewards_at(self) -> NDArray[np.datetime64] | None:
        """Times, where rewards over time mean something: weighed ones of early rows stand for those that late rows still wait for."""
        return None if self._batch.is_reward_weighted else self.at

    def __len__(self) -> int:
        return len(self.chosen)


@dataclass(slots=True, eq=False)
class Pass:
    """Everything one reading of a log leaves behind.

    Attributes
    ----------
    estimators
        Used, by candidate.
    same
        By candidate, columns that were not added up because they equal another one.
    """

    moments: Moments
    candidates: dict[str, CandidateRecord]
    log: LogRecord
    estimators: dict[str, tuple[Estimator, ...]] = field(default_factory=dict)
    same: dict[str, dict[str, str]] = field(default_factory=dict)
    _folded: FloatArray | None = None

    @property
    def folded(self) -> FloatArray:
        """Independent sums of the moments, for resamples and kurtosis; added up once."""
        if self._folded is None:
            self._folded = self.moments.folded()
        return self._folded

    def merge(self, other: Pass) -> Pass:
        """What one reading of both parts would have left, for parts that were read with the same settings."""
        moments, log = self.moments.merge(other.moments), self.log.merge(other.log)
        log.n_units = moments.n_units
        candidates = {name: record.merge(other.candidates[name]) for name, record in self.candidates.items()}
        return Pass(moments, candidates, log, self.estimators, self.same)


def read_once(
    log: InteractionBatch | Log,
    candidates: Mapping[str, Candidate | None],
    estimators: Sequence[Estimator],
    *,
    model: Model | None,
    explore_share: float,
    calibration_edges: FloatArray | None = None,
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
    calibration_edges
        Edges of the bins in which the model is compared with rewards; tenths of the first rows' values where None. Parts of
        one log that are to be merged need the same.
    """
    used = [e for e in estimators if model is not None or not e.needs_model]
    columns = _columns(used)
    own = {name: _own(columns) if candidate is None else columns for name, candidate in candidates.items()}
    names = [ONE, REWARD] + [f"{c}{SEPARATOR}{col.name}" for c in candidates for col in own[c]]
    state: _State | None = None
    for part in _parts(log):
        if state is None:
            state = _State(log, names, list(candidates), part, calibration_edges)
        answers = None if model is None else _Answers(_model_values(model, part), part)
        blocks: list[FloatArray] = [np.ones(len(part)), part.reward]
        for name, candidate in candidates.items():
            rows = _rows(name, candidate, part, answers, explore_share)
            blocks.extend(rows.column(column) for column in own[name])
            state.candidates[name].add(rows, part.rewards_at)
        state.add_log(part, answers)
        state.add_blocks(blocks, part)
    if state is None or state.n_rows == 0:
        raise InvalidInputError("the log has no rows; expected at least two decisions with rewards")
    same = {name: {c.name: c.at_one for c in columns if c.at_one} for name, c in candidates.items() if c is None}
    return state.finish({name: tuple(used) for name in candidates}, same)


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
            wanted += (estimator.shrunk_weight, estimator.kept_weight)
        for column in wanted:
            found.setdefault(column.name, column)
    found.setdefault(WEIGHT.name, WEIGHT)
    return list(found.values())


def _own(columns: Sequence[Column]) -> list[Column]:
    """Columns of the policy that logged: its weights are one, so many columns are others it has anyway."""
    kept = [column for column in columns if not column.at_one]
    if any(column.at_one == RESIDUAL.name for column in columns):
        kept.append(RESIDUAL)
    return kept


class _Answers:
    """What a reward model says of a part."""

    def __init__(self, values: FloatArray, part: Part) -> None:
        self.values, self._part = values, part

    @cached_property
    def of_chosen(self) -> FloatArray:
        """Values of the shown offers, shape ``(n,)``: asked for after a pass over all values, which are then near the processor."""
        return self._part.of_chosen(self.values)

    def mean(self, probabilities: FloatArray) -> FloatArray:
        """Mean value under a distribution in each row, shape ``(n,)``."""
        # Not-a-number and infinity times any probability, 0 too, are not finite: a sum over all offers shows each of them.
        return self.checked(np.vecdot(probabilities, self.values))

    def checked(self, found: FloatArray) -> FloatArray:
        """Figures made of the values; refused where they are not finite, by the rows in which the values are not."""
        if not np.isfinite(found).all():
            check_expected(self.values, self.values.shape)
        return found


def _model_values(model: Model, part: Part) -> FloatArray:
    """The model's values; that they are finite is seen where they are used, for a look at all of them takes a pass of its own."""
    if isinstance(model, CrossFitted):
        return model.expected_reward(part.table, model.folds_of(part.table, part.start))
    if isinstance(model, np.ndarray):
        values: FloatArray = np.asarray(model[part.start : part.start + len(part)], dtype=np.float64)
    else:
        values = np.asarray(model.expected_reward(part.table), dtype=np.float64)
    return values if values.shape == part.eligible.shape else check_expected(values, part.eligible.shape)


def _rows(name: str, candidate: Candidate | None, part: Part, answers: _Answers | None, explore_share: float) -> Rows:
    target = part.logged if candidate is None else _target(name, candidate, part, explore_share)
    # In this order: gathering from what a pass has just read takes a tenth of the time.
    model_target = None if answers is None or target is None else answers.mean(target)
    if candidate is None or target is None:
        target_chosen, weight = part.propensity, np.ones(len(part))
    else:
        target_chosen = part.of_chosen(target)
        weight = target_chosen / part.propensity
    model_chosen = None
    if answers is not None:
        model_chosen = answers.of_chosen
        if model_target is None:
            model_target = answers.checked(model_chosen)
    return Rows(
        weight=weight,
        reward=part.reward,
        propensity=part.propensity,
        chosen=part.chosen,
        target=target,
        target_chosen=target_chosen,
        model_chosen=model_chosen,
        model_target=model_target,
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
    return target_of(candidate, part.table, explore_share=explore_share, name=name)


def _is_distribution(target: FloatArray, part: Part) -> bool:
    """The same rules as ``check_distribution`` in fewer passes; not-a-number fails the first comparison."""
    if not target.min() >= 0.0:
        return False
    # Not by a product with ones: threads of a linear algebra library that wait for each other cost more than so small a sum.
    if not np.abs(np.einsum("ij->i", target) - 1.0).max() <= 1e-4:
        return False
    return part.barred is None or not (target[part.barred] > 0).any()


class _State:
    """Sums under way."""

    def __init__(
        self,
        log: InteractionBatch | Log,
        names: Sequence[str],
        candidates: Sequence[str],
        first: Part,
        calibration_edges: FloatArray | None,
    ) -> None:
        k = first.eligible.shape[1]
        self.n_rows = 0
        n_heaviest = max(len(log) // 100 + 1, _BUFFER_ROWS) if isinstance(log, InteractionBatch) else MAX_HEAVIEST
        self.candidates = {c: CandidateRecord(k, n_heaviest=n_heaviest) for c in candidates}
        self._fixed: IntArray | None = None
        grouping = Grouping(first.column("subjects") is None)
        self._n_units: int | None = None
        if isinstance(log, InteractionBatch) and log.table.subjects is not None:
            self._fixed, grouping, self._n_units = subject_groups(log.table.subjects)
        self._log = LogRecord(k)
        if calibration_edges is not None:
            self._log.calibration = Calibration(calibration_edges, np.zeros((len(calibration_edges) + 1, 4)))
        self._sums = Accumulator(names, grouping)
        self._room = min(len(log), _SUMMED_ROWS) if isinstance(log, InteractionBatch) else _SUMMED_ROWS
        self._buffer = np.empty((len(names), self._room))
        self._buffer_units = np.empty(self._room, dtype=np.int64)  # groups, or hashes of units
        self._held = 0
        self._segments = _segments(first)

    def add_log(self, part: Part, answers: _Answers | None) -> None:
        log = self._log
        eligible = None if part.barred is None else part.eligible
        counts = CountsByOffer.of(part.chosen, part.propensity, eligible, part.logged, n_offers=log.k)
        log.add(part.reward, propensity=part.propensity, eligible=eligible, counts=counts)
        log.add_ids(part.ids)
        if part.rewards_at is not None:
            log.add_time(part.rewards_at, part.reward)
        if answers is not None:
            # The model's mean under the logged distribution less its value of the shown offer: 0 on average if both are true.
            gap = None if part.logged is None else answers.mean(part.logged) - answers.of_chosen
            log.add_model(answers.of_chosen, part.reward, gap)
        if part.logged is not None:
            self._add_groups(part, part.logged)

    def _add_groups(self, part: Part, logged: FloatArray) -> None:
        """Count shown offers by policy, variant, segment and day."""
        kinds: dict[str, NDArray[Any] | None] = {
            "policy": part.column("policies"),
            "variant": part.column("variants"),
            "day": None if part.at is None else part.at.astype("datetime64[D]"),
            **{name: part.table.columns[name] for name in self._segments},
        }
        for kind, values in kinds.items():
            if values is None:
                continue
            for value in np.unique(values):
                rows = np.flatnonzero(values == value)
                counts = CountsByOffer.of(
                    part.chosen[rows], part.propensity[rows], part.eligible[rows], logged[rows], n_offers=self._log.k
                )
                self._log.add_group(kind, str(value), counts)

    def add_blocks(self, blocks: Sequence[FloatArray], part: Part) -> None:
        n = len(part)
        if self._held + n > self._room:
            self._flush()
        held = slice(self._held, self._held + n)
        for j, block in enumerate(blocks):
            self._buffer[j, held] = block
        fixed = self._fixed
        self._buffer_units[held] = part.units.view(np.int64) if fixed is None else fixed[part.start : part.start + n]
        self._held += n
        self.n_rows += n

    def _flush(self) -> None:
        block, units = self._buffer[:, : self._held], self._buffer_units[: self._held]
        if self._fixed is None:
            self._sums.add_units(block, units.view(np.uint64))
        else:
            self._sums.add(block, units)
        self._held = 0

    def finish(self, estimators: dict[str, tuple[Estimator, ...]], same: dict[str, dict[str, str]]) -> Pass:
        self._flush()
        for record in self.candidates.values():
            record.settle()
        moments = self._sums.moments(n_units=self._n_units)
        self._log.n_units = moments.n_units
        return Pass(moments, self.candidates, self._log, estimators, same)


def _segments(first: Part) -> tuple[str, ...]:
    """Text columns of the context with few values: people with a value in common are a segment."""
    if first.logged is None:
        return ()
    columns = first.table.columns
    return tuple(
        name
        for name, column in columns.items()
        if column.dtype.kind == "U" and len(np.unique(column[:1000])) <= MAX_SEGMENTS
    )


__all__ = ["Candidate", "CandidateRecord", "DistributedLog", "Log", "LogRecord", "Model", "Pass", "read_once"]
