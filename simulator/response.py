"""How visitors answer to offers, from a log: one likelihood of each visitor's clicks, contract and stay, over what is hidden.

A visitor's clicks, the contract that follows a click and the days until it is cancelled share what the log does not show: taste for
car classes, sensitivity to prices and the part of deal affinity that no trait tells. The likelihood of a visitor is the mean over
fixed nodes of these, so that spreads between visitors are told from chance within them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from policies.errors import InvalidInputError
from policies.records import BoolArray, FloatArray
from simulator.coefficients import Coefficient, moved, positive, share
from simulator.evidence import Evidence, evidence_of
from simulator.likelihood import Likelihood
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import Scenario

_MAX_WEIGHTED_STEPS = 40
_LEAST_VIEWS = 100
# Prior means are round numbers, not the values of the reference site: what a log does not say is not known.
COEFFICIENTS = (
    Coefficient("click_base", -1.5, 1.5),
    Coefficient("no_offer_penalty", -0.5, 1.5),
    Coefficient("discount_appeal", 1.5, 3.0),
    Coefficient("perk_appeal", 0.3, 0.7),
    Coefficient("term_dislike", 0.02, 0.05),
    Coefficient("engagement_gain", 0.0, 0.3),
    Coefficient("fatigue_per_view", 0.2, 0.3),
    share("fatigue_decay_per_day", 0.8, 0.8),
    positive("price_sensitivity", 0.7, 0.7),
    positive("price_sensitivity_spread", 0.4, 0.5),
    positive("taste_spread", 0.7, 0.7),
    share("taste_shown", 0.6, 0.9),
    positive("affinity_hidden", 1.0, 0.7),
    Coefficient("convert_base", -4.0, 2.0),
    positive("cancel_per_day", 0.01, 1.0, most=1.0),
    Coefficient("cancel_per_discount", 1.0, 2.0),
    Coefficient("cancel_per_term", -0.05, 0.06),
    Coefficient("cancel_per_perk", -0.3, 0.5),
    Coefficient("cancel_per_taste", -0.2, 0.3),
    Coefficient("retention_offer_effect", -0.3, 0.4),
)
# Effects across visits, which a site need not have: fitted where asked for.
HISTORY = (
    Coefficient("appeal_per_dependence", 0.0, 0.3),
    Coefficient("discount_wear", 0.0, 0.3),
    Coefficient("cancel_per_dependence", 0.0, 0.7),
)


@dataclass(frozen=True, slots=True, eq=False)
class ResponseFit:
    """Estimates, in the free form in which they are searched.

    Attributes
    ----------
    mode
        Shape ``(d,)``.
    curvature
        Of the log-likelihood with its priors at the mode, shape ``(d, d)``: the outer product of the scores; where visits are weighted,
        by differences of scores.
    scores
        Derivative of each visitor's log-likelihood at the mode, shape ``(n_subjects, d)``.
    trend_p
        P-value of the hypothesis that no offer's appeal rises or falls with the date: the laws have no date, and where they need one
        the errors above are too small.
    """

    coefficients: tuple[Coefficient, ...]
    mode: FloatArray
    curvature: FloatArray
    scores: FloatArray
    log_likelihood: float
    n_subjects: int
    n_visits: int
    trend_p: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the coefficients, in order."""
        return tuple(c.name for c in self.coefficients)

    @property
    def covariance(self) -> FloatArray:
        """Of the free forms, shape ``(d, d)``: the inverse of the information, which is a sandwich where visits are weighted.

        References
        ----------
        White (1982), "Maximum likelihood estimation of misspecified models".
        """
        bread = np.linalg.inv(self.curvature)
        return np.asarray(bread @ (self.scores.T @ self.scores + self._prior) @ bread, dtype=np.float64)

    @property
    def _prior(self) -> FloatArray:
        return np.diag([c.prior_sd**-2.0 for c in self.coefficients])

    def natural(self, free: FloatArray | None = None) -> dict[str, float]:
        """Values in their own units, by name; default: of the mode."""
        at = self.mode if free is None else free
        return {c.name: c.natural(float(x)) for c, x in zip(self.coefficients, at, strict=True)}

    def standard_errors(self) -> dict[str, float]:
        """In their own units, by the delta method."""
        sd = np.sqrt(np.diag(self.covariance))
        return {
            c.name: abs(c.slope(float(x))) * float(e) for c, x, e in zip(self.coefficients, self.mode, sd, strict=True)
        }

    def identified(self) -> tuple[str, ...]:
        """Coefficients of which the log leaves less than half of the spread that was plausible before it."""
        sd = np.sqrt(np.diag(self.covariance))
        return tuple(c.name for c, s in zip(self.coefficients, sd, strict=True) if s < 0.5 * c.prior_sd)

    def draws(self, counts: NDArray[np.int64], rng: np.random.Generator) -> FloatArray:
        """One set of coefficients for each resample of the visitors, by one step of Newton's from the mode.

        Parameters
        ----------
        counts
            How often each visitor is in each resample, shape ``(n_draws, n_subjects)``.

        Returns
        -------
        numpy.ndarray
            Shape ``(n_draws, d)``, free form. Where the log says nothing they spread as the prior does.

        References
        ----------
        Kline and Santos (2012), "A score based approach to wild bootstrap inference".
        """
        prior = np.asarray([1.0 / c.prior_sd for c in self.coefficients])
        moved = (counts - 1.0) @ self.scores + rng.normal(size=(len(counts), len(prior))) * prior
        return np.asarray(self.mode + np.linalg.solve(self.curvature, moved.T).T, dtype=np.float64)

    def given(self, **values: float) -> FloatArray:
        """Free forms of all coefficients where some are held at natural values, the others moved as the log asks."""
        inverse = np.asarray(np.linalg.inv(self.curvature), dtype=np.float64)
        return moved(self.coefficients, self.mode, inverse, values)


