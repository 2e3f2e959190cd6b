"""Where along a swept setting one policy stops being worth more than another: a result, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq

from policies.errors import InvalidInputError
from policies.records import FloatArray
from simulator import world
from simulator.exact import N_LEVELS, StateRule, value_of, visible_market
from simulator.named_policies import policy_named
from simulator.scenarios.car_subscription import Scenario
from simulator.scenarios.suite import Study

_N_DRAWS = 2_000
_N_FINE = 601


def crossings(
    study: Study, settings: Sequence[float], names: Sequence[str], outcomes: Mapping[tuple[float, str], FloatArray]
) -> list[dict[str, Any]]:
    """Each pair of policies whose lead turns somewhere between the settings; plain values.

    Parameters
    ----------
    outcomes
        What is scored, of each visitor, by setting and policy, each of shape ``(n,)``; rows are the same visitors everywhere.

    Returns
    -------
    list of dict
        ``first``, ``second`` and which ``leads_below``; ``at`` by a smooth curve through the settings, ``low`` and ``high`` of a 95 %
        interval, ``share``: how sure it is that the lead turns at all; ``exact`` on tabular sites, without an explore share.

    Notes
    -----
    Visitors are the same at all settings, so the mean leads are jointly normal with the covariance between settings of a visitor's
    leads; the interval is that of the first turn over draws from it, among those that turn. It does not know what lies between two
    settings: where they are far apart, more of them say more.
    """
    order = np.argsort(settings)
    at = np.asarray(settings, dtype=np.float64)[order]
    out = []
    for first, second in combinations(names, 2) if len(at) > 1 else ():
        lead = np.stack([outcomes[s, first] - outcomes[s, second] for s in settings])[order]
        mean, n = lead.mean(axis=1), lead.shape[1]
        found = float(_turns(at, mean[None, :])[0])
        if np.isnan(found):
            continue
        rng = np.random.default_rng(0)
        drawn = rng.multivariate_normal(mean, np.cov(lead) / n, size=_N_DRAWS, method="eigh")
        turns = _turns(at, drawn)
        turns = turns[~np.isnan(turns)]
        low, high = np.quantile(turns, (0.025, 0.975)) if len(turns) else (at[0], at[-1])
        told: dict[str, Any] = {
            "first": first, "second": second, "outcome": study.outcome, "leads_below": first if mean[0] > 0 else second,
            "at": found, "low": float(low), "high": float(high), "share": len(turns) / _N_DRAWS,
        }  # fmt: skip
        exact = _exact(study, at, first, second)
        out.append(told if exact is None else {**told, "exact": exact})
    return out


def _turns(at: FloatArray, leads: FloatArray) -> FloatArray:
    """First place where each curve through its points goes through nought, nan where it keeps its sign.

    Parameters
    ----------
    leads
        Shape ``(m, len(at))``; curves are monotone between their points, as the leads are where nothing is drawn.
    """
    fine = np.linspace(at[0], at[-1], _N_FINE)
    curve = PchipInterpolator(at, leads, axis=1)(fine)
    changes = curve[:, :-1] * curve[:, 1:] < 0
    i, rows = changes.argmax(axis=1), np.arange(len(leads))
    before, after = curve[rows, i], curve[rows, i + 1]
    step = fine[1] - fine[0]
    with np.errstate(invalid="ignore", divide="ignore"):
        place = fine[i] + step * before / (before - after)
    return np.where(changes.any(axis=1), place, np.nan)


def _exact(study: Study, at: FloatArray, first: str, second: str) -> float | None:
    """The same from exact values, where both rules and the sites have them."""

    def lead(setting: float) -> float:
        site = study.make(setting)
        assert isinstance(site, Scenario)
        one, two = (value_of(site, _rule(site, name, study.outcome), outcome=study.outcome) for name in (first, second))
        return one - two

    try:
        if not isinstance(study.make(float(at[0])), Scenario):
            return None
        leads = np.asarray([lead(float(s)) for s in at])
    except InvalidInputError:  # something is hidden, or a policy is no rule of what the site shows
        return None
    turns = np.flatnonzero(leads[:-1] * leads[1:] < 0)
    return float(brentq(lead, at[turns[0]], at[turns[0] + 1], xtol=1e-6)) if len(turns) else None


def _rule(site: Scenario, name: str, outcome: str) -> StateRule:
    """A policy of a tabular site as a rule over its states."""
    _, segments = visible_market(site)
    if name in site.offers.ids:
        shape = (len(segments), world.MARKET_DAYS, N_LEVELS)
        return StateRule(name, segments, np.full(shape, site.offers.index_of(name), dtype=np.int64))
    made = policy_named(name, site, seed=0, outcome=outcome)
    if not isinstance(made, StateRule):
        raise InvalidInputError(
            f"{name!r} is no rule over the states of a tabular site; expected greedy, planned, careful or an offer"
        )
    return made
