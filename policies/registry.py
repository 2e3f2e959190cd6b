"""Policies and reward models found by entry point: ours come through the same door as anyone's.

An entry point in group ``nextoffer.policies`` is called ``kind = "module:load"``, where ``load`` makes a
policy of that kind from an ``Artifact``; ``nextoffer.reward_models`` does the same for reward models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, cast

from policies.artifact import Artifact
from policies.errors import UnknownNameError
from policies.protocols import Policy, RewardModel

GROUP = "nextoffer.policies"
REWARD_MODEL_GROUP = "nextoffer.reward_models"


@cache
def _loaders(group: str) -> Mapping[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}


@cache
def _loader(group: str, kind: str, what: str) -> Callable[[Artifact], Any]:
    if kind not in _loaders(group):
        raise UnknownNameError(what, kind, _loaders(group))
    (point,) = entry_points(group=group, name=kind)
    return cast(Callable[[Artifact], Any], point.load())


def known_kinds() -> list[str]:
    """Names of all kinds of policy that can be loaded here."""
    return sorted(_loaders(GROUP))


def known_reward_models() -> list[str]:
    """Names of all kinds of reward model that can be loaded here."""
    return sorted(_loaders(REWARD_MODEL_GROUP))


def load_policy(artifact: Artifact) -> Policy:
    """Make a policy from an artefact.

    Raises
    ------
    UnknownNameError
        If no installed package registers the artefact's kind.
    """
    return cast(Policy, _loader(GROUP, artifact.kind, "kind of policy")(artifact))


def load_reward_model(artifact: Artifact) -> RewardModel:
    """Make a reward model from an artefact.

    Raises
    ------
    UnknownNameError
        If no installed package registers the artefact's kind.
    """
    return cast(RewardModel, _loader(REWARD_MODEL_GROUP, artifact.kind, "kind of reward model")(artifact))