_Judged = tuple[float, FloatArray, FloatArray]


def fit_response(
    run: Rollout,
    scenario: Scenario,
    *,
    with_history_effects: bool = False,
    is_weighted: bool = False,
    n_nodes: int = 128,
    max_steps: int = 60,
) -> ResponseFit:
    """Fit how visitors answer, by steps of Berndt, Hall, Hall and Hausman from a start that knows nothing.

    Parameters
    ----------
    scenario
        Its offers and rules are known; nothing else of it is read.
    with_history_effects
        Whether discounts seen before may matter (``HISTORY``).
    is_weighted
        As of ``evidence_of``.

    Raises
    ------
    InvalidInputError
        If the log has fewer than 200 visitors or 20 contracts, or the search does not settle.

    References
    ----------
    Train (2009), "Discrete Choice Methods with Simulation", chapters 6, 8 and 9.
    """
    evidence = evidence_of(run, scenario, is_weighted=is_weighted)
    if evidence.n_subjects < 200 or len(evidence.contract) < 20:
        raise InvalidInputError(
            f"the log has {evidence.n_subjects} visitors and {len(evidence.contract)} contracts; expected at least 200 and 20"
        )
    traits = tuple(Coefficient(n, 0.0, 2.0) for n in evidence.linear_names if n.startswith("affinity:"))
    coefficients = (*COEFFICIENTS, *traits, *HISTORY)
    is_used = np.asarray([with_history_effects or c not in HISTORY for c in coefficients])
    of = Likelihood(evidence, coefficients, n_nodes=n_nodes, rows_a_chunk=250_000 // n_nodes)
    mean = np.asarray([c.prior_mean for c in coefficients])
    # What is not fitted is held where it has no effect by a prior that nothing moves.
    precision = np.where(is_used, [c.prior_sd**-2.0 for c in coefficients], 1e12)

    def judge(free: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, scores = of(free)
        return (
            value - 0.5 * float(precision @ (free - mean) ** 2),
            scores.sum(axis=0) - precision * (free - mean),
            scores,
        )

    # Without weights the outer product is the curvature, nearly: the way is found without.
    of.is_weighted = False
    at = mean.copy()
    value, gradient, scores = judge(at)
    for _ in range(max_steps):
        information = scores.T @ scores + np.diag(precision)
        at, (value, gradient, scores) = _climb(judge, at, (value, gradient, scores), information)
        if float(gradient @ np.linalg.solve(scores.T @ scores + np.diag(precision), gradient)) < 1e-2:
            break
    else:
        raise InvalidInputError(
            f"the response model did not settle in {max_steps} steps; expected a log with more visitors"
        )
    curvature = scores.T @ scores + np.diag(precision)
    if is_weighted:
        of.is_weighted = True
        at, (value, gradient, scores), curvature = _with_weights(of, judge, at, curvature, precision, is_used)
    used = np.flatnonzero(is_used)
    kept = tuple(coefficients[i] for i in used)
    return ResponseFit(
        kept,
        at[used],
        curvature[np.ix_(used, used)],
        scores[:, used],
        value,
        evidence.n_subjects,
        len(evidence.clicked),
        trend_p(of.of_visits(at), scores, precision, evidence),
    )


def _with_weights(
    of: Likelihood,
    judge: Callable[[FloatArray], _Judged],
    at: FloatArray,
    information: FloatArray,
    precision: FloatArray,
    is_used: BoolArray,
) -> tuple[FloatArray, _Judged, FloatArray]:
    """From the estimates without weights to those with: where, what is known there, and the curvature, which no outer product gives."""
    steps = np.where(is_used, 0.2 / np.sqrt(np.diag(information)), 0.0)

    def curvature_at(free: FloatArray) -> FloatArray:
        return _no_flatter_than(of.curvature(free, steps) + np.diag(precision), precision)

    start, known, metric = at, judge(at), curvature_at(at)
    for _ in range(_MAX_WEIGHTED_STEPS):
        if float(known[1] @ np.linalg.solve(metric, known[1])) < 1e-2:
            # Near the start its curvature still holds.
            is_near = float((at - start) @ metric @ (at - start)) < 1.0
            return at, known, metric if is_near else curvature_at(at)
        before, gradient = at, known[1]
        at, known = _climb(judge, at, known, metric)
        metric = _learned(metric, at - before, gradient - known[1])
    raise InvalidInputError(
        f"the response model with weights did not settle in {_MAX_WEIGHTED_STEPS} steps; fit it without weights"
    )


def trend_p(of_visits: FloatArray, scores: FloatArray, precision: FloatArray, evidence: Evidence) -> float:
    """P-value of a score test: a slope over dates in the log-odds of each offer, all of them nought.

    Parameters
    ----------
    of_visits
        As of ``Likelihood.of_visits``.
    scores, precision
        At the mode, shapes ``(n_subjects, d)`` and ``(d,)``: what the estimates have taken up is taken out.

    References
    ----------
    Rao (1948), "Large sample tests of statistical hypotheses concerning several parameters".
    """
    slopes = []
    for offer in np.unique(evidence.shown):
        mine = evidence.shown == offer
        day = evidence.day[mine].astype(np.float64)
        if mine.sum() >= _LEAST_VIEWS and day.std() > 0:
            slope = np.zeros(len(of_visits))
            slope[mine] = (day - day.mean()) / day.std() * of_visits[mine]
            slopes.append(np.add.reduceat(slope, evidence.start))
    if not slopes:
        return 1.0
    g = np.stack(slopes, axis=1)
    taken = np.linalg.solve(scores.T @ scores + np.diag(precision), scores.T @ g)
    left = g - scores @ taken
    total = left.sum(axis=0)
    return float(chi2.sf(total @ np.linalg.solve(left.T @ left, total), len(slopes)))


def _climb(
    judge: Callable[[FloatArray], _Judged], at: FloatArray, known: _Judged, metric: FloatArray
) -> tuple[FloatArray, _Judged]:
    """One step up, halved as long as that helps."""
    value, gradient, _ = known
    step = np.linalg.solve(metric, gradient)
    promised = float(gradient @ step)
    size, trial = 1.0, judge(at + step)
    # A whole step gains half of what the gradient promises where the metric is the curvature. Where the laws are not the log's,
    # the outer product is not: steps overshoot and climb by crumbs, so one that gains little is halved as long as that helps.
    while size > 1e-3 and trial[0] - value < 0.25 * size * promised:
        half = judge(at + 0.5 * size * step)
        if trial[0] > value and half[0] <= trial[0]:
            break
        size, trial = 0.5 * size, half
    return at + size * step, trial


def _learned(metric: FloatArray, step: FloatArray, change: FloatArray) -> FloatArray:
    """The curvature put right by what a step has shown (Broyden, Fletcher, Goldfarb and Shanno)."""
    if change @ step <= 1e-3 * float(step @ metric @ step):
        return metric
    seen = metric @ step
    return metric + np.outer(change, change) / (change @ step) - np.outer(seen, seen) / (step @ seen)


def _no_flatter_than(curvature: FloatArray, precision: FloatArray) -> FloatArray:
    """The curvature with the prior's in every direction in which it is less: a log does not make known less than before."""
    root = np.sqrt(precision)
    values, vectors = np.linalg.eigh(curvature / np.outer(root, root))
    return np.asarray((vectors * np.maximum(values, 1.0)) @ vectors.T * np.outer(root, root), dtype=np.float64)
