"""Learn a policy from a log directly: the counterpart of off-policy evaluation, with its estimators as the objective.

What an offer is worth in a row, by importance weights or doubly robustly, is one matrix ``s`` of shape ``(n, k)`` that does not
depend on the policy; the value of a policy is then the mean of ``Σ_a π(a | x) s_a``, which is smooth in a softmax policy and can
be climbed. A policy so found need not model rewards well anywhere but where it matters.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from offline_eval.reward_models import cross_fit, subject_folds
from policies.boltzmann import softmax
from policies.errors import InvalidInputError, MissingExtraError
from policies.features import FeatureSpace
from policies.onnx_policy import OnnxPolicy
from policies.protocols import Policy, SaveablePolicy
from policies.records import BoolArray, DecisionTable, FloatArray, InteractionBatch
from policies.reward_models import with_one
from policies.softmax_linear import SoftmaxLinear

_PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
_MIN_ROWS = 200


@dataclass(frozen=True, slots=True)
class OffPolicySettings:
    """How to learn from a log.

    Parameters
    ----------
    form
        ``linear``: a softmax over crosses of context and offer, which carries over to new offers; ``neural``: a small network
        with one output for each offer of the log.
    estimator
        ``dr``: importance-weighted residuals of a cross-fitted reward model, on top of the model; ``ips``: weighted rewards less
        their mean.
    max_weight
        Importance weights above it are cut: a little bias for much less variance.
    """

    form: Literal["linear", "neural"] = "linear"
    estimator: Literal["dr", "ips"] = "dr"
    max_weight: float = 100.0
    hidden: tuple[int, ...] = (32, 32)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in ("linear", "neural") or self.estimator not in ("dr", "ips"):
            raise InvalidInputError(
                f"form {self.form!r}, estimator {self.estimator!r}; expected linear or neural, dr or ips"
            )
        if not self.max_weight >= 1:
            raise InvalidInputError(f"max_weight is {self.max_weight}; expected at least 1")


@dataclass(frozen=True, slots=True)
class Learned:
    """A learned policy and what the held-out fifth of subjects said of it.

    Attributes
    ----------
    held_out, logged
        Value by the estimator on subjects that trained nothing, of the policy and of the one that logged.
    """

    policy: SaveablePolicy
    held_out: float
    logged: float
    penalty: float


def worth_of_offers(
    batch: InteractionBatch, *, estimator: str = "dr", max_weight: float = 100.0, seed: int = 0
) -> FloatArray:
    """What each offer is worth in each row, shape ``(n, k)``: the mean over rows of ``Σ π s`` estimates the value of ``π``."""
    rows = np.arange(len(batch))
    weight = np.minimum(1.0 / batch.propensity, max_weight)
    if estimator == "dr":
        models = cross_fit(batch, seed=seed)
        worth = models.expected_reward(batch.table, models.folds)
        base = worth[rows, batch.chosen].copy()
    else:
        worth = np.full(batch.table.eligible.shape, batch.reward.mean())
        base = np.full(len(batch), batch.reward.mean())
    worth[rows, batch.chosen] += weight * (batch.reward - base)
    return worth


def learn_policy(
    batch: InteractionBatch,
    *,
    settings: OffPolicySettings | None = None,
    space: FeatureSpace | None = None,
    start: SoftmaxLinear | None = None,
) -> Learned:
    """Find the policy that the estimator likes best; the penalty on its weights is chosen on held-out subjects.

    Parameters
    ----------
    start
        A linear policy to begin from (an imitation of what serves now, say); with form ``linear``.

    Raises
    ------
    InvalidInputError
        If there are fewer than 200 interactions or the reward never varies.
    """
    settings = settings or OffPolicySettings()
    if len(batch) < _MIN_ROWS or batch.reward.min() == batch.reward.max():
        raise InvalidInputError(
            f"{len(batch)} interactions whose rewards lie between {batch.reward.min(initial=np.inf):g} and "
            f"{batch.reward.max(initial=-np.inf):g} cannot teach a policy; expected at least {_MIN_ROWS} and more than one value"
        )
    if start is not None and settings.form != "linear":
        raise InvalidInputError("a start is a linear policy; expected form 'linear' with it")
    space = start.space if start is not None else space or FeatureSpace.fit(batch.table)
    worth = worth_of_offers(batch, estimator=settings.estimator, max_weight=settings.max_weight, seed=settings.seed)
    held = subject_folds(batch, n_folds=5, seed=settings.seed) == 0
    if settings.form == "linear":
        return _learn_linear(batch, worth, held, space, start)
    return _learn_neural(batch, worth, held, space, settings)


def imitate(
    policy: Policy, table: DecisionTable, *, space: FeatureSpace | None = None, penalty: float = 1e-4
) -> SoftmaxLinear:
    """The softmax policy nearest to another one on some decisions (by cross-entropy): a warm start for off-policy learning."""
    space = space or FeatureSpace.fit(table)
    x, z = _blocks(space, table)
    target = policy.probabilities(table)

    def objective(p: FloatArray) -> tuple[float, FloatArray]:
        with np.errstate(divide="ignore"):
            logs = np.where(target > 0, np.log(np.maximum(p, 1e-300)), 0.0)
        return float(-(target * logs).sum() / len(p)), (p - target) / len(p)

    return SoftmaxLinear(space, _descend(objective, x, z, table.eligible, penalty=penalty, start=None))


def _blocks(space: FeatureSpace, table: DecisionTable) -> tuple[FloatArray, FloatArray]:
    return with_one(space.encode_contexts(table)), with_one(space.encode_offers(table.offers))


def _learn_linear(
    batch: InteractionBatch, worth: FloatArray, held: BoolArray, space: FeatureSpace, start: SoftmaxLinear | None
) -> Learned:
    x, z = _blocks(space, batch.table)
    eligible = batch.table.eligible
    first = None if start is None else start.weights
    scale = float(np.abs(worth).mean()) or 1.0

    def fitted(rows: BoolArray, penalty: float) -> FloatArray:
        s = worth[rows] / scale

        def objective(p: FloatArray) -> tuple[float, FloatArray]:
            value = (p * s).sum(axis=1, keepdims=True)
            return float(-value.mean()), -p * (s - value) / len(s)

        return _descend(objective, x[rows], z, eligible[rows], penalty=penalty, start=first)

    def value(weights: FloatArray) -> float:
        return float((softmax(x[held] @ weights @ z.T, eligible[held]) * worth[held]).sum(axis=1).mean())

    tried = [(value(fitted(~held, penalty)), penalty) for penalty in _PENALTIES]
    best, penalty = max(tried)
    everything = np.ones(len(batch), dtype=np.bool_)
    return Learned(SoftmaxLinear(space, fitted(everything, penalty)), best, float(batch.reward[held].mean()), penalty)


def _descend(
    objective: Any, x: FloatArray, z: FloatArray, eligible: BoolArray, *, penalty: float, start: FloatArray | None
) -> FloatArray:
    """Minimise a function of softmax probabilities, given with its gradient in the scores, and a ridge around the start."""
    shape = (x.shape[1], z.shape[1])
    origin = np.zeros(shape) if start is None else start

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        weights = flat.reshape(shape)
        value, gradient = objective(softmax(x @ weights @ z.T, eligible))
        away = weights - origin
        return value + penalty / 2 * float((away * away).sum()), (x.T @ gradient @ z + penalty * away).ravel()

    found = minimize(loss, origin.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300, "ftol": 1e-10})
    return np.asarray(found.x, dtype=np.float64).reshape(shape)


def _learn_neural(
    batch: InteractionBatch, worth: FloatArray, held: BoolArray, space: FeatureSpace, settings: OffPolicySettings
) -> Learned:
    """A small network, the best of its epochs on held-out subjects."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError("torch", "torch") from error
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    k, scale = batch.table.n_offers, float(np.abs(worth).mean()) or 1.0
    widths = (space.context_width, *settings.hidden)
    layers: list[Any] = []
    for a, b in zip(widths, settings.hidden, strict=False):
        layers += [torch.nn.Linear(a, b), torch.nn.Tanh()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], k))
    x = torch.from_numpy(space.encode_contexts(batch.table))
    mask = torch.from_numpy(batch.table.eligible)
    s = torch.from_numpy((worth / scale).astype(np.float32))

    def values(rows: NDArray[np.int64]) -> Any:
        part = torch.from_numpy(rows)
        logits = net(x[part]).masked_fill(~mask[part], -1e9)
        return (torch.softmax(logits, dim=1) * s[part]).sum(dim=1)

    train, judge = np.flatnonzero(~held), np.flatnonzero(held)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
    rng = np.random.default_rng(settings.seed)
    best: tuple[float, int, dict[str, Any]] | None = None
    for epoch in range(60):
        for rows in np.array_split(rng.permutation(train), max(1, len(train) // 512)):
            optimiser.zero_grad()
            (-values(rows).mean()).backward()
            optimiser.step()
        with torch.no_grad():
            found = float(values(judge).mean())
        if best is None or found > best[0] + 1e-6:
            best = (found, epoch, {name: w.clone() for name, w in net.state_dict().items()})
        elif epoch - best[1] >= 8:
            break
    assert best is not None
    net.load_state_dict(best[2])
    policy = OnnxPolicy(_masked_graph(net, space.context_width, k), space, batch.table.offers.ids)
    return Learned(policy, best[0] * scale, float(batch.reward[held].mean()), float("nan"))


def _masked_graph(net: Any, width: int, n_offers: int) -> bytes:
    from engine.training.rl_export import masked_graph

    buffer = io.BytesIO()
    masked_graph(net, buffer, width=width, n_offers=n_offers)
    return buffer.getvalue()
