"""A softmax policy over crosses of context and offer: what off-policy learning fits, and what imitates another policy."""

from __future__ import annotations

import numpy as np

from policies.artifact import Artifact
from policies.boltzmann import softmax
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray
from policies.reward_models import with_one


class SoftmaxLinear:
    """Probability grows with the exponent of a score that is linear in context, offer and all their products.

    Parameters
    ----------
    weights
        Shape ``(context + 1, offer + 1)``; zeros make every eligible offer alike.
    """

    name = "softmax_linear"
    traits = PolicyTraits()

    def __init__(self, space: FeatureSpace, weights: FloatArray | None = None) -> None:
        shape = (space.context_width + 1, space.offer_width + 1)
        weights = np.zeros(shape) if weights is None else np.asarray(weights, dtype=np.float64)
        if weights.shape != shape or not np.isfinite(weights).all():
            raise InvalidInputError(
                f"weights have shape {weights.shape}; expected {shape}, finite: one row per context feature"
            )
        self.space, self.weights = space, weights

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Softmax of the scores over eligible offers, shape ``(n, k)``."""
        x, z = with_one(self.space.encode_contexts(table)), with_one(self.space.encode_offers(table.offers))
        return softmax(x @ self.weights @ z.T, table.eligible)

    def to_artifact(self) -> Artifact:
        """Weights and feature space."""
        return Artifact(
            self.name, {"space": self.space.to_manifest(), "space_hash": self.space.hash}, {"weights": self.weights}
        )


def load(artifact: Artifact) -> SoftmaxLinear:
    """Entry point of kind ``softmax_linear``."""
    return SoftmaxLinear(FeatureSpace.from_manifest(artifact.manifest["space"]), artifact.arrays["weights"].copy())
