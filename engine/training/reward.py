"""Fit what each offer would earn in each context from logged interactions, and write it as one ONNX graph.

Three kinds share one contract (``policies.onnx_policy.OnnxRewardModel``): a logistic or linear model with every context feature
crossed with every offer feature, LightGBM on the pair, and a small dense network. Subjects held out of the fit stop it
early and calibrate it: policies that compare offers need the level, not only the order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from engine.models.calibration import LogisticCalibrator, choose_calibrator
from engine.models.metrics import expit, log_loss, roc_auc
from engine.models.onnx_graphs import boosted_graph, dense_graph, pair_graph
from policies.errors import InvalidInputError, MissingExtraError, UnknownNameError
from policies.features import FeatureSpace
from policies.onnx_policy import OnnxRewardModel
from policies.records import FloatArray, InteractionBatch

Kind = Literal["logistic", "lightgbm", "mlp"]
KINDS: tuple[Kind, ...] = ("logistic", "lightgbm", "mlp")
_HELD_OUT_SHARE = 0.2
_MIN_ROWS = 50


@dataclass(frozen=True, slots=True, eq=False)
class RewardData:
    """Logged interactions as pairs of features, one row an interaction.

    Parameters
    ----------
    context, offer
        Shapes ``(n, context width)`` and ``(n, offer width)``, float32.
    reward
        Shape ``(n,)``.
    is_binary
        Whether every reward is 0 or 1: then the model is a probability.
    """

    context: NDArray[np.float32]
    offer: NDArray[np.float32]
    reward: FloatArray
    is_binary: bool

    @classmethod
    def of(cls, batch: InteractionBatch, space: FeatureSpace) -> RewardData:
        """Encode a batch."""
        return cls(
            context=space.encode_contexts(batch.table),
            offer=space.encode_offers(batch.table.offers)[batch.chosen],
            reward=batch.reward,
            is_binary=bool(np.isin(batch.reward, (0.0, 1.0)).all()),
        )

    def take(self, rows: NDArray[Any]) -> RewardData:
        """Return the chosen rows; the kind of reward stays that of the whole."""
        return RewardData(self.context[rows], self.offer[rows], self.reward[rows], self.is_binary)


class _Fitted(NamedTuple):
    """What a fit gives: expected rewards ``(n,)`` of some pairs, and the ONNX graph that says the same after a calibrator."""

    score: Callable[[RewardData], FloatArray]
    graph: Callable[[LogisticCalibrator | None], bytes]


def fit_reward_model(
    batch: InteractionBatch,
    *,
    kind: Kind = "lightgbm",
    seed: int = 0,
    space: FeatureSpace | None = None,
) -> OnnxRewardModel:
    """Fit a saveable reward model on logged interactions.

    Parameters
    ----------
    batch
        Interactions with a reward each; rows are weighted equally, so offers that the log favours are known better.
    kind
        ``logistic`` (linear where the reward is not 0 or 1), ``lightgbm`` or ``mlp``.
    space
        Feature space to use; fitted on the batch's table if not given.

    Raises
    ------
    InvalidInputError
        If there are fewer than 50 interactions or the reward never varies.
    UnknownNameError
        If there is no such kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of reward model", kind, KINDS)
    if len(batch) < _MIN_ROWS or batch.reward.min() == batch.reward.max():
        raise InvalidInputError(
            f"{len(batch)} interactions with rewards between {batch.reward.min(initial=np.inf):g} and "
            f"{batch.reward.max(initial=-np.inf):g} cannot fit a reward model; "
            f"it takes at least {_MIN_ROWS} with more than one value: log more, or choose a reward that occurs more often"
        )
    space = space or FeatureSpace.fit(batch.table)
    data = RewardData.of(batch, space)
    clusters = batch.table.subjects if batch.table.subjects is not None else np.arange(len(batch)).astype(np.str_)
    held_out = _held_out(clusters, seed=seed)
    train, held = data.take(~held_out), data.take(held_out)
    if not (_varies(train) and _varies(held)):
        # Too rare, or of too few subjects, to hold any out: no early stopping worth the name, no calibration.
        train = held = data
    fit = {"logistic": _fit_crossed, "lightgbm": _fit_boosted, "mlp": _fit_dense}[kind]
    fitted = fit(train, held, seed)
    held_score = fitted.score(held)
    calibrator = LogisticCalibrator()
    used: str = "none"
    if data.is_binary and held is not train:
        # Isotonic would make ties between offers, and a policy compares offers.
        chosen, used, _ = choose_calibrator(
            held.reward, held_score, clusters[held_out], seed=seed, kinds=("identity", "platt", "beta")
        )
        assert isinstance(chosen, LogisticCalibrator)
        calibrator = chosen
        held_score = calibrator(held_score)
    graph = fitted.graph(None if calibrator == LogisticCalibrator() else calibrator)
    facts = {
        "fitted": kind,
        "seed": seed,
        "is_binary": data.is_binary,
        "n_interactions": len(batch),
        "reward_mean": float(batch.reward.mean()),
        "calibration": used,
        "held_out": _quality(held.reward, held_score, is_binary=data.is_binary),
    }
    return OnnxRewardModel(graph, space, facts=facts)


