"""What a policy, a learner and a reward model must be able to do; a protocol belongs to its consumer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from policies.artifact import Artifact
from policies.records import DecisionOfOne, DecisionTable, FloatArray, InteractionBatch


@dataclass(frozen=True, slots=True)
class PolicyTraits:
    """What a policy says about itself.

    Parameters
    ----------
    probabilities
        How they are made: in closed form, by quadrature, or by a fixed, stored set of Monte Carlo nodes.
    n_nodes
        How many quadrature points or Monte Carlo nodes; 0 for closed forms.
    is_order_sensitive
        Whether reordering the offers may change more than the order of the probabilities.
    """

    probabilities: Literal["exact", "quadrature", "monte_carlo"] = "exact"
    n_nodes: int = 0
    is_order_sensitive: bool = False


@runtime_checkable
class Policy(Protocol):
    """Maps what is known before a choice to a distribution over the offers allowed; never draws, holds no random state."""

    @property
    def name(self) -> str:
        """Registered name of the kind of policy."""
        ...

    @property
    def traits(self) -> PolicyTraits:
        """What the policy says about itself."""
        ...

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Probability of each offer in each decision, shape ``(n, k)``.

        Rows sum to one; zero where an offer is not eligible; a batch equals its rows within 1e-5. Every row
        must have an eligible offer (``decide`` sees to that). No floor is applied here: ``decide`` does.
        """
        ...


@runtime_checkable
class QuickPolicy(Policy, Protocol):
    """A policy with a path of its own for single decisions, which is most of what a server does; optional."""

    def probabilities_of_one(self, table: DecisionOfOne) -> list[float]:
        """``probabilities(table)[0]`` as plain numbers, equal to the bit, without arrays for one row."""
        ...


@runtime_checkable
class SaveablePolicy(Policy, Protocol):
    """A policy that can be written down and found again through the registry of kinds."""

    def to_artifact(self) -> Artifact:
        """Everything needed to act the same elsewhere: arrays, blobs and a manifest; no pickled classes."""
        ...


@runtime_checkable
class OnlineLearner(SaveablePolicy, Protocol):
    """A policy that learns from interactions as they come."""

    def learn(self, batch: InteractionBatch) -> None:
        """Update from a batch; learning in parts equals learning at once where the algorithm allows it."""
        ...


@runtime_checkable
class RewardModel(Protocol):
    """Estimates what each offer would earn in each decision."""

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Expected reward of each offer in each decision, shape ``(n, k)``, in the unit of the reward; finite everywhere."""
        ...


@runtime_checkable
class SaveableRewardModel(RewardModel, Protocol):
    """A reward model that can be written down and found again through the registry of reward models."""

    def to_artifact(self) -> Artifact:
        """Everything needed to answer the same elsewhere."""
        ...


@runtime_checkable
class LearningRewardModel(SaveableRewardModel, Protocol):
    """A reward model that learns from interactions as they come."""

    def learn(self, batch: InteractionBatch) -> None:
        """Update from a batch; learning in parts equals learning at once where the algorithm allows it."""
        ...
