"""SquareCB: probability falls with the gap to the best offer, faster the more was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.greedy import RewardModelPolicy, best_offers, load_with_rule, over_model
from policies.protocols import RewardModel
from policies.records import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class SquareCB:
    """Inverse gap weighting.

    An offer whose expected reward is ``g`` below the best gets ``1 / (k + gamma g)``, the best the rest, with
    ``gamma = gamma_scale * n ** gamma_exponent`` after ``n`` interactions. With a reward model fitted once
    (``n`` fixed) gamma stays.

    Parameters
    ----------
    gamma_scale
        Per unit of reward: a reward in euros needs a smaller one than a reward in {0, 1}.
    gamma_exponent
        0.5 is the rate of the theorem when the model has the right form.

    References
    ----------
    Foster and Rakhlin (2020), "Beyond UCB: optimal and efficient contextual bandits with regression oracles".
    """

    gamma_scale: float = 10.0
    gamma_exponent: float = 0.5
    name = "squarecb"

    def __post_init__(self) -> None:
        if not self.gamma_scale > 0 or not 0 <= self.gamma_exponent <= 2:
            raise InvalidInputError(
                f"gamma_scale {self.gamma_scale}, gamma_exponent {self.gamma_exponent}; expected above 0, and in [0, 2]"
            )

    def distribution(self, scores: FloatArray, eligible: BoolArray, *, n_seen: int) -> FloatArray:
        """Inverse gap weighting; what is left over goes to the best, shared by ties."""
        gamma = self.gamma_scale * max(n_seen, 1) ** self.gamma_exponent
        best = best_offers(scores, eligible)
        top = np.where(eligible, scores, -np.inf).max(axis=1, keepdims=True)
        n_eligible = eligible.sum(axis=1, keepdims=True)
        gap = np.where(best, 0.0, top - scores)
        p = np.where(eligible & ~best, 1.0 / (n_eligible + gamma * np.maximum(gap, 0.0)), 0.0)
        rest = (1.0 - p.sum(axis=1, keepdims=True)) / best.sum(axis=1, keepdims=True)
        return np.asarray(np.where(best, rest, p), dtype=np.float64)

    def to_manifest(self) -> Mapping[str, Any]:
        """Its parameters."""
        return asdict(self)


def squarecb(
    model: RewardModel, *, gamma_scale: float = 10.0, gamma_exponent: float = 0.5, n_seen: int = 0
) -> RewardModelPolicy:
    """SquareCB over a reward model; ``n_seen`` is what the model was fitted on."""
    return over_model(model, SquareCB(gamma_scale, gamma_exponent), n_seen=n_seen)


def load(artifact: Artifact) -> RewardModelPolicy:
    """Entry point of kind ``squarecb``."""
    return load_with_rule(artifact, SquareCB)
