"""The one network that serves PPO: features to masked action log-odds and a value; flat ``concat(mask, features)`` in."""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import nn

# exp of it is exactly 0 in float32, and unlike -inf it leaves entropy and KL finite.
MASKED = -1e9


class MaskedActorCritic(TorchRLModule, ValueFunctionAPI):  # type: ignore[misc]
    """Two separate perceptrons; the mask is part of the observation and of the exported graph."""

    def setup(self) -> None:
        """Build the layers; called by RLlib."""
        self.n_offers = int(self.action_space.n)
        width = int(self.observation_space.shape[0]) - self.n_offers
        hidden = tuple(self.model_config["hidden"])
        self.actor = _perceptron(width, hidden, self.n_offers)
        self.critic = _perceptron(width, hidden, 1)

    def log_odds(self, observation: torch.Tensor) -> torch.Tensor:
        """Masked log-odds, shape ``(n, k)``."""
        mask, features = observation[:, : self.n_offers], observation[:, self.n_offers :]
        return torch.where(mask > 0.5, self.actor(features), torch.full_like(mask, MASKED))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.log_odds(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Value of each observation, shape ``(n,)``."""
        values: torch.Tensor = self.critic(batch[Columns.OBS][:, self.n_offers :])
        return values.squeeze(-1)


def _perceptron(width: int, hidden: tuple[int, ...], out: int) -> nn.Sequential:
    sizes = (width, *hidden)
    layers: list[nn.Module] = []
    for a, b in zip(sizes, hidden, strict=False):
        layers += [nn.Linear(a, b), nn.Tanh()]
    last = nn.Linear(sizes[-1], out)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
