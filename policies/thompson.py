"""Thompson sampling without context: Beta-Bernoulli and Gaussian, with exact probabilities by quadrature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import betainc, betaincinv, betaln

from policies.artifact import Artifact
from policies.best_of import N_POINTS, best_probabilities, normal_best_probabilities
from policies.errors import InvalidInputError
from policies.fixed import fading
from policies.protocols import PolicyTraits
from policies.records import BoolArray, DecisionTable, FloatArray, InteractionBatch, OfferSet

_QUANTILES = np.asarray([1e-14, 1e-6, 0.01, 0.2, 0.5, 0.8, 0.99, 1 - 1e-6, 1 - 1e-14])


class _CountingLearner:
    """Totals per offer id that fade with a half-life; what the two samplers share."""

    def __init__(self, *, half_life: float) -> None:
        if half_life < 0:
            raise InvalidInputError(f"half_life is {half_life}; expected a number of interactions, or 0 for no fading")
        self.half_life = half_life
        self._totals: dict[str, tuple[float, float, float]] = {}  # offer -> weight, sum of r, sum of r squared

    def _gather(self, offers: OfferSet) -> FloatArray:
        zero = (0.0, 0.0, 0.0)
        return np.asarray([self._totals.get(o, zero) for o in offers.ids], dtype=np.float64)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows in their order; learning in parts equals learning at once."""
        n, k = len(batch), batch.table.n_offers
        if n == 0:
            return
        fade = fading(n, self.half_life)
        self._totals = {o: (w * fade.whole, s * fade.whole, q * fade.whole) for o, (w, s, q) in self._totals.items()}
        new = np.stack(
            [np.bincount(batch.chosen, fade.rows * batch.reward**power, minlength=k) for power in (0, 1, 2)], axis=1
        )
        for position in np.unique(batch.chosen):
            offer = batch.table.offers.ids[position]
            w, s, q = self._totals.get(offer, (0.0, 0.0, 0.0))
            self._totals[offer] = (
                w + float(new[position, 0]),
                s + float(new[position, 1]),
                q + float(new[position, 2]),
            )

    def _artifact(self, kind: str, parameters: dict[str, Any]) -> Artifact:
        return Artifact(
            kind,
            {"parameters": {**parameters, "half_life": self.half_life}, "offers": list(self._totals)},
            {"totals": np.asarray(list(self._totals.values()), dtype=np.float64).reshape(-1, 3)},
        )

    def _restore(self, artifact: Artifact) -> None:
        rows = artifact.arrays["totals"]
        self._totals = {
            o: (float(w), float(s), float(q)) for o, (w, s, q) in zip(artifact.manifest["offers"], rows, strict=True)
        }


