"""The networks that RLlib trains here: flat ``concat(mask, features)`` in, one number for each offer out, the mask obeyed.

``MaskedActorCritic`` serves PPO, MARWIL and behaviour cloning; ``MaskedQ`` serves DQN. Both keep what is exported in ``actor``.
"""

from __future__ import annotations

from typing import Any

import torch
from ray.rllib.algorithms.dqn.dqn_learner import QF_NEXT_PREDS, QF_PREDS, QF_TARGET_NEXT_PREDS
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.utils import make_target_network
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI, QNetAPI, TargetNetworkAPI
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.rllib.utils.schedules.scheduler import Scheduler
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
        mask, features = observation[..., : self.n_offers], observation[..., self.n_offers :]
        return torch.where(mask > 0.5, self.actor(features), torch.full_like(mask, MASKED))

    def _forward(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {Columns.ACTION_DIST_INPUTS: self.log_odds(batch[Columns.OBS])}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> torch.Tensor:
        """Value of each observation, shape ``(n,)``."""
        values: torch.Tensor = self.critic(batch[Columns.OBS][..., self.n_offers :])
        return values.squeeze(-1)


class MaskedQ(TorchRLModule, QNetAPI, TargetNetworkAPI, InferenceOnlyAPI):  # type: ignore[misc]
    """Action values; forbidden offers are ``-inf``, which is what RLlib's loss and maxima expect of them."""

    def setup(self) -> None:
        """Build the layers; called by RLlib."""
        self.n_offers = int(self.action_space.n)
        width = int(self.observation_space.shape[0]) - self.n_offers
        self.actor = _perceptron(width, tuple(self.model_config["hidden"]), self.n_offers)
        self.epsilon = Scheduler(fixed_value_or_schedule=self.model_config["epsilon"], framework="torch")

    def _values(self, net: nn.Module, observation: torch.Tensor) -> torch.Tensor:
        mask, features = observation[..., : self.n_offers], observation[..., self.n_offers :]
        return torch.where(mask > 0.5, net(features), torch.full_like(mask, -torch.inf))

    def compute_q_values(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Masked action values, shape ``(n, k)``."""
        return {QF_PREDS: self._values(self.actor, batch[Columns.OBS])}

    def _forward_inference(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self._values(self.actor, batch[Columns.OBS]).argmax(dim=-1)}

    def _forward_exploration(self, batch: dict[str, Any], t: int, **_: Any) -> dict[str, Any]:
        self.epsilon.update(t)
        best = self._values(self.actor, batch[Columns.OBS]).argmax(dim=-1)
        mask = batch[Columns.OBS][..., : self.n_offers]
        anything = torch.multinomial(mask, num_samples=1).squeeze(-1)
        is_random = torch.rand(best.shape) < self.epsilon.get_current_value()
        return {Columns.ACTIONS: torch.where(is_random, anything, best)}

    def _forward_train(self, batch: dict[str, Any], **_: Any) -> dict[str, Any]:
        following = batch[Columns.NEXT_OBS]
        return {
            QF_PREDS: self._values(self.actor, batch[Columns.OBS]),
            QF_NEXT_PREDS: self._values(self.actor, following),
            QF_TARGET_NEXT_PREDS: self._values(self._target, following),
        }

    def make_target_networks(self) -> None:
        """Copy the network; called by RLlib's learner."""
        self._target = make_target_network(self.actor)

    def get_target_network_pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Network and copy, for RLlib to keep in step."""
        return [(self.actor, self._target)]

    def forward_target(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Action values of the copy."""
        return {QF_PREDS: self._values(self._target, batch[Columns.OBS])}

    def get_non_inference_attributes(self) -> list[str]:
        """What acting does not need."""
        return ["_target"]


def _perceptron(width: int, hidden: tuple[int, ...], out: int) -> nn.Sequential:
    sizes = (width, *hidden)
    layers: list[nn.Module] = []
    for a, b in zip(sizes, hidden, strict=False):
        layers += [nn.Linear(a, b), nn.Tanh()]
    last = nn.Linear(sizes[-1], out)
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)
