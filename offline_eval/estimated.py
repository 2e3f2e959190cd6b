"""Logs without propensities: they are estimated, and everything that follows says so.

An estimated propensity is the chance of an offer given what the *log* knows. Where whoever chose knew more (a salesperson, a
rule on a column that was not kept), the estimate is wrong in a way no check can see. So a panel on such a log never
recommends: caution is the best it says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from offline_eval.diagnostics import Check
from offline_eval.reward_models import identifiers, subject_folds
from policies.errors import InvalidInputError
from policies.features import FeatureSpace
from policies.records import BoolArray, DecisionTable, FloatArray, IntArray, InteractionBatch

# Where estimates are smaller than this, weights say more of the model's error than of the log.
LEAST_PROPENSITY = 0.005
MAX_IMBALANCE = 0.1
NO_TEST = "Propensities were estimated from these rows, so the rows cannot test them."


@dataclass(frozen=True, slots=True, eq=False)
class EstimatedLog:
    """A log whose propensities are estimates, with what is known of their quality.

    Attributes
    ----------
    batch
        The log; ``probabilities`` and ``propensity`` are the estimates.
    gain
        Log-likelihood per row above that of constant shares, on rows the model did not see; 0 means that the context does
        not tell who was shown what.
    imbalance
        Largest standardised difference beyond chance, over offers and context columns, between the weighted rows that show an
        offer and all rows, and where it is; 0 and empty where all are within four standard errors.
    n_floored
        Rows whose estimate was below the floor and was raised to it.
    """

    batch: InteractionBatch
    gain: float
    imbalance: float
    imbalanced: str
    n_floored: int

    def checks(self) -> list[Check]:
        """What a panel says of it."""
        floored = self.n_floored / len(self.batch)
        return [
            Check(
                "propensities", "warn", None, "logged",
                "Propensities were not logged but estimated from the context: whatever else the choice depended on is missing, "
                f"and no check can show it. {floored:.1%} of the rows were below {LEAST_PROPENSITY:g} and raised to it.",
            ),
            Check(
                "balance under estimated propensities",
                "pass" if self.imbalance <= MAX_IMBALANCE else "fail",
                self.imbalance,
                f"<= {MAX_IMBALANCE:g} standard deviations",
                "Weighted by the estimates, the rows of each offer are like all rows, within chance."
                if not self.imbalanced
                else f"Weighted by the estimates, rows of an offer differ most from all rows in {self.imbalanced}: "
                f"{self.imbalance:.2f} standard deviations.",
            ),
        ]  # fmt: skip


def estimate_propensities(
    log: InteractionBatch, *, n_folds: int = 3, seed: int = 0, penalty: float = 1.0
) -> EstimatedLog:
    """Replace a log's propensities by estimates: multinomial logistic regression, cross-fitted by subject.

    Parameters
    ----------
    log
        Decisions and rewards; its propensities are not looked at.
    penalty
        Ridge penalty of the coefficients, in rows.

    Raises
    ------
    InvalidInputError
        If an offer was shown in fewer than ten rows (leave those rows out), or there are fewer subjects than folds.
    """
    table, k = log.table, log.table.n_offers
    counts = np.bincount(log.chosen, minlength=k)
    rare = [str(table.offers.ids[j]) for j in np.flatnonzero((counts > 0) & (counts < 10))]
    if rare:
        raise InvalidInputError(
            f"offers {rare[:5]} were shown in fewer than ten rows; expected more to estimate their propensities: leave these rows out"
        )
    x = _design(table)
    folds = subject_folds(log, n_folds=n_folds, seed=seed)
    estimated = np.zeros((len(log), k))
    for fold in range(n_folds):
        train, mine = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        theta = fit_choice(x[train], log.chosen[train], table.eligible[train], penalty=penalty)
        estimated[mine] = choice_probabilities(theta, x[mine], table.eligible[mine])
    rows = np.arange(len(log))
    floored = np.where(table.eligible & (counts > 0), np.maximum(estimated, LEAST_PROPENSITY), estimated)
    floored /= floored.sum(axis=1, keepdims=True)
    shares = np.where(table.eligible, counts / len(log), 0.0)
    shares /= shares.sum(axis=1, keepdims=True)
    gain = float(np.log(floored[rows, log.chosen] / shares[rows, log.chosen]).mean())
    imbalance, where = _imbalance(x, log.chosen, floored, counts, table)
    low = int(np.count_nonzero(estimated[rows, log.chosen] < LEAST_PROPENSITY))
    batch = replace(log, propensity=floored[rows, log.chosen], probabilities=floored)
    return EstimatedLog(batch, gain, imbalance, where, low)


def fit_choice(x: FloatArray, chosen: IntArray, eligible: BoolArray, *, penalty: float) -> FloatArray:
    """Coefficients of a multinomial logistic model of which offer was shown, shape ``(d, k)``."""
    from scipy.optimize import minimize  # half a second to import

    d, k, n = x.shape[1], eligible.shape[1], len(x)
    shown = np.zeros((n, k))
    shown[np.arange(n), chosen] = 1.0

    def loss(flat: FloatArray) -> tuple[float, FloatArray]:
        theta = flat.reshape(d, k)
        p = choice_probabilities(theta, x, eligible)
        value = -np.log(np.maximum(p[np.arange(n), chosen], 1e-300)).sum() + penalty / 2 * (theta[1:] ** 2).sum()
        slope = x.T @ (p - shown)
        slope[1:] += penalty * theta[1:]
        return float(value) / n, slope.ravel() / n

    start = np.zeros((d, k))
    start[0] = np.log(np.bincount(chosen, minlength=k) + 0.5)
    found = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x, dtype=np.float64).reshape(d, k)


def choice_probabilities(theta: FloatArray, x: FloatArray, eligible: BoolArray) -> FloatArray:
    """Softmax over eligible offers, shape ``(n, k)``."""
    scores = np.where(eligible, x @ theta, -np.inf)
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _design(table: DecisionTable) -> FloatArray:
    context = (
        FeatureSpace.fit(table, ignore=identifiers(table), identify_offers=False)
        .encode_contexts(table)
        .astype(np.float64)
    )
    return np.concatenate([np.ones((len(table), 1)), np.clip(context, -8.0, 8.0)], axis=1)


def _imbalance(
    x: FloatArray, chosen: IntArray, estimated: FloatArray, counts: IntArray, table: DecisionTable
) -> tuple[float, str]:
    """Largest standardised difference between an offer's weighted rows and the rows in which it could be shown."""
    worst, where = 0.0, ""
    names = FeatureSpace.fit(table, ignore=identifiers(table), identify_offers=False).context_names
    for j in np.flatnonzero(counts >= 10):
        could = table.eligible[:, j]
        mine = (chosen == j) & could
        weight = 1.0 / estimated[mine, j]
        spread = x[could].std(axis=0)
        off = np.abs(weight @ x[mine] / weight.sum() - x[could].mean(axis=0)) / np.where(spread > 0, spread, np.inf)
        chance = 4.0 * float(np.sqrt(weight @ weight)) / float(weight.sum())  # of a standardised mean of so many rows
        off = np.where(off > chance, off, 0.0)
        column = int(np.argmax(off))
        if off[column] > worst:
            name = names[column - 1].name if column else "the intercept"
            worst, where = float(off[column]), f"{name} for offer {table.offers.ids[int(j)]!r}"
    return worst, where