class BetaThompson(_CountingLearner):
    """Each offer's success rate has a Beta posterior; an offer is shown as often as it is likely to be the best.

    Parameters
    ----------
    prior_successes, prior_failures
        The prior's parameters, at least 1 (a density that is infinite at 0 or 1 has no place in the quadrature).
    half_life
        Interactions after which an observation weighs half; 0: for ever.

    Notes
    -----
    Rewards must lie in [0, 1]; one between counts as a part of a success.
    """

    name = "beta_thompson"
    traits = PolicyTraits(probabilities="quadrature", n_nodes=N_POINTS)

    def __init__(self, *, prior_successes: float = 1.0, prior_failures: float = 1.0, half_life: float = 0.0) -> None:
        super().__init__(half_life=half_life)
        if prior_successes < 1 or prior_failures < 1:
            raise InvalidInputError(
                f"prior_successes {prior_successes}, prior_failures {prior_failures}; expected at least 1"
            )
        self.prior_successes, self.prior_failures = prior_successes, prior_failures

    def learn(self, batch: InteractionBatch) -> None:
        """Count successes and failures.

        Raises
        ------
        InvalidInputError
            If a reward lies outside [0, 1].
        """
        bad = (batch.reward < 0) | (batch.reward > 1)
        if bad.any():
            raise InvalidInputError(
                f"reward is outside [0, 1] in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; "
                "Beta-Bernoulli counts successes: rescale the reward or use gaussian_thompson"
            )
        super().learn(batch)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Probability of being the best eligible offer, shape ``(n, k)``."""
        totals = self._gather(table.offers)
        a, b = self.prior_successes + totals[:, 1], self.prior_failures + totals[:, 0] - totals[:, 1]
        return _per_mask(table.eligible, lambda mask: _beta_best(a[mask], b[mask]))

    def to_artifact(self) -> Artifact:
        """Prior and counts."""
        return self._artifact(
            self.name, {"prior_successes": self.prior_successes, "prior_failures": self.prior_failures}
        )


class GaussianThompson(_CountingLearner):
    """Each offer's mean reward has a normal posterior (known noise); rewards on any scale.

    Parameters
    ----------
    prior_mean, prior_deviation
        What is thought of an offer before any observation.
    noise_deviation
        Standard deviation of a single reward; too small a value explores too little.
    half_life
        Interactions after which an observation weighs half; 0: for ever.
    """

    name = "gaussian_thompson"
    traits = PolicyTraits(probabilities="quadrature", n_nodes=N_POINTS)

    def __init__(
        self,
        *,
        prior_mean: float = 0.0,
        prior_deviation: float = 1.0,
        noise_deviation: float = 0.5,
        half_life: float = 0.0,
    ) -> None:
        super().__init__(half_life=half_life)
        if not prior_deviation > 0 or not noise_deviation > 0:
            raise InvalidInputError(
                f"prior_deviation {prior_deviation}, noise_deviation {noise_deviation}; expected both above 0"
            )
        self.prior_mean, self.prior_deviation, self.noise_deviation = prior_mean, prior_deviation, noise_deviation

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Probability of being the best eligible offer, shape ``(n, k)``."""
        totals = self._gather(table.offers)
        precision = 1 / self.prior_deviation**2 + totals[:, 0] / self.noise_deviation**2
        mean = (self.prior_mean / self.prior_deviation**2 + totals[:, 1] / self.noise_deviation**2) / precision
        variance = 1 / precision

        def best(mask: BoolArray) -> FloatArray:
            m, s = mean[mask][None], variance[mask][None]
            return np.asarray(normal_best_probabilities(m, s, np.ones_like(m, dtype=np.bool_))[0])

        return _per_mask(table.eligible, best)

    def to_artifact(self) -> Artifact:
        """Prior and totals."""
        return self._artifact(
            self.name,
            {
                "prior_mean": self.prior_mean,
                "prior_deviation": self.prior_deviation,
                "noise_deviation": self.noise_deviation,
            },
        )


def _beta_best(a: FloatArray, b: FloatArray) -> FloatArray:
    cuts = betaincinv(a[:, None], b[:, None], _QUANTILES)
    low = cuts[:, 0].max()  # below it some offer is already almost surely better
    a, b = a[:, None], b[:, None]

    def density(x: FloatArray) -> FloatArray:
        return np.asarray(np.exp((a - 1) * np.log(x) + (b - 1) * np.log1p(-x) - betaln(a, b)))

    ends = np.clip(np.append(cuts.ravel(), (low, cuts[:, -1].max())), low, 1.0)
    return best_probabilities(lambda x: betainc(a, b, x), density, ends)


def _per_mask(eligible: BoolArray, best: Callable[[BoolArray], FloatArray]) -> FloatArray:
    """Ask once per distinct set of eligible offers."""
    masks, which = np.unique(eligible, axis=0, return_inverse=True)
    out = np.zeros(masks.shape)
    for i, mask in enumerate(masks):
        out[i, mask] = best(mask)
    return np.asarray(out[np.asarray(which).reshape(-1)], dtype=np.float64)


def load_beta(artifact: Artifact) -> BetaThompson:
    """Entry point of kind ``beta_thompson``."""
    out = BetaThompson(**artifact.manifest["parameters"])
    out._restore(artifact)
    return out


def load_gaussian(artifact: Artifact) -> GaussianThompson:
    """Entry point of kind ``gaussian_thompson``."""
    out = GaussianThompson(**artifact.manifest["parameters"])
    out._restore(artifact)
    return out
