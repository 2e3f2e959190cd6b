"""LinUCB and linear Thompson sampling, one regression per offer."""

from __future__ import annotations

import numpy as np

from policies.artifact import Artifact
from policies.best_of import N_POINTS, normal_best_probabilities
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.greedy import greedy_probabilities
from policies.linear_state import DisjointLinear
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch


class LinUCB:
    """The offer with the highest plausible reward: posterior mean plus ``alpha`` standard deviations.

    Deterministic but for ties: off-policy evaluation of what it logged rests on the explore share alone. Prefer
    ``LinTS`` where logs are to be learned from.

    Parameters
    ----------
    alpha
        Width of the bound, in the unit of the reward.
    ridge, half_life, learns_prior
        See ``DisjointLinear``.

    Notes
    -----
    The defaults had the least mean regret among linear bandits of a grid on twelve sets with rewards in {0, 1}
    (``nextoffer benchmark regret -- --choose``); ``LogisticThompson`` had less there.

    References
    ----------
    Li, Chu, Langford and Schapire (2010), "A contextual-bandit approach to personalized news article recommendation".
    """

    name = "linucb"
    traits = PolicyTraits()

    def __init__(
        self,
        space: FeatureSpace,
        *,
        alpha: float = 0.3,
        ridge: float = 10.0,
        half_life: float = 0.0,
        learns_prior: bool = False,
    ) -> None:
        if alpha < 0:
            raise InvalidInputError(f"alpha is {alpha}; expected at least 0")
        self.alpha = alpha
        self.state = DisjointLinear(space, ridge=ridge, half_life=half_life, learns_prior=learns_prior)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All probability on the highest bound, ties shared; shape ``(n, k)``."""
        mean, variance = self.state.mean_and_variance(table)
        bound = np.sqrt(variance, out=variance)
        bound *= self.alpha
        bound += mean
        return greedy_probabilities(bound, table.eligible)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows."""
        self.state.learn(batch)

    def to_artifact(self) -> Artifact:
        """Parameters and state."""
        return self.state.to_artifact(self.name, {"alpha": self.alpha})


class LinTS:
    """Linear Thompson sampling with true probabilities.

    Given the data the offers' scores are independent normals (one regression per offer), so the chance of each
    to be the largest is a one-dimensional integral: no matrix is drawn and nothing is counted. On top of a
    sequence model's state vector (a block of the feature space) this is "neural-linear".

    Parameters
    ----------
    scale
        Standard deviation of the reward's noise as the posterior takes it: larger explores more.
    ridge, half_life, learns_prior
        See ``DisjointLinear``.

    Notes
    -----
    The defaults had the least mean regret of a grid on three sets with rewards in {0, 1}: less noise than such rewards have, so less exploration than
    the theorem asks for. Rewards in another unit want both scaled with it.

    References
    ----------
    Agrawal and Goyal (2013), "Thompson sampling for contextual bandits with linear payoffs".
    """

    name = "lints"
    traits = PolicyTraits(probabilities="quadrature", n_nodes=N_POINTS)

    def __init__(
        self,
        space: FeatureSpace,
        *,
        scale: float = 0.04,
        ridge: float = 10.0,
        half_life: float = 0.0,
        learns_prior: bool = False,
    ) -> None:
        if not scale > 0:
            raise InvalidInputError(f"scale is {scale}; expected above 0")
        self.scale = scale
        self.state = DisjointLinear(space, ridge=ridge, half_life=half_life, learns_prior=learns_prior)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Probability that each offer's sampled score is the largest, shape ``(n, k)``."""
        mean, variance = self.state.mean_and_variance(table)
        return normal_best_probabilities(mean, variance, table.eligible, factor=self.scale**2)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows."""
        self.state.learn(batch)

    def to_artifact(self) -> Artifact:
        """Parameters and state."""
        return self.state.to_artifact(self.name, {"scale": self.scale})


def load_linucb(artifact: Artifact) -> LinUCB:
    """Entry point of kind ``linucb``."""
    state = DisjointLinear.from_artifact(artifact)
    out = LinUCB(state.space, alpha=artifact.manifest["parameters"]["alpha"])
    out.state = state
    return out


def load_lints(artifact: Artifact) -> LinTS:
    """Entry point of kind ``lints``."""
    state = DisjointLinear.from_artifact(artifact)
    out = LinTS(state.space, scale=artifact.manifest["parameters"]["scale"])
    out.state = state
    return out
