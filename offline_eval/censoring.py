"""Rewards whose window is still open are censored, not zero.

A subscription signed within 14 days is known for a decision of yesterday only if it was already signed. Counting the rest as
zero makes recent offers look bad. Two ways out: leave rows out until their window closes, or keep them and weigh every reward
that came by the inverse of the chance that a reward so late could be seen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from policies.records import BoolArray, FloatArray, InteractionBatch


@dataclass(frozen=True, slots=True)
class RewardWindow:
    """Until when rewards count, and until when the log knows of them.

    Parameters
    ----------
    days
        A reward counts if it comes at most so long after the decision.
    as_of
        The log knows everything that happened before this moment.
    """

    days: float
    as_of: datetime

    def __post_init__(self) -> None:
        if not (np.isfinite(self.days) and self.days > 0):
            raise InvalidInputError(f"window is {self.days} days; expected a number above 0")
        if self.as_of.tzinfo is None:
            raise InvalidInputError("as_of has no time zone; expected an aware time, such as datetime(…, tzinfo=UTC)")

    def followed_days(self, at: NDArray[np.datetime64]) -> FloatArray:
        """For how long each decision has been followed, shape ``(n,)``; negative after ``as_of``."""
        end = np.datetime64(self.as_of.astimezone(UTC).replace(tzinfo=None), "us")
        return np.asarray((end - at) / np.timedelta64(1, "D"), dtype=np.float64)


def matured(log: InteractionBatch, window: RewardWindow, delay_days: FloatArray) -> InteractionBatch:
    """Rows whose window has closed; rewards that came later than the window count as none.

    Parameters
    ----------
    delay_days
        Days from decision to reward, shape ``(n,)``; nan where none has come.

    Raises
    ------
    InvalidInputError
        If the log has no times, no window has closed, or rewards have no delay.
    """
    _check_delays(log, delay_days)
    followed = window.followed_days(_times(log))
    is_closed: BoolArray = followed >= window.days
    if not is_closed.any():
        raise InvalidInputError(_none_closed(followed, window))
    return log.with_reward(_within(log.reward, delay_days, window.days)).take(np.flatnonzero(is_closed))


def inverse_censoring(log: InteractionBatch, window: RewardWindow, delay_days: FloatArray) -> InteractionBatch:
    """All rows, each reward divided by the share of rows that have been followed long enough to show one so late.

    The mean of these rewards is that of the closed rewards: with c the time a row has been followed, d its delay and
    G(d) = P(c >= d), ``E[1{d <= c} r / G(d)] = E[r]``.

    Raises
    ------
    InvalidInputError
        If the log has no times, rewards have no delay, or no row has been followed for the whole window: what comes late is then
        never seen.

    Notes
    -----
    Assumes that when a decision was taken tells nothing of its reward or its delay: look at the drift check of the ``matured``
    log (weighed rewards fall over time by themselves), and take that one where the past differs from the present. Only means are
    those of the closed rewards: the log says so of itself (``is_reward_weighted``), and no quantiles are made of it.

    References
    ----------
    Robins, Rotnitzky and Zhao (1994), "Estimation of regression coefficients when some regressors are not always observed".
    """
    _check_delays(log, delay_days)
    followed = window.followed_days(_times(log))
    is_logged = followed >= 0
    log, followed, delay_days = log.take(is_logged), followed[is_logged], delay_days[is_logged]
    if not len(log) or followed.max() < window.days:
        raise InvalidInputError(_none_closed(followed, window))
    is_seen = ~np.isnan(delay_days) & (delay_days <= np.minimum(followed, window.days))
    ascending = np.sort(followed)
    at_least = 1.0 - np.searchsorted(ascending, np.where(is_seen, delay_days, 0.0), side="left") / len(followed)
    return replace(log, reward=np.where(is_seen, log.reward / at_least, 0.0), is_reward_weighted=True)


def _none_closed(followed: FloatArray, window: RewardWindow) -> str:
    """Why no reward of the whole window can be known, weighed or not."""
    longest = followed.max() if len(followed) else -1.0
    if longest < 0:
        return (
            f"all decisions were taken after {window.as_of.isoformat()}; expected an as-of time after the window of the first "
            "ones: pass the moment until which the log knows of rewards"
        )
    return (
        f"no row has been followed for the whole window of {window.days:g} days by {window.as_of.isoformat()}, the longest for "
        f"{longest:.1f}; expected some, for a reward at the window's end is never seen else: wait, or shorten the window"
    )


def _within(reward: FloatArray, delay_days: FloatArray, days: float) -> FloatArray:
    return np.where(~np.isnan(delay_days) & (delay_days <= days), reward, 0.0)


def _check_delays(log: InteractionBatch, delay_days: FloatArray) -> None:
    """A reward that came at no known time may have come within the window or after it: neither may be assumed."""
    lost = (log.reward != 0) & np.isnan(delay_days)
    if lost.any():
        raise InvalidInputError(
            f"{int(lost.sum())} rows have a reward and no delay, the first at {int(np.argmax(lost))}; expected the days from decision to "
            "reward wherever one came: give them, or leave these rows out"
        )


def _times(log: InteractionBatch) -> NDArray[np.datetime64]:
    if log.table.at is None:
        raise InvalidInputError("the log has no times of decisions; expected them to tell which windows are open")
    return log.table.at
