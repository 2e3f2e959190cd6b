"""Logistic Thompson sampling: one Bayesian logistic regression per offer, for rewards that are yes or no."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.best_of import N_POINTS, normal_best_probabilities
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, InteractionBatch, OfferSet

_NEWTON_STEPS = 100  # three or four in practice
_MAX_CACHED = 8


class LogisticThompson:
    """The offer whose sampled success rate is the highest, with true probabilities.

    Each offer's coefficients have a normal posterior by Laplace's approximation, refreshed one interaction at a time: the mode
    given one more outcome lies on a line, so that finding it is a one-dimensional root. The success rate grows with the log-odds,
    so the chance to be best is that of independent normals, by the same quadrature as ``LinTS``.

    Parameters
    ----------
    prior_precision
        Of each coefficient, above 0.
    prior_rate
        Success rate that an offer without observations is thought to have in the average context, in (0, 1): one above what
        offers earn lets new ones be tried.
    scale
        Multiplies the posterior's deviation: below one explores less than Thompson sampling proper.

    Notes
    -----
    The defaults had the least mean regret, and the best mean rank, of a grid on twelve sets with rewards in {0, 1}
    (``nextoffer benchmark regret -- --choose``); no setting of ``LinUCB`` or ``LinTS`` came near on the mean.
    Log-odds fit rewards of a few percent, where a linear model's noise is far from constant. It does not fade: where taste
    drifts, put it into ``policies.windowed.Windowed``. Learning in parts equals learning at once, row by row.

    References
    ----------
    Chapelle and Li (2011), "An empirical evaluation of Thompson sampling", algorithm 3, here with full covariance.
    """

    name = "logistic_thompson"
    traits = PolicyTraits(probabilities="quadrature", n_nodes=N_POINTS)

    def __init__(
        self, space: FeatureSpace, *, prior_precision: float = 1.0, prior_rate: float = 0.2, scale: float = 0.1
    ) -> None:
        if not prior_precision > 0 or not 0 < prior_rate < 1 or not scale > 0:
            raise InvalidInputError(
                f"prior_precision {prior_precision}, prior_rate {prior_rate}, scale {scale}; expected above 0, in (0, 1), above 0"
            )
        self.space, self.prior_precision, self.prior_rate, self.scale = space, prior_precision, prior_rate, scale
        self.width = space.context_width + 1
        # By offer: the mode of the coefficients, and their covariance.
        self._mode: dict[str, FloatArray] = {}
        self._covariance: dict[str, FloatArray] = {}
        self._stacks: dict[str, tuple[FloatArray, FloatArray]] = {}

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Probability that each offer's sampled rate is the largest, shape ``(n, k)``."""
        mean, variance = self.log_odds(table)
        return normal_best_probabilities(mean, variance, table.eligible, factor=self.scale**2)

    def log_odds(self, table: DecisionTable) -> tuple[FloatArray, FloatArray]:
        """Posterior mean and variance of the log-odds of success, shape ``(n, k)`` each."""
        x, (mode, covariance) = self._inputs(table), self._stack(table.offers)
        variance = np.stack([np.einsum("nd,nd->n", x @ c, x) for c in covariance], axis=1)
        return np.asarray(x @ mode.T), np.maximum(variance, 1e-12)

    def learn(self, batch: InteractionBatch) -> None:
        """Refresh the posterior by each row, in order.

        Raises
        ------
        InvalidInputError
            Before anything is learned, if a reward lies outside [0, 1]; one between counts as a part of a success.
        """
        bad = (batch.reward < 0) | (batch.reward > 1)
        if bad.any():
            raise InvalidInputError(
                f"reward is outside [0, 1] in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; a logistic model "
                "fits rates: rescale the reward or use lints"
            )
        x, ids = self._inputs(batch.table), batch.table.offers.ids
        for row, (position, reward) in enumerate(zip(batch.chosen.tolist(), batch.reward.tolist(), strict=True)):
            self._learn_one(ids[position], x[row], reward)
        self._stacks.clear()

    def _learn_one(self, offer: str, x: FloatArray, reward: float) -> None:
        mode = self._mode.get(offer)
        if mode is None:
            mode, covariance = self._prior()
            self._covariance[offer] = covariance
        covariance = self._covariance[offer]
        direction = covariance @ x
        spread = float(x @ direction)
        before = float(x @ mode)
        after = _log_odds_after(before, spread, reward)
        rate = _logistic(after)
        self._mode[offer] = mode + direction * (reward - rate)
        weight = rate * (1.0 - rate)
        self._covariance[offer] = covariance - direction[:, None] * direction * (weight / (1.0 + weight * spread))

    def _prior(self) -> tuple[FloatArray, FloatArray]:
        mode = np.zeros(self.width)
        mode[-1] = math.log(self.prior_rate / (1.0 - self.prior_rate))
        return mode, np.eye(self.width) / self.prior_precision

    def _inputs(self, table: DecisionTable) -> FloatArray:
        out = np.ones((len(table), self.width))
        out[:, :-1] = self.space.encode_contexts(table)
        return out

    def _stack(self, offers: OfferSet) -> tuple[FloatArray, FloatArray]:
        found = self._stacks.get(offers.revision)
        if found is None:
            mode, covariance = self._prior()
            found = (
                np.asarray([self._mode.get(o, mode) for o in offers.ids]),
                np.asarray([self._covariance.get(o, covariance) for o in offers.ids]),
            )
            if len(self._stacks) >= _MAX_CACHED:
                self._stacks.clear()
            self._stacks[offers.revision] = found
        return found

    def to_artifact(self) -> Artifact:
        """Parameters and posteriors."""
        d = self.width
        return Artifact(
            self.name,
            {
                "prior_precision": self.prior_precision,
                "prior_rate": self.prior_rate,
                "scale": self.scale,
                "offers": list(self._mode),
                "space": self.space.to_manifest(),
                "space_hash": self.space.hash,
            },
            {
                "mode": np.asarray(list(self._mode.values())).reshape(-1, d),
                "covariance": np.asarray([self._covariance[o] for o in self._mode]).reshape(-1, d, d),
            },
        )


