"""Boltzmann exploration: probability grows with the exponent of the expected reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.greedy import RewardModelPolicy, load_with_rule, over_model
from policies.protocols import RewardModel
from policies.records import BoolArray, FloatArray


def softmax(logits: FloatArray, eligible: BoolArray) -> FloatArray:
    """Softmax over the eligible offers of each row, zero elsewhere; shape ``(n, k)``."""
    masked = np.where(eligible, logits, -np.inf)
    weights = np.exp(masked - masked.max(axis=1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Boltzmann:
    """Softmax of expected reward over temperature.

    A poor explorer on its own (it ignores how sure the model is); kept for comparison and for smoothing a
    fitted model into a policy whose probabilities are easy to evaluate.

    Parameters
    ----------
    temperature
        In the unit of the reward, above 0.
    """

    temperature: float = 0.05
    name = "boltzmann"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InvalidInputError(f"temperature is {self.temperature}; expected above 0, in the unit of the reward")

    def distribution(self, scores: FloatArray, eligible: BoolArray, *, n_seen: int) -> FloatArray:
        """Softmax of the scores."""
        return softmax(scores / self.temperature, eligible)

    def to_manifest(self) -> Mapping[str, Any]:
        """Its parameters."""
        return asdict(self)


def boltzmann(model: RewardModel, *, temperature: float = 0.05) -> RewardModelPolicy:
    """Boltzmann exploration over a reward model."""
    return over_model(model, Boltzmann(temperature))


def load(artifact: Artifact) -> RewardModelPolicy:
    """Entry point of kind ``boltzmann``."""
    return load_with_rule(artifact, Boltzmann)
