"""Reward models that need numpy only, and cross-fitting for any.

A model that is judged on rows it was fitted on flatters itself, and DR inherits the flattery. ``CrossFitted`` gives each
subject the model of a fold it was not in. Any ``fit`` will do, such as ``engine.training.reward.fit_reward_model``.

The linear models here are not those of ``policies.reward_models``: those learn online, live in artefacts and may say anything;
these are fitted once per fold and thrown away, hold logistic rewards, pull rare offers to what all share, and stay in the range
of the rewards, so that a heavy weight never meets a wild prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline_eval.moments import hash_text
from policies.errors import InvalidInputError
from policies.features import MAX_LEVELS, FeatureSpace
from policies.protocols import RewardModel
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray, InteractionBatch

FitReward = Callable[[InteractionBatch], RewardModel]

# Rows a linear model learns from; beyond it the model's error is not what limits an estimate.
MAX_FIT_ROWS = 200_000


@dataclass(frozen=True, slots=True, eq=False)
class LinearRewardModel:
    """A shared linear part, an offset for each offer, and a shrunken linear part of its own for each offer.

    Attributes
    ----------
    shared
        Coefficients of intercept and context, shape ``(d + 1,)``.
    own
        By offer, shape ``(k, d + 1)``: offset and coefficients on top of the shared ones.
    offer_ids
        Offers the rows of ``own`` stand for; an offer not among them gets the shared part.
    lowest, highest
        Range of the rewards it was fitted on: predictions stay in it.
    is_logistic
        Whether the linear part is a log-odds.
    """

    space: FeatureSpace
    shared: FloatArray
    own: FloatArray
    offer_ids: tuple[str, ...]
    lowest: float
    highest: float
    is_logistic: bool = False

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Expected reward of each offer in each decision, shape ``(n, k)``."""
        x = _design(self.space, table)
        position = {offer: i for i, offer in enumerate(self.offer_ids)}
        own = np.zeros((table.n_offers, len(self.shared)))
        for j, offer in enumerate(table.offers.ids):
            if offer in position:
                own[j] = self.own[position[offer]]
        score = x @ (self.shared + own).T
        if self.is_logistic:
            return np.asarray(self.lowest + (self.highest - self.lowest) * _sigmoid(score))
        return np.asarray(np.clip(score, self.lowest, self.highest))


def fit_ridge(batch: InteractionBatch, *, penalty: float = 10.0) -> LinearRewardModel:
    """Least squares in two steps: shared part and offsets first, then each offer's own part on what is left.

    Parameters
    ----------
    penalty
        Strength of the shrinkage, in rows: an offer seen that often is moved half-way to its own mean.
    """
    batch = _sampled(batch)
    space, x, k = _prepared(batch)
    y = batch.reward
    shared = _ridge(x, y, penalty=1.0, free=1)
    own = _own_parts(x, y - x @ shared, batch.chosen, k, penalty=penalty)
    return LinearRewardModel(
        space, shared, own, tuple(batch.table.offers.ids), float(y.min()), float(y.max()), is_logistic=False
    )


def fit_logistic(batch: InteractionBatch, *, penalty: float = 10.0, n_steps: int = 8) -> RewardModel:
    """Penalised logistic regression for a reward of two values, by Newton steps; one value alone gives a constant.

    Raises
    ------
    InvalidInputError
        If the reward takes more than two values: use ``fit_ridge``.
    """
    batch = _sampled(batch)
    levels = np.unique(batch.reward)
    if len(levels) > 2:
        raise InvalidInputError(
            f"the reward takes {len(levels)} values; expected two for a logistic model: use fit_ridge for amounts"
        )
    space, x, k = _prepared(batch)
    lowest, highest = float(levels[0]), float(levels[-1])
    width = x.shape[1]
    if lowest == highest:  # one class (in a fold): nothing to tell apart, and no optimum to run away to
        return LinearRewardModel(
            space,
            np.concatenate(([lowest], np.zeros(width - 1))),
            np.zeros((k, width)),
            tuple(batch.table.offers.ids),
            lowest,
            highest,
        )
    y = (batch.reward - lowest) / (highest - lowest)
    shared = _logistic(x, y, np.zeros(len(y)), penalty=1.0, n_steps=n_steps, free=1)
    own = np.zeros((k, width))
    for j in range(k):
        rows = batch.chosen == j
        if rows.any():
            own[j] = _logistic(x[rows], y[rows], x[rows] @ shared, penalty=penalty * 0.25, n_steps=n_steps, free=0)
    return LinearRewardModel(space, shared, own, tuple(batch.table.offers.ids), lowest, highest, is_logistic=True)


