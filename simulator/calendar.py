"""What the date does to a site: weekdays, season, drift, shocks, offers that come and go. Off unless a scenario has one.

A calendar is compiled once into two tables, log-odds and availability by day and offer, so that the laws stay as they are. Dates are
given, not made by the visitors: an offer is sold out on its day, whoever bought it. Were stock counted by sales, one visitor's offer would
change another's choice, and a subject's fate would depend on whom it was simulated with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from policies.errors import InvalidInputError, UnknownNameError
from policies.records import BoolArray, FloatArray, OfferSet
from simulator.streams import Purpose, normals

_DAYS_A_WEEK = 7


@dataclass(frozen=True, slots=True)
class Shock:
    """Something that changes appeal from one day on.

    Parameters
    ----------
    first_day, last_day
        Days on which it acts, both included.
    log_odds
        Added to the log-odds of click and contract.
    offers
        On which; empty: all.
    """

    first_day: int
    last_day: int
    log_odds: float
    offers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Calendar:
    """Dates of a site, counted in days from its first; every default is "nothing happens".

    Parameters
    ----------
    weekday_log_odds
        By weekday, the first day's first; seven numbers.
    season_log_odds, season_days
        Height and length of a cosine that is highest on the first day.
    drift_per_day
        Standard deviation of the daily step of a random walk of each offer's appeal.
    shocks
        Scheduled changes.
    offered
        First and last day (both included) of offers that come late or sell out; others are there on all days.
    max_views
        How often one visitor may be shown an offer.
    n_days
        How many days are laid out; later days are as the last one.
    seed
        Of the drift.
    """

    weekday_log_odds: tuple[float, ...] = ()
    season_log_odds: float = 0.0
    season_days: float = 365.0
    drift_per_day: float = 0.0
    shocks: tuple[Shock, ...] = ()
    offered: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    max_views: Mapping[str, int] = field(default_factory=dict)
    n_days: int = 180
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.weekday_log_odds) not in (0, _DAYS_A_WEEK):
            raise InvalidInputError(
                f"weekday_log_odds has {len(self.weekday_log_odds)} numbers; expected seven, or none for no difference"
            )
        if self.n_days < 1 or self.season_days <= 0:
            raise InvalidInputError(
                f"a calendar of {self.n_days} days with a season of {self.season_days}; expected both above zero"
            )
        heights = (*self.weekday_log_odds, self.season_log_odds, *(s.log_odds for s in self.shocks))
        if not np.isfinite(heights).all() or not 0.0 <= self.drift_per_day < np.inf:
            raise InvalidInputError(
                f"log-odds of a calendar are {heights} with a drift of {self.drift_per_day}; expected finite ones, and a drift of 0 or more"
            )
        spans = [(s.first_day, s.last_day) for s in self.shocks] + list(self.offered.values())
        if upside_down := [span for span in spans if span[0] > span[1]]:
            raise InvalidInputError(
                f"{upside_down[0]} ends before it begins; expected first and last day of a shock or an offer, in this order"
            )
        if too_low := [name for name, limit in self.max_views.items() if limit < 1]:
            raise InvalidInputError(
                f"{too_low[0]!r} may be viewed {self.max_views[too_low[0]]} times; expected at least once: take it off the offers"
            )

    def log_odds(self, offers: OfferSet) -> FloatArray:
        """What each day adds to the log-odds of each offer, shape ``(n_days, k)``."""
        day, k = np.arange(self.n_days), len(offers)
        out = np.zeros((self.n_days, k))
        if self.weekday_log_odds:
            out += np.asarray(self.weekday_log_odds)[day % _DAYS_A_WEEK][:, None]
        out += self.season_log_odds * np.cos(2.0 * np.pi * day / self.season_days)[:, None]
        if self.drift_per_day:
            steps = [normals(self.seed, day, Purpose.DRIFT, a) for a in range(k)]
            out += self.drift_per_day * np.cumsum(np.stack(steps, axis=1), axis=0)
        for shock in self.shocks:
            where = [_position(offers, o) for o in shock.offers] or list(range(k))
            out[max(shock.first_day, 0) : shock.last_day + 1, where] += shock.log_odds
        return out

    def is_offered(self, offers: OfferSet) -> BoolArray:
        """Which offers exist on each day, shape ``(n_days, k)``.

        Raises
        ------
        InvalidInputError
            If on some day no offer is there for all days: a page has to show something.
        """
        day = np.arange(self.n_days)
        out = np.ones((self.n_days, len(offers)), dtype=np.bool_)
        for offer, (first, last) in self.offered.items():
            out[:, _position(offers, offer)] = (day >= first) & (day <= last)
        if not out.all(axis=0).any():
            raise InvalidInputError("every offer comes or goes; expected at least one that is there on all days")
        return out

    def view_limits(self, offers: OfferSet) -> FloatArray | None:
        """How often a visitor may see each offer, shape ``(k,)``, infinite without a limit; None where there are none."""
        if not self.max_views:
            return None
        out = np.full(len(offers), np.inf)
        for offer, limit in self.max_views.items():
            out[_position(offers, offer)] = limit
        if np.isfinite(out).all():
            raise InvalidInputError("every offer has a limit of views; expected at least one without")
        return out


def _position(offers: OfferSet, offer: str) -> int:
    if offer not in offers.ids:
        raise UnknownNameError("offer", offer, offers.ids)
    return int(offers.index_of(offer))
