"""Epsilon-greedy: mostly the best offer of a reward model, sometimes any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.greedy import RewardModelPolicy, greedy_probabilities, load_with_rule, over_model
from policies.protocols import RewardModel
from policies.records import BoolArray, FloatArray


@dataclass(frozen=True, slots=True)
class Epsilon:
    """With probability epsilon any eligible offer, else the best.

    Parameters
    ----------
    epsilon
        At the start, in [0, 1].
    decay
        Interactions after which epsilon has halved (``epsilon / (1 + n / decay)``); 0: it stays.
    minimum
        Epsilon never falls below it.
    """

    epsilon: float = 0.1
    decay: float = 0.0
    minimum: float = 0.0
    name = "epsilon_greedy"

    def __post_init__(self) -> None:
        if not (0.0 <= self.minimum <= self.epsilon <= 1.0) or self.decay < 0:
            raise InvalidInputError(
                f"epsilon {self.epsilon}, minimum {self.minimum}, decay {self.decay}; expected 0 <= minimum <= epsilon <= 1 and decay >= 0"
            )

    def distribution(self, scores: FloatArray, eligible: BoolArray, *, n_seen: int) -> FloatArray:
        """Mix of the greedy and the uniform distribution."""
        epsilon = self.epsilon / (1.0 + n_seen / self.decay) if self.decay else self.epsilon
        epsilon = max(epsilon, self.minimum)
        uniform = eligible / eligible.sum(axis=1, keepdims=True)
        return np.asarray((1.0 - epsilon) * greedy_probabilities(scores, eligible) + epsilon * uniform)

    def to_manifest(self) -> Mapping[str, Any]:
        """Its parameters."""
        return asdict(self)


def epsilon_greedy(
    model: RewardModel, *, epsilon: float = 0.1, decay: float = 0.0, minimum: float = 0.0
) -> RewardModelPolicy:
    """Epsilon-greedy over a reward model."""
    return over_model(model, Epsilon(epsilon, decay, minimum))


def load(artifact: Artifact) -> RewardModelPolicy:
    """Entry point of kind ``epsilon_greedy``."""
    return load_with_rule(artifact, Epsilon)
