"""When visitors come back and when clicks become contracts, from a log: censored survival likelihoods with weak priors.

A visitor is watched from the first visit in the log to the end of the market window or of the log, or to the visit at which it
decided to sign; a contract's delay counts where its click is old enough for every delay to have passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_expit, log_ndtr, logsumexp

from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray
from simulator.coefficients import Coefficient, moved, positive, share
from simulator.rollouts import Rollout
from simulator.world import MARKET_DAYS, MAX_DELAY_DAYS, MAX_RETURN_RATE, MIN_RETURN_RATE

# Round numbers, as the priors of responses: what a log does not say is not known.
TIMES = (
    positive("return_rate_per_day", 0.15, 1.0, most=1.0),
    positive("return_rate_spread", 0.4, 0.7),
    share("delay_zero_share", 0.5, 1.5, most=0.999),
    Coefficient(
        "delay_mean_days", 1.0, 0.8, lambda x: float(np.log(x - 1.0)), lambda x: max(float(1.0 + np.exp(x)), 1.001)
    ),
)
_RATE, _SPREAD, _ZERO, _MEAN = range(4)
# Days from which a person's rate is so well known that the nodes have to lie close. (Forty Gauss-Hermite nodes lie too far apart for
# people who were watched for a year: they made the spread and its error too small.)
_LONG_DAYS = 30
_WIDTH = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class TimesSeen:
    """What a log tells of times, one row a visitor that was seen.

    Attributes
    ----------
    n_returns, n_days
        Returns, and days on which one could have been seen, shape ``(n,)``.
    delay
        Days from the click to the contract; -1 where there is none old enough, shape ``(n,)``.
    """

    n_returns: IntArray
    n_days: IntArray
    delay: IntArray

    def take(self, who: IntArray) -> TimesSeen:
        """Of some visitors, each as often as it is named."""
        return TimesSeen(self.n_returns[who], self.n_days[who], self.delay[who])


@dataclass(frozen=True, slots=True, eq=False)
class TimesFit:
    """Estimates of ``TIMES`` in their free form, and their covariance."""

    mode: FloatArray
    covariance: FloatArray

    def natural(self) -> dict[str, float]:
        """Values in their own units, by name."""
        return {c.name: c.natural(float(x)) for c, x in zip(TIMES, self.mode, strict=True)}

    def standard_errors(self) -> dict[str, float]:
        """In their own units, by the delta method."""
        sd = np.sqrt(np.diag(self.covariance))
        return {c.name: abs(c.slope(float(x))) * float(e) for c, x, e in zip(TIMES, self.mode, sd, strict=True)}

    def given(self, **values: float) -> FloatArray:
        """Free forms of all where some are held at natural values, the others moved as the log asks."""
        return moved(TIMES, self.mode, self.covariance, values)

    def identified(self) -> tuple[str, ...]:
        """Of which the log leaves less than half of the spread that was plausible before it."""
        sd = np.sqrt(np.diag(self.covariance))
        return tuple(c.name for c, s in zip(TIMES, sd, strict=True) if s < 0.5 * c.prior_sd)


def times_seen(run: Rollout) -> TimesSeen:
    """Returns, days at risk and delays of the visitors of a log."""
    n_returns, n_days = returns_of(run)
    delay = np.full(len(run.subjects.n_visits), -1, dtype=np.int64)
    old = _old_contracts(run)
    delay[run.row[old]] = run.subjects.signed_day[run.row[old]] - run.day[old]
    return TimesSeen(n_returns, n_days, delay[np.unique(run.row)])


def delay_counts(delays: IntArray) -> tuple[int, int, int, int]:
    """Of delays cut at ``MAX_DELAY_DAYS``: at once, later, and of the later ones days on which a contract was signed, days at risk."""
    later = delays[delays > 0]
    return (
        int((delays == 0).sum()),
        len(later),
        int((later < MAX_DELAY_DAYS).sum()),
        int(np.minimum(later, MAX_DELAY_DAYS - 1).sum()),
    )


def fit_times(seen: TimesSeen, *, about: FloatArray | None = None) -> TimesFit:
    """The most plausible values of ``TIMES`` and their covariance.

    Parameters
    ----------
    about
        Centres of the priors in the free form; default: those of ``TIMES``. A bootstrap draws them, so that what the log leaves
        open spreads as it did before.
    """
    centre = np.asarray([c.prior_mean for c in TIMES]) if about is None else about
    precision = np.asarray([c.prior_sd**-2.0 for c in TIMES])

    def penalised(loss: Callable[[FloatArray], float], which: list[int]) -> tuple[FloatArray, FloatArray]:
        return settled(lambda x: loss(x) + 0.5 * float(precision[which] @ (x - centre[which]) ** 2), centre[which])

    returns, of_returns = penalised(returns_loss(seen.n_returns, seen.n_days), [_RATE, _SPREAD])
    zero, later, stops, at_risk = delay_counts(seen.delay[seen.delay >= 0])
    at_once, of_at_once = penalised(lambda x: _coin_loss(float(x[0]), zero, zero + later), [_ZERO])
    # The mean of the later delays m is the inverse of the daily chance to sign: logit(1 / m) = -log(m - 1).
    mean, of_mean = penalised(lambda x: _coin_loss(-float(x[0]), stops, at_risk), [_MEAN])
    covariance = np.zeros((4, 4))
    covariance[:2, :2] = of_returns
    covariance[_ZERO, _ZERO], covariance[_MEAN, _MEAN] = of_at_once[0, 0], of_mean[0, 0]
    return TimesFit(np.concatenate([returns, at_once, mean]), covariance)


def returns_of(run: Rollout) -> tuple[IntArray, IntArray]:
    """Returns and days at risk of each subject seen in a log.

    A subject is watched from its first visit to the end of the market window or of the log, or to the visit at which it decided
    to sign. Who has decided and not signed by the end of the log cannot be told from who did not come back.
    """
    n = len(run.subjects.n_visits)
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, run.row, run.day)
    signed_on = run.subjects.signed_day
    before = (signed_on[run.row] < 0) | (run.day <= signed_on[run.row])
    last = np.full(n, -1, dtype=np.int64)
    np.maximum.at(last, run.row[before], run.day[before])
    # Several visits on one day are one: a day is the unit of return.
    width = int(run.day.max(initial=0)) + 1
    visits = np.bincount(np.unique(run.row[before] * width + run.day[before]) // width, minlength=n)
    end = np.where(signed_on >= 0, last - first, np.minimum(MARKET_DAYS - 1, run.last_day - first))
    seen = visits > 0
    return (visits - 1)[seen], end[seen]


def delays_of(run: Rollout) -> IntArray:
    """Days from the last visit to signing, of contracts whose visit is old enough for every delay to have passed."""
    old = _old_contracts(run)
    return np.asarray(run.subjects.signed_day[run.row[old]] - run.day[old], dtype=np.int64)


def _old_contracts(run: Rollout) -> IntArray:
    return np.flatnonzero((run.rewards["subscribed"] > 0) & (run.day + MAX_DELAY_DAYS <= run.last_day))


def returns_loss(
    n_returns: IntArray, n_days: IntArray, *, pace: FloatArray | None = None
) -> Callable[[FloatArray], float]:
    """Minus the log-likelihood of returns, of (log of the median rate, log of the spread).

    Parameters
    ----------
    n_returns
        Days with a return, shape ``(n,)``.
    n_days
        Days on which a return could have been seen (right-censored at the end), shape ``(n,)``.
    pace
        Known factor on each person's rate.

    Notes
    -----
    ``r_i = rate * pace_i * exp(spread * z_i)``, ``z_i`` standard normal, integrated by Gauss-Legendre quadrature;
    each day returns with chance ``r_i``. Who stops for good is read as slow.
    """
    if (n_returns > n_days).any() or (n_days < 0).any():
        raise InvalidInputError("some people have more returns than days; expected at most one return a day")
    offset = np.zeros(len(n_returns)) if pace is None else np.log(pace)
    # Pairs of counts repeat: the likelihood is taken once for each.
    pairs, counts = np.unique(np.stack([n_returns, n_days, offset], axis=1), axis=0, return_counts=True)

    nodes, weights = np.polynomial.legendre.leggauss(256 if n_days.max(initial=0) >= _LONG_DAYS else 64)
    came, stayed = pairs[:, :1], pairs[:, 1:2] - pairs[:, :1]
    at_most = came[:, 0] * np.log(MAX_RETURN_RATE) + stayed[:, 0] * np.log1p(-MAX_RETURN_RATE)

    def loss(theta: FloatArray) -> float:
        spread = np.exp(np.clip(theta[1], -8.0, 3.0))
        # Up to the z at which a rate is the largest there is the integrand is smooth; beyond it is a constant.
        most = np.clip((np.log(MAX_RETURN_RATE) - theta[0] - pairs[:, 2]) / spread, 0.1 - _WIDTH, _WIDTH)
        half = 0.5 * (most + _WIDTH)
        z = half[:, None] * (nodes[None, :] + 1.0) - _WIDTH
        log_rate = np.minimum(theta[0] + spread * z + pairs[:, 2:], np.log(MAX_RETURN_RATE))
        logs = came * np.maximum(log_rate, np.log(MIN_RETURN_RATE)) + stayed * np.log1p(-np.exp(log_rate)) - 0.5 * z * z
        logs += np.log(weights) + np.log(half[:, None] / np.sqrt(2.0 * np.pi))
        return -float(counts @ np.logaddexp(logsumexp(logs, axis=1), at_most + log_ndtr(-most)))

    return loss


def _coin_loss(log_odds: float, n_yes: int, n: int) -> float:
    return -float(n_yes * log_expit(log_odds) + (n - n_yes) * log_expit(-log_odds))


def settled(loss: Callable[[FloatArray], float], start: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Where a loss of few unknowns is least, and the inverse of its curvature there.

    Raises
    ------
    InvalidInputError
        If the search ends where the loss is no minimum: on a slope, or on flat ground.

    Notes
    -----
    By a simplex: searches by slope (BFGS among them) were seen to stop early and say nothing. Slopes are then taken over steps of a
    third of a standard deviation.
    """
    at = minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-6, "maxiter": 2_000}).x
    steps = np.full(len(at), 1e-2)
    for _ in range(3):
        gradient, curvature = _slopes(loss, at, steps)
        if np.linalg.eigvalsh(curvature)[0] <= 1e-9:
            break
        inverse = np.linalg.inv(curvature)
        steps = 0.3 * np.sqrt(np.diag(inverse))
    else:
        if gradient @ inverse @ gradient < 1e-2:
            return np.asarray(at, dtype=np.float64), np.asarray(inverse, dtype=np.float64)
    raise InvalidInputError(
        f"times did not settle, last at {np.round(at, 3).tolist()}; expected visitors who come back at different paces"
    )


def _slopes(loss: Callable[[FloatArray], float], at: FloatArray, steps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gradient and curvature by central differences."""
    moves = np.diag(steps)
    gradient = np.asarray([loss(at + e) - loss(at - e) for e in moves]) / (2 * steps)
    curvature = [
        [loss(at + a + b) - loss(at + a - b) - loss(at - a + b) + loss(at - a - b) for b in moves] for a in moves
    ]
    return gradient, np.asarray(curvature) / (4 * np.outer(steps, steps))
