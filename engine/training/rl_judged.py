"""The site with a reward model in place of what visitors did: the same visitors, less noise in what a step is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from policies.artifact import load_artifact
from policies.errors import InvalidInputError, SchemaError
from policies.onnx_policy import OnnxRewardModel
from policies.registry import load_reward_model
from simulator.env import CarSubscriptionVectorEnv
from simulator.scenarios.car_subscription import Scenario

JUDGED_ENV_ID = "nextoffer/JudgedCarSubscription-v0"


class JudgedVectorEnv(CarSubscriptionVectorEnv):
    """Visitors live as ever; each visit is rewarded with what the model expects of it.

    A contract that is kept once in twenty visits teaches slowly; its probability teaches at once. What the model does not
    know, effects on later visits, still comes from the visitors: whether they come back, and as what.

    Parameters
    ----------
    model
        Folder of a reward model (a session of ONNX Runtime cannot be sent to another process), fitted on a log with the
        reward to be planned for, credited to the decision that earned it; its feature space is that of the observations.
    """

    def __init__(self, num_envs: int = 1, *, scenario: Scenario | None = None, model: Path) -> None:
        judge = judge_in(model)
        super().__init__(num_envs, scenario=scenario, space=judge.space)
        self._model = judge
        self._offers = judge.space.encode_offers(self.scenario.offers)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Show one offer to each."""
        if self.kernel is None:
            raise SchemaError("step was called before reset; call reset first")
        k = len(self.scenario.offers)
        expected = self._model.score(self.kernel.observation[:, k:], self._offers)
        worth = expected[np.arange(self.num_envs), np.asarray(actions)].astype(np.float32)
        worth[self._done] = 0.0  # those slots only get their next visitor
        obs, _, terminated, truncated, info = super().step(actions)
        return obs, worth, terminated, truncated, info


def judge_in(folder: Path) -> OnnxRewardModel:
    """The reward model of a folder.

    Raises
    ------
    InvalidInputError
        If it is of another kind than ``onnx``.
    """
    model = load_reward_model(load_artifact(folder))
    if not isinstance(model, OnnxRewardModel):
        raise InvalidInputError(f"{folder} holds a {type(model).__name__}; expected a reward model of kind onnx")
    return model


def register() -> None:
    """Make the environment known to gymnasium (importing this module does it)."""
    if JUDGED_ENV_ID not in gymnasium.registry:
        gymnasium.register(JUDGED_ENV_ID, vector_entry_point="engine.training.rl_judged:JudgedVectorEnv")


register()
