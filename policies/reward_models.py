"""Reward models that need numpy only: a ridge regression per offer, and one over crosses of context and offer."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from policies.artifact import Artifact
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.fixed import fading
from policies.linear_state import DisjointLinear
from policies.records import DecisionTable, FloatArray, InteractionBatch

_MAX_CROSSED = 4096


class RidgeRewardModel:
    """One ridge regression per offer; knows nothing of an offer it has not seen.

    Parameters
    ----------
    ridge, half_life
        See ``DisjointLinear``.
    """

    kind = "ridge"

    def __init__(self, space: FeatureSpace, *, ridge: float = 1.0, half_life: float = 0.0) -> None:
        self.state = DisjointLinear(space, ridge=ridge, half_life=half_life)

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Posterior mean reward, shape ``(n, k)``."""
        return self.state.mean(table)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows."""
        self.state.learn(batch)

    def to_artifact(self) -> Artifact:
        """State."""
        return self.state.to_artifact(self.kind, {})


class CrossedRidgeRewardModel:
    """One ridge regression over context, offer and all their products: offers share what they have in common.

    An offer that was never shown is judged by its features. The inverse is of size
    ``(context + 1) * (offer + 1)`` squared, so keep the space small (a few hundred crossed columns).

    Parameters
    ----------
    ridge
        Prior precision of each coefficient, above 0.
    half_life
        Interactions after which an observation weighs half; 0: for ever.
    """

    kind = "crossed_ridge"

    def __init__(self, space: FeatureSpace, *, ridge: float = 1.0, half_life: float = 0.0) -> None:
        self.width = (space.context_width + 1) * (space.offer_width + 1)
        if not ridge > 0 or half_life < 0:
            raise InvalidInputError(f"ridge {ridge}, half_life {half_life}; expected above 0, and at least 0")
        if self.width > _MAX_CROSSED:
            raise InvalidInputError(
                f"{space.context_width} context and {space.offer_width} offer columns give {self.width} crossed ones; "
                f"expected at most {_MAX_CROSSED}: use RidgeRewardModel or VW, or leave features out"
            )
        self.space, self.ridge, self.half_life = space, ridge, half_life
        self._gram = np.zeros((self.width, self.width))
        self._moment = np.zeros(self.width)
        self._theta: FloatArray = np.zeros(self.width)

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """Posterior mean reward, shape ``(n, k)``."""
        x, z = with_one(self.space.encode_contexts(table)), with_one(self.space.encode_offers(table.offers))
        return np.asarray(x @ self._theta.reshape(x.shape[1], z.shape[1]) @ z.T)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows in their order."""
        n = len(batch)
        if n == 0:
            return
        x = with_one(self.space.encode_contexts(batch.table))
        z = with_one(self.space.encode_offers(batch.table.offers))[batch.chosen]
        fade = fading(n, self.half_life)
        self._gram *= fade.whole
        self._moment *= fade.whole
        for start in range(0, n, 4096):
            part = slice(start, start + 4096)
            crossed = (x[part, :, None] * z[part, None, :]).reshape(len(x[part]), self.width)
            # A matrix times its own transpose is one symmetric product, half the work of two different factors.
            weighted = crossed * fade.rows[part, None] if self.half_life else crossed
            self._gram += weighted.T @ crossed
        self._moment += (x.T @ (z * (fade.rows * batch.reward)[:, None])).ravel()
        self._solve()

    def for_reward(self, batch: InteractionBatch) -> Self:
        """The model that would have been learned from the same rows with the rewards of ``batch``; the rows must be the same.

        Most of learning is the sum of crossed features, which does not depend on the reward.

        Raises
        ------
        InvalidInputError
            If observations fade: then the sums are of more than these rows.
        """
        if self.half_life:
            raise InvalidInputError("observations of this model fade; learn a second one from the rows instead")
        out = type(self)(self.space, ridge=self.ridge)
        x = with_one(self.space.encode_contexts(batch.table))
        z = with_one(self.space.encode_offers(batch.table.offers))[batch.chosen]
        out._gram = self._gram
        out._moment = (x.T @ (z * batch.reward[:, None])).ravel()
        out._solve()
        return out

    def _solve(self) -> None:
        solved = np.linalg.solve(self._gram + self.ridge * np.eye(self.width), self._moment)
        self._theta = np.asarray(solved, dtype=np.float64)

    def coefficients(self) -> FloatArray:
        """Posterior mean, shape ``(context + 1, offer + 1)``."""
        return self._theta.reshape(self.space.context_width + 1, self.space.offer_width + 1)

    def covariance(self) -> FloatArray:
        """Posterior covariance of the flat coefficients, in units of the noise."""
        return np.asarray(np.linalg.inv(self._gram + self.ridge * np.eye(self.width)))

    def posterior_root(self) -> FloatArray:
        """A matrix ``R`` with ``R Rᵀ`` the covariance: standard normal vectors become draws of the coefficients."""
        lower = np.linalg.cholesky(self._gram + self.ridge * np.eye(self.width))
        return np.asarray(solve_triangular(lower, np.eye(self.width), lower=True, trans="T"))

    def to_artifact(self) -> Artifact:
        """Parameters and sums."""
        return Artifact(
            self.kind,
            {"ridge": self.ridge, "half_life": self.half_life, "space": self.space.to_manifest()},
            {"gram": self._gram, "moment": self._moment, "theta": self._theta},
        )


def with_one(x: NDArray[np.float32]) -> FloatArray:
    """Features and a constant, float64."""
    return np.concatenate([x, np.ones((len(x), 1))], axis=1, dtype=np.float64)


def load_ridge(artifact: Artifact) -> RidgeRewardModel:
    """Entry point of reward model ``ridge``."""
    state = DisjointLinear.from_artifact(artifact)
    out = RidgeRewardModel(state.space)
    out.state = state
    return out


def load_crossed_ridge(artifact: Artifact) -> CrossedRidgeRewardModel:
    """Entry point of reward model ``crossed_ridge``."""
    m = artifact.manifest
    out = CrossedRidgeRewardModel(FeatureSpace.from_manifest(m["space"]), ridge=m["ridge"], half_life=m["half_life"])
    out._gram, out._moment = artifact.arrays["gram"].copy(), artifact.arrays["moment"].copy()
    out._theta = artifact.arrays["theta"].copy()
    return out
