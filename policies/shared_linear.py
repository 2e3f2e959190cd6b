"""Linear Thompson sampling and UCB with one regression that all offers share, over crosses of context and offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from policies.artifact import Artifact, inner_artifact, nest_artifact
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.greedy import TIE_TOLERANCE, greedy_probabilities
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch
from policies.reward_models import CrossedRidgeRewardModel, load_crossed_ridge, with_one

_CHUNK = 4_000_000  # numbers held at once


class _Shared:
    """What both have in common: the ridge regression over crosses, whose posterior they act on.

    An offer that was never shown is judged by its features, and one that is retired leaves nothing behind that it does not
    share with others.
    """

    name: str

    def __init__(self, space: FeatureSpace, *, ridge: float, half_life: float) -> None:
        self.model = CrossedRidgeRewardModel(space, ridge=ridge, half_life=half_life)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows in their order."""
        self.model.learn(batch)
        self._forget_derived()

    def _forget_derived(self) -> None:
        raise NotImplementedError

    def _blocks(self, table: DecisionTable) -> tuple[FloatArray, FloatArray]:
        """Context and offer features, each with a constant."""
        space = self.model.space
        return with_one(space.encode_contexts(table)), with_one(space.encode_offers(table.offers))

    def _artifact(self, parameters: dict[str, Any]) -> Artifact:
        return nest_artifact(Artifact(self.name, {"parameters": parameters}), "model", self.model.to_artifact())

    @classmethod
    def from_artifact(cls, artifact: Artifact, make: Callable[[FeatureSpace, dict[str, Any]], Self]) -> Self:
        """Read back what ``to_artifact`` wrote."""
        model = load_crossed_ridge(inner_artifact(artifact, "model"))
        out = make(model.space, artifact.manifest["parameters"])
        out.model = model
        return out


class SharedLinUCB(_Shared):
    """The offer with the highest plausible reward under one shared regression.

    Parameters
    ----------
    alpha
        Width of the bound, in the unit of the reward.
    ridge, half_life
        See ``CrossedRidgeRewardModel``.
    """

    name = "shared_linucb"
    traits = PolicyTraits()

    def __init__(self, space: FeatureSpace, *, alpha: float = 0.3, ridge: float = 10.0, half_life: float = 0.0) -> None:
        if alpha < 0:
            raise InvalidInputError(f"alpha is {alpha}; expected at least 0")
        super().__init__(space, ridge=ridge, half_life=half_life)
        self.alpha = alpha
        self._covariance: FloatArray | None = None

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All probability on the highest bound, ties shared; shape ``(n, k)``."""
        if self._covariance is None:
            self._covariance = self.model.covariance()
        x, z = self._blocks(table)
        mean = x @ self.model.coefficients() @ z.T
        n, k, width = len(x), len(z), self.model.width
        variance = np.empty((n, k))
        step = max(1, _CHUNK // (k * width))
        for start in range(0, n, step):
            crossed = (x[start : start + step, None, :, None] * z[None, :, None, :]).reshape(-1, width)
            variance[start : start + step] = np.einsum("ij,ij->i", crossed @ self._covariance, crossed).reshape(-1, k)
        return greedy_probabilities(mean + self.alpha * np.sqrt(np.maximum(variance, 0.0)), table.eligible)

    def _forget_derived(self) -> None:
        self._covariance = None

    def to_artifact(self) -> Artifact:
        """Parameters and sums."""
        return self._artifact({"alpha": self.alpha})


class SharedLinTS(_Shared):
    """Linear Thompson sampling under one shared regression, with probabilities from fixed, stored nodes.

    Offers' scores are correlated (one coefficient serves many), so the chance to be best is no one-dimensional integral. A fixed
    set of standard normal vectors, stored with the policy, stands for the posterior: the probability of an offer is the share of
    nodes under which it scores highest. Nothing is drawn when deciding, so the same state gives the same probabilities.

    Parameters
    ----------
    scale
        Standard deviation of the reward's noise as the posterior takes it: larger explores more.
    n_nodes
        Nodes; a probability is known to about half of one over their root. They come in pairs of opposite sign.
    ridge, half_life
        See ``CrossedRidgeRewardModel``.
    seed
        Of the nodes.
    """

    name = "shared_lints"

    def __init__(
        self,
        space: FeatureSpace,
        *,
        scale: float = 0.04,
        n_nodes: int = 512,
        ridge: float = 10.0,
        half_life: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not scale > 0 or n_nodes < 2 or n_nodes % 2:
            raise InvalidInputError(
                f"scale {scale}, n_nodes {n_nodes}; expected above 0, and an even number of at least 2"
            )
        super().__init__(space, ridge=ridge, half_life=half_life)
        self.scale, self.seed = scale, seed
        half = np.random.default_rng(seed).standard_normal((self.model.width, n_nodes // 2))
        self._nodes = np.concatenate([half, -half], axis=1).astype(np.float32)
        self._coefficients: FloatArray | None = None

    @property
    def traits(self) -> PolicyTraits:
        """Estimated from so many fixed nodes."""
        return PolicyTraits(probabilities="monte_carlo", n_nodes=self._nodes.shape[1])

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Share of nodes under which each eligible offer scores highest, shape ``(n, k)``."""
        x, z = self._blocks(table)
        theta = self._sampled()  # (context, offer, node)
        n, k, m = len(x), len(z), theta.shape[2]
        by_offer = np.einsum("cem,ke->ckm", theta, z, optimize=True).reshape(x.shape[1], k * m)
        out = np.empty((n, k))
        step = max(1, _CHUNK // (k * m))
        for start in range(0, n, step):
            scores = (x[start : start + step] @ by_offer).reshape(-1, k, m)
            scores = np.where(table.eligible[start : start + step, :, None], scores, -np.inf)
            top = scores.max(axis=1, keepdims=True)
            best = scores >= top - TIE_TOLERANCE * np.maximum(1.0, np.abs(top))
            out[start : start + step] = (best / best.sum(axis=1, keepdims=True)).mean(axis=2)
        return out

    def _sampled(self) -> FloatArray:
        if self._coefficients is None:
            mean = self.model.coefficients()
            drawn = self.model.posterior_root() @ self._nodes
            self._coefficients = mean[:, :, None] + self.scale * drawn.reshape(*mean.shape, -1)
        return self._coefficients

    def _forget_derived(self) -> None:
        self._coefficients = None

    def to_artifact(self) -> Artifact:
        """Parameters, sums and nodes."""
        outer = self._artifact({"scale": self.scale, "n_nodes": self._nodes.shape[1], "seed": self.seed})
        return Artifact(outer.kind, outer.manifest, {**outer.arrays, "nodes": self._nodes}, outer.blobs)


def load_linucb(artifact: Artifact) -> SharedLinUCB:
    """Entry point of kind ``shared_linucb``."""
    return SharedLinUCB.from_artifact(artifact, lambda space, p: SharedLinUCB(space, alpha=p["alpha"]))


def load_lints(artifact: Artifact) -> SharedLinTS:
    """Entry point of kind ``shared_lints``."""
    out = SharedLinTS.from_artifact(artifact, lambda space, p: SharedLinTS(space, **p))
    out._nodes = artifact.arrays["nodes"].copy()  # another numpy may draw others from the same seed
    return out