def fit_reward_model(batch: InteractionBatch) -> RewardModel:
    """The default: logistic for a reward of two values, ridge for any other."""
    return fit_logistic(batch) if len(np.unique(batch.reward)) <= 2 else fit_ridge(batch)


@dataclass(frozen=True, slots=True, eq=False)
class CrossFitted:
    """One model per fold, and the fold of each row: a row is judged by the model that did not see its subject."""

    models: Sequence[RewardModel]
    folds: IntArray

    def folds_of(self, table: DecisionTable, start: int) -> IntArray:
        """Folds of the rows of a table that begins at row ``start`` of the log."""
        return self.folds[start : start + len(table)]

    def expected_reward(self, table: DecisionTable, folds: IntArray) -> FloatArray:
        """Expected reward of each offer for rows in the given folds, shape ``(n, k)``."""
        out = np.empty(table.eligible.shape)
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            out[rows] = check_expected(
                self.models[int(fold)].expected_reward(table.take(rows)), (len(rows), table.n_offers)
            )
        return out


def identifiers(table: DecisionTable) -> tuple[str, ...]:
    """Text columns of the context with so many values that they name rows or people, and are no features."""
    return tuple(
        name
        for name, column in table.columns.items()
        if column.dtype.kind == "U" and len(np.unique(column)) > MAX_LEVELS
    )


def cross_fit(
    batch: InteractionBatch, fit: FitReward = fit_reward_model, *, n_folds: int = 3, seed: int = 0
) -> CrossFitted:
    """Fit a model for each fold on the rows of the others.

    Folds are drawn by subject (by row where no subjects are known), separately for subjects with and without another reward
    than the usual one (the lowest, or 0 where that is more frequent), so that rare positives are spread evenly.

    Raises
    ------
    InvalidInputError
        If there are fewer subjects than folds.
    """
    folds = subject_folds(batch, n_folds=n_folds, seed=seed)
    models = [fit(batch.take(np.flatnonzero(folds != fold))) for fold in range(n_folds)]
    return CrossFitted(models, folds)


def subject_folds(batch: InteractionBatch, *, n_folds: int, seed: int) -> IntArray:
    """Fold of each row, shape ``(n,)``: whole subjects, stratified by whether they have another reward than the usual one."""
    subjects = batch.table.subjects
    units = np.arange(len(batch)) if subjects is None else hash_text(subjects)
    return stratified_folds(units, batch.reward, n_folds=n_folds, seed=seed)


def stratified_folds(units: NDArray[np.integer], reward: FloatArray, *, n_folds: int, seed: int) -> IntArray:
    """Fold of each row from the unit it belongs to, shape ``(n,)``; the order of the rows does not matter."""
    if n_folds < 2:
        raise InvalidInputError(
            f"n_folds is {n_folds}; expected at least 2, so that rows are judged by models of other rows"
        )
    number = np.unique(units, return_inverse=True)[1].ravel()
    n_units = int(number.max()) + 1 if len(number) else 0
    if n_units < n_folds:
        raise InvalidInputError(
            f"the log has {n_units} subject(s); expected at least {n_folds} to fit a reward model on the others' rows: "
            "pass reward_model=, or leave the model out with fit_reward=None"
        )
    positive = np.zeros(n_units, dtype=np.bool_)
    lowest = float(reward.min())
    is_zero = reward == 0.0
    # A refund may lie below what a row earns where nothing happens.
    usual = 0.0 if np.count_nonzero(is_zero) > np.count_nonzero(reward == lowest) else lowest
    np.logical_or.at(positive, number, reward != usual)
    rng = np.random.default_rng(seed)
    fold = np.empty(n_units, dtype=np.int64)
    start = 0
    for group in (True, False):
        members = rng.permutation(np.flatnonzero(positive == group))
        fold[members] = (np.arange(len(members)) + start) % n_folds
        start += len(members)
    return np.asarray(fold[number], dtype=np.int64)