def _varies(data: RewardData) -> bool:
    return len(data.reward) > 0 and bool(data.reward.min() < data.reward.max())


def _held_out(clusters: NDArray[Any], *, seed: int) -> NDArray[np.bool_]:
    """Rows of the subjects that are not fitted on."""
    names, member = np.unique(clusters, return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(names)) < max(1, round(_HELD_OUT_SHARE * len(names)))
    return np.asarray(drawn[member], dtype=np.bool_)


def _quality(reward: FloatArray, score: FloatArray, *, is_binary: bool) -> dict[str, float | int]:
    if is_binary:
        return {"rows": len(reward), "roc_auc": roc_auc(reward, score), "log_loss": log_loss(reward, score)}
    spread = float(np.mean((reward - reward.mean()) ** 2))
    return {"rows": len(reward), "r_squared": 1.0 - float(np.mean((reward - score) ** 2)) / max(spread, 1e-300)}


def _fit_crossed(train: RewardData, held: RewardData, seed: int) -> _Fitted:
    """Linear in context, offer and every product of the two; the penalty is chosen on held-out subjects."""
    del seed
    best: tuple[float, tuple[FloatArray, ...]] | None = None
    start: FloatArray | None = None
    for penalty in (300.0, 100.0, 30.0, 10.0, 3.0, 1.0):
        start, parts = _crossed_at(train, penalty=penalty, start=start)
        loss = _loss(held.reward, _crossed_score(held, parts), is_binary=train.is_binary)
        if best is None or loss < best[0]:
            best = (loss, parts)
        elif held is not train:
            break
    assert best is not None
    parts = best[1]

    def score(data: RewardData) -> FloatArray:
        raw = _crossed_score(data, parts)
        return expit(raw) if data.is_binary else raw

    def graph(calibrator: LogisticCalibrator | None) -> bytes:
        return pair_graph(*parts, is_binary=train.is_binary, calibrator=calibrator)

    return _Fitted(score, graph)


def _loss(reward: FloatArray, raw: FloatArray, *, is_binary: bool) -> float:
    return log_loss(reward, expit(raw)) if is_binary else float(np.mean((reward - raw) ** 2))


def _crossed_score(data: RewardData, parts: tuple[FloatArray, ...]) -> FloatArray:
    by_context, by_offer, crossed, bias = parts
    return np.asarray(
        data.context @ by_context + data.offer @ by_offer + ((data.context @ crossed) * data.offer).sum(axis=1) + bias
    )


def _crossed_at(
    data: RewardData, *, penalty: float, start: FloatArray | None
) -> tuple[FloatArray, tuple[FloatArray, ...]]:
    """Fit at one penalty without ever writing the products down: gradients go through ``contextᵀ (r · offer)``."""
    dc, do = data.context.shape[1], data.offer.shape[1]
    context, offer, reward = data.context.astype(np.float64), data.offer.astype(np.float64), data.reward
    n = len(reward)

    def split(beta: FloatArray) -> tuple[FloatArray, ...]:
        return beta[:dc], beta[dc : dc + do], beta[dc + do : -1].reshape(dc, do), beta[-1:]

    def objective(beta: FloatArray) -> tuple[float, FloatArray]:
        wc, wo, m, bias = split(beta)
        raw = context @ wc + offer @ wo + ((context @ m) * offer).sum(axis=1) + bias
        if data.is_binary:
            value = float(np.sum(np.logaddexp(0.0, raw) - reward * raw))
            residual = expit(raw) - reward
        else:
            residual = raw - reward
            value = float(residual @ residual) / 2
        flat = np.concatenate(
            [context.T @ residual, offer.T @ residual, (context.T @ (residual[:, None] * offer)).ravel()]
        )
        value += penalty / 2 * float(beta[:-1] @ beta[:-1])
        return value / n, np.append(flat + penalty * beta[:-1], residual.sum()) / n

    begin = np.zeros(dc + do + dc * do + 1) if start is None else start
    found = minimize(
        objective, begin, jac=True, method="L-BFGS-B", options={"maxiter": 200, "ftol": 1e-9, "gtol": 1e-6}
    )
    return found.x, split(found.x)