def _log_odds_after(before: float, spread: float, reward: float) -> float:
    """Root ``a`` of ``a = before + spread (reward - logistic(a))``: the log-odds of this context at the new mode.

    The right side falls in ``a``, so the root is single, and it lies between what a rate of one and of nought would make of it.
    """
    low, high = before + spread * (reward - 1.0), before + spread * reward
    a = before
    for _ in range(_NEWTON_STEPS):
        width = high - low
        rate = _logistic(a)
        gap = a - before - spread * (reward - rate)
        if gap > 0:
            high = min(high, a)
        else:
            low = max(low, a)
        if high - low < 1e-13 * max(1.0, abs(a)) or gap == 0:
            break
        step = a - gap / (1.0 + spread * rate * (1.0 - rate))
        if abs(step - a) < 1e-13 * max(1.0, abs(a)):
            break
        # Far from the root Newton's steps jump from one flat side to the other: then halving is faster.
        is_slow = high - low > 0.5 * width and width < spread
        a = step if low < step < high and not is_slow else 0.5 * (low + high)
    return a


def _logistic(a: float) -> float:
    """Without overflow, however far from nought."""
    return 0.5 * (1.0 + math.tanh(0.5 * a))


def load(artifact: Artifact) -> LogisticThompson:
    """Entry point of kind ``logistic_thompson``."""
    m = artifact.manifest
    out = LogisticThompson(
        FeatureSpace.from_manifest(m["space"]),
        prior_precision=m["prior_precision"],
        prior_rate=m["prior_rate"],
        scale=m["scale"],
    )
    modes: NDArray[np.float64] = artifact.arrays["mode"]
    for offer, mode, covariance in zip(m["offers"], modes, artifact.arrays["covariance"], strict=True):
        out._mode[offer], out._covariance[offer] = mode.copy(), covariance.copy()
    return out
