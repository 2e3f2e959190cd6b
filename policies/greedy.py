"""Greedy over a reward model, and what all policies over a reward model share.

A *rule* turns expected rewards into a distribution; ``RewardModelPolicy`` joins a rule with any ``RewardModel``
and saves the model inside its own artefact. Epsilon-greedy, Boltzmann and SquareCB are further rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from policies.artifact import Artifact, inner_artifact, nest_artifact
from policies.errors import ArtifactError, InvalidInputError
from policies.protocols import LearningRewardModel, PolicyTraits, RewardModel, SaveableRewardModel
from policies.records import BoolArray, DecisionTable, FloatArray, InteractionBatch
from policies.registry import load_reward_model

# Two scores nearer than this, relative to their size, are a tie: float32 models differ by as much between one
# decision and a batch, and an argmax would turn that into a probability of one.
TIE_TOLERANCE = 1e-6


def best_offers(scores: FloatArray, eligible: BoolArray) -> BoolArray:
    """Which eligible offers share the highest score of their row, shape ``(n, k)``."""
    masked = np.where(eligible, scores, -np.inf)
    best = masked.max(axis=1, keepdims=True)
    return np.asarray(masked >= best - TIE_TOLERANCE * np.maximum(1.0, np.abs(best)), dtype=np.bool_)


def greedy_probabilities(scores: FloatArray, eligible: BoolArray) -> FloatArray:
    """All probability on the best eligible offer of each row, shared equally by ties; shape ``(n, k)``."""
    if len(scores) == 1:  # the fast path of a single decision
        row = (
            np.where(eligible[0], scores[0], -np.inf)
            if np.count_nonzero(eligible) < eligible.size
            else scores[0].copy()
        )
        place = row.argmax()
        top = float(row[place])
        limit = top - TIE_TOLERANCE * max(1.0, abs(top))
        out = np.zeros(scores.shape)
        row[place] = -np.inf
        if row[row.argmax()] < limit:
            out[0, place] = 1.0
            return out
        row[place] = top
        tied = row >= limit
        out[0, tied] = 1.0 / np.count_nonzero(tied)
        return out
    best = best_offers(scores, eligible)
    return np.asarray(best / best.sum(axis=1, keepdims=True), dtype=np.float64)


class ScoreRule(Protocol):
    """How expected rewards become a distribution."""

    @property
    def name(self) -> str:
        """Registered kind of the policies made with it."""
        ...

    def distribution(self, scores: FloatArray, eligible: BoolArray, *, n_seen: int) -> FloatArray:
        """Distribution of each row, shape ``(n, k)``; ``n_seen`` interactions were learned from so far."""
        ...

    def to_manifest(self) -> Mapping[str, Any]:
        """Its parameters as plain JSON values."""
        ...


@dataclass(frozen=True, slots=True)
class Greedy:
    """The offer with the highest expected reward, ties shared; explores only through the explore share."""

    name = "greedy"

    def distribution(self, scores: FloatArray, eligible: BoolArray, *, n_seen: int) -> FloatArray:
        """All probability on the best offers."""
        return greedy_probabilities(scores, eligible)

    def to_manifest(self) -> Mapping[str, Any]:
        """No parameters."""
        return {}


class RewardModelPolicy:
    """A rule over a reward model.

    Parameters
    ----------
    n_seen
        Interactions the model had been fitted on; rules whose exploration shrinks begin there.

    Raises
    ------
    InvalidInputError
        From ``to_artifact``, if the model cannot be saved.
    """

    def __init__(self, model: RewardModel, rule: ScoreRule, *, n_seen: int = 0) -> None:
        self.model = model
        self.rule = rule
        self.n_seen = n_seen

    @property
    def name(self) -> str:
        """Kind of the rule."""
        return self.rule.name

    @property
    def traits(self) -> PolicyTraits:
        """Closed form, given the model."""
        return PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Distribution of each decision, shape ``(n, k)``."""
        scores = np.asarray(self.model.expected_reward(table), dtype=np.float64)
        return self.rule.distribution(scores, table.eligible, n_seen=self.n_seen)

    def to_artifact(self) -> Artifact:
        """Rule and model together."""
        if not isinstance(self.model, SaveableRewardModel):
            raise InvalidInputError(
                f"reward model {type(self.model).__name__} has no to_artifact; a policy over it can act but not be saved: "
                "export the model to ONNX (policies.onnx_policy.OnnxRewardModel) or add to_artifact"
            )
        outer = Artifact(self.name, {"rule": dict(self.rule.to_manifest()), "n_seen": self.n_seen})
        return nest_artifact(outer, "model", self.model.to_artifact())


class LearningRewardModelPolicy(RewardModelPolicy):
    """A rule over a reward model that learns as interactions come."""

    model: LearningRewardModel

    def learn(self, batch: InteractionBatch) -> None:
        """Update the model and count the interactions."""
        self.model.learn(batch)
        self.n_seen += len(batch)


def over_model(model: RewardModel, rule: ScoreRule, *, n_seen: int = 0) -> RewardModelPolicy:
    """Join a rule and a model; the policy learns if the model does."""
    learns = isinstance(model, LearningRewardModel)
    return (LearningRewardModelPolicy if learns else RewardModelPolicy)(model, rule, n_seen=n_seen)


def load_with_rule(artifact: Artifact, make_rule: Any) -> RewardModelPolicy:
    """Read back a policy over a reward model, its rule made from the parameters in the manifest."""
    try:
        rule, n_seen = make_rule(**artifact.manifest["rule"]), int(artifact.manifest["n_seen"])
    except (KeyError, TypeError) as error:
        raise ArtifactError(
            f"artefact of kind {artifact.kind!r} has another manifest ({error}); save it again"
        ) from error
    return over_model(load_reward_model(inner_artifact(artifact, "model")), rule, n_seen=n_seen)


def greedy(model: RewardModel) -> RewardModelPolicy:
    """Greedy over a reward model."""
    return over_model(model, Greedy())


def load(artifact: Artifact) -> RewardModelPolicy:
    """Entry point of kind ``greedy``."""
    return load_with_rule(artifact, Greedy)