def check_expected(expected: NDArray[np.floating], shape: tuple[int, int]) -> FloatArray:
    """Refuse a reward model's answer that is of another shape or not finite."""
    values: FloatArray = np.asarray(expected, dtype=np.float64)
    if values.shape != shape:
        raise InvalidInputError(f"the reward model returned shape {values.shape}; expected {shape}")
    if not np.isfinite(np.einsum("ij->i", values)).all():
        bad = ~np.isfinite(values).all(axis=1)
        raise InvalidInputError(
            f"the reward model returned values that are not finite in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; "
            "mend the model or pass another"
        )
    return values


def _sampled(batch: InteractionBatch) -> InteractionBatch:
    if len(batch) <= MAX_FIT_ROWS:
        return batch
    step = len(batch) / MAX_FIT_ROWS
    return batch.take(np.asarray(np.arange(MAX_FIT_ROWS) * step, dtype=np.int64))


def _prepared(batch: InteractionBatch) -> tuple[FeatureSpace, FloatArray, int]:
    space = FeatureSpace.fit(batch.table, ignore=identifiers(batch.table), identify_offers=False)
    return space, _design(space, batch.table), batch.table.n_offers


def _design(space: FeatureSpace, table: DecisionTable) -> FloatArray:
    context = np.clip(space.encode_contexts(table).astype(np.float64), -8.0, 8.0)
    return np.concatenate([np.ones((len(table), 1)), context], axis=1)


def _ridge(x: FloatArray, y: FloatArray, *, penalty: float, free: int) -> FloatArray:
    gram = x.T @ x + penalty * np.diag((np.arange(x.shape[1]) >= free).astype(np.float64))
    gram[np.diag_indices_from(gram)] += 1e-9 * max(1.0, float(np.trace(gram)) / len(gram))
    return np.asarray(np.linalg.solve(gram, x.T @ y))


def _own_parts(x: FloatArray, residual: FloatArray, chosen: IntArray, k: int, *, penalty: float) -> FloatArray:
    own = np.zeros((k, x.shape[1]))
    for j in range(k):
        rows: BoolArray = chosen == j
        if rows.any():
            own[j] = _ridge(x[rows], residual[rows], penalty=penalty, free=0)
    return own


def _logistic(
    x: FloatArray, y: FloatArray, offset: FloatArray, *, penalty: float, n_steps: int, free: int
) -> FloatArray:
    weights: FloatArray = np.asarray(penalty * (np.arange(x.shape[1]) >= free) + 1e-6, dtype=np.float64)
    beta = np.zeros(x.shape[1])
    objective = _penalised_loss(x, y, offset, beta, weights)
    for _ in range(n_steps):
        p = _sigmoid(x @ beta + offset)
        slope = x.T @ (p - y) + weights * beta
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(weights)
        step = np.linalg.solve(curvature, slope)
        size = 1.0
        while size > 1e-3:  # halve until the loss falls: Newton may overshoot when classes are nearly separable
            trial = beta - size * step
            value = _penalised_loss(x, y, offset, trial, weights)
            if value <= objective:
                break
            size /= 2
        else:
            break
        beta, objective = trial, value
        if np.abs(size * step).max() < 1e-8:
            break
    return beta


def _penalised_loss(x: FloatArray, y: FloatArray, offset: FloatArray, beta: FloatArray, weights: FloatArray) -> float:
    score = x @ beta + offset
    return float(np.logaddexp(0.0, score).sum() - y @ score + 0.5 * weights @ beta**2)


def _sigmoid(score: FloatArray) -> FloatArray:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * score)))