def _fit_boosted(train: RewardData, held: RewardData, seed: int) -> _Fitted:
    """LightGBM on the pair of features, stopped early on held-out subjects."""
    try:
        import lightgbm
    except ImportError as error:
        raise MissingExtraError("lightgbm", "boosting") from error

    def pair(data: RewardData) -> NDArray[np.float32]:
        return np.concatenate([data.context, data.offer], axis=1)

    parameters = {
        "objective": "binary" if train.is_binary else "regression",
        "num_leaves": 16,
        "min_data_in_leaf": max(20, len(train.reward) // 500),
        "learning_rate": 0.06,
        "feature_fraction": 0.8,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 5.0,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    whole = lightgbm.Dataset(pair(train), label=train.reward)
    stop = lightgbm.Dataset(pair(held), label=held.reward, reference=whole)
    stopping = [lightgbm.early_stopping(25, verbose=False)]
    rounds = 300 if held is not train else 50
    booster = lightgbm.train(parameters, whole, num_boost_round=rounds, valid_sets=[stop], callbacks=stopping)

    def score(data: RewardData) -> FloatArray:
        return np.asarray(booster.predict(pair(data), num_iteration=booster.best_iteration, num_threads=1))

    def graph(calibrator: LogisticCalibrator | None) -> bytes:
        widths = (train.context.shape[1], train.offer.shape[1])
        return boosted_graph(booster, widths=widths, is_binary=train.is_binary, calibrator=calibrator)

    return _Fitted(score, graph)


def _fit_dense(train: RewardData, held: RewardData, seed: int) -> _Fitted:
    """Two hidden layers over the pair, the best of a few epochs on held-out subjects."""
    try:
        from sklearn.neural_network import MLPRegressor
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "boosting") from error
    from sklearn.neural_network import MLPClassifier

    design = np.concatenate([train.context, train.offer], axis=1)
    stop = np.concatenate([held.context, held.offer], axis=1)
    shape = {"hidden_layer_sizes": (32, 16), "alpha": 1e-3, "learning_rate_init": 3e-3, "random_state": seed}
    net = MLPClassifier(**shape, batch_size=256) if train.is_binary else MLPRegressor(**shape, batch_size=256)
    best: tuple[float, int, list[FloatArray], list[FloatArray]] | None = None
    scale = 1.0 if train.is_binary else float(train.reward.std())
    target = train.reward.astype(np.int64) if train.is_binary else train.reward / scale
    for epoch in range(40):
        net.partial_fit(design, target, classes=[0, 1]) if train.is_binary else net.partial_fit(design, target)
        out = net.predict_proba(stop)[:, 1] if train.is_binary else net.predict(stop) * scale
        loss = log_loss(held.reward, out) if train.is_binary else float(np.mean((held.reward - out) ** 2))
        if best is None or loss < best[0] - 1e-6:
            best = (loss, epoch, [w.copy() for w in net.coefs_], [b.copy() for b in net.intercepts_])
        elif epoch - best[1] >= 5:
            break
    assert best is not None
    weights, biases = best[2], best[3]
    weights[-1], biases[-1] = weights[-1] * scale, biases[-1] * scale

    def score(data: RewardData) -> FloatArray:
        x = np.concatenate([data.context, data.offer], axis=1).astype(np.float64)
        for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
            x = x @ w + b
            x = np.maximum(x, 0.0) if i < len(weights) - 1 else x
        return expit(x[:, 0]) if train.is_binary else x[:, 0]

    def graph(calibrator: LogisticCalibrator | None) -> bytes:
        width = train.context.shape[1]
        return dense_graph(weights, biases, context_width=width, is_binary=train.is_binary, calibrator=calibrator)

    return _Fitted(score, graph)
