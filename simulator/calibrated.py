"""A site fitted on its own log: parameters with their sources, an ensemble that carries their errors, and what no log told.

``calibrate`` joins what the log says of responses (``response.fit_response``), of returns and of the delay of signing. Its
``members`` are sites drawn as the estimates spread, all parts from one resample of the visitors, so that the value of a policy
comes with the error of the site it was computed in. What the log leaves open keeps the spread of its prior in them, and
``value_grid`` shows what a policy is worth at its ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import t as student

from policies.errors import InvalidInputError
from policies.protocols import Policy
from policies.records import FloatArray, IntArray
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator.calibrate import Fitted, delays_of, fit_delay, fit_returns, returns_of
from simulator.evidence import trait_design, traits_of
from simulator.parameters import Parameter, WorldParameters
from simulator.population import Population
from simulator.response import ResponseFit, fit_response
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.truth import PolicyTruth, true_value

_TRAIT = "affinity:"


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A site as its log shows it.

    Attributes
    ----------
    scenario
        The site at the estimates.
    identified, unidentified
        Names of parameters by whether the log narrowed what was plausible to less than half.
    """

    scenario: Scenario
    response: ResponseFit
    identified: tuple[str, ...]
    unidentified: tuple[str, ...]
    n_returns: IntArray
    n_days: IntArray
    delays: IntArray
    traits: FloatArray
    hidden: FloatArray
    people: Population

    def members(self, n: int, *, seed: int) -> list[Scenario]:
        """Sites drawn as the estimates spread; each rests on one bootstrap resample of the visitors.

        Raises
        ------
        InvalidInputError
            If fewer than two are asked for.
        """
        if n < 2:
            raise InvalidInputError(f"an ensemble of {n} has no spread; expected at least 2")
        rng = np.random.default_rng(seed)
        size = self.response.n_subjects
        counts = rng.multinomial(size, np.full(size, 1.0 / size), size=n)
        free = self.response.draws(counts, rng)
        made = []
        for count, at in zip(counts, free, strict=True):
            who = np.repeat(np.arange(size), count)
            delays = self.delays[rng.integers(len(self.delays), size=len(self.delays))]
            made.append(self._site(at, *fit_returns(self.n_returns[who], self.n_days[who]), *fit_delay(delays)))
        return made

    def where(self, **values: float) -> Scenario:
        """The site where some coefficients are held at given values and the others moved as the log asks."""
        p = self.scenario.parameters
        kept = [Fitted(getattr(p, n).value, 0.0, "") for n in _TIMES]
        return self._site(self.response.given(**values), *kept)

    def _site(self, free: FloatArray, rate: Fitted, spread: Fitted, share: Fitted, mean: Fitted) -> Scenario:
        found = self.response.natural(free)
        values = {n: f.value for n, f in zip(_TIMES, (rate, spread, share, mean), strict=True)}
        affinity, weight = _affinity(found, self.traits, self.hidden)
        shown = float(np.std(self.traits @ _loadings(found)) / weight)
        values |= {"deal_affinity_weight": weight, "deal_affinity_shown": shown}
        values |= {n: v for n, v in found.items() if n in self.scenario.parameters.values()}
        return replace(
            self.scenario,
            parameters=self.scenario.parameters.with_assumed(**values),
            population=replace(self.people, deal_affinity=affinity),
        )

    def table(self) -> list[dict[str, Any]]:
        """Parameters with provenance, standard error and whether the log identified them."""
        known = {**dict.fromkeys(self.identified, True), **dict.fromkeys(self.unidentified, False)}
        return [{**row, "is_identified": known.get(row["name"])} for row in self.scenario.parameters.table()]


_TIMES = ("return_rate_per_day", "return_rate_spread", "delay_zero_share", "delay_mean_days")


def calibrate(
    run: Rollout,
    scenario: Scenario,
    *,
    name: str | None = None,
    with_history_effects: bool = False,
    is_weighted: bool = False,
    n_nodes: int = 512,
    seed: int = 0,
) -> Calibrated:
    """Fit a site of the first family on a log.

    Parameters
    ----------
    scenario
        The site's offers and rules, which are known; its parameters and people are not read.
    with_history_effects, is_weighted, n_nodes
        As of ``response.fit_response``.
    seed
        Of the hidden part of the affinity of the people it draws.
    """
    response = fit_response(
        run, scenario, with_history_effects=with_history_effects, is_weighted=is_weighted, n_nodes=n_nodes
    )
    n_returns, n_days = returns_of(run)
    delays = delays_of(run)
    times = dict(zip(_TIMES, (*fit_returns(n_returns, n_days), *fit_delay(delays)), strict=True))
    columns = traits_of(run)
    n = response.n_subjects
    design = trait_design(columns)[0] if columns else np.zeros((n, 0))
    hidden = np.random.default_rng(seed).normal(size=n)
    found, errors, identified = response.natural(), response.standard_errors(), set(response.identified())
    affinity, _ = _affinity(found, design, hidden)
    _, first = np.unique(run.row, return_index=True)
    people = Population(
        columns=columns,
        vectors={name: block[first] for name, block in run.table.vectors.items()},
        deal_affinity=affinity,
        pace=np.ones(n),
        label=f"{n:,} visitors of a log",
    )
    about = f"{n:,} visitors and {response.n_visits:,} visits, likelihood of clicks, contracts and stays"
    made = {n: Parameter(f.value, "fitted", f.source, f.standard_error) for n, f in times.items()}
    names = WorldParameters().values()
    for key, value in found.items():
        if key in names:
            made[key] = _told(value, errors[key], about, key in identified)
    is_known = "affinity_hidden" in identified
    (weight, shown), (weight_error, shown_error) = _weight_and_share(response, design)
    made["deal_affinity_weight"] = _told(float(weight), float(weight_error), about, is_known)
    made["deal_affinity_shown"] = _told(float(shown), float(shown_error), about, is_known)
    laws = replace(scenario.parameters, **made)
    fitted = tuple(n for n, p in made.items() if p.provenance == "fitted")
    return Calibrated(
        scenario=replace(scenario, name=name or f"{scenario.name}-fitted", parameters=laws, population=people),
        response=response,
        identified=fitted,
        unidentified=tuple(n for n in made if n not in fitted),
        n_returns=n_returns,
        n_days=n_days,
        delays=delays,
        traits=design,
        hidden=hidden,
        people=people,
    )


def _weight_and_share(response: ResponseFit, traits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How much affinity moves the appeal of a discount, what share of its spread traits tell, and errors by the delta method."""

    def of(free: FloatArray) -> FloatArray:
        found = response.natural(free)
        seen = float(np.std(traits @ _loadings(found)))
        weight = float(np.hypot(seen, found["affinity_hidden"]))
        return np.asarray([weight, seen / weight])

    slopes = []
    for i, name in enumerate(response.names):
        step = np.zeros(len(response.mode))
        step[i] = 1e-4 if name == "affinity_hidden" or name.startswith(_TRAIT) else 0.0
        slopes.append((of(response.mode + step) - of(response.mode - step)) / 2e-4)
    jacobian = np.stack(slopes, axis=1)
    return of(response.mode), np.sqrt(np.diag(jacobian @ response.covariance @ jacobian.T))


def _told(value: float, error: float, about: str, is_identified: bool) -> Parameter:
    if is_identified:
        return Parameter(value, "fitted", about, error)
    return Parameter(value, "assumed", f"the log hardly narrows it: near its prior, spread {error:.2g}", error)


def _loadings(found: Mapping[str, float]) -> FloatArray:
    return np.asarray([v for k, v in found.items() if k.startswith(_TRAIT)], dtype=np.float64)


def _affinity(found: Mapping[str, float], traits: FloatArray, hidden: FloatArray) -> tuple[FloatArray, float]:
    """Affinity of each person in units of its spread, and that spread: how much affinity moves the appeal of a discount."""
    raw = traits @ _loadings(found) + found["affinity_hidden"] * hidden
    weight = float(np.sqrt(np.var(traits @ _loadings(found)) + found["affinity_hidden"] ** 2))
    return raw / weight, weight


@dataclass(frozen=True, slots=True)
class ValueWithSpread:
    """What a policy is worth on a fitted site: at the estimates, and a 95 % interval that carries their errors."""

    policy: str
    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"policy": self.policy, "mean": self.mean, "low": self.low, "high": self.high, "in_simulation": True}


def values_with_spread(
    calibrated: Calibrated,
    policies: Sequence[Policy],
    *,
    outcome: str = "kept_30d",
    n_members: int = 16,
    n_subjects: int = 10_000,
    seed: int = 1,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
) -> list[ValueWithSpread]:
    """Values of policies per visitor, each with an interval over an ensemble.

    Parameters
    ----------
    n_subjects
        Visitors for each member; the estimates themselves get five times as many.

    Notes
    -----
    All members meet the same luck, so that their values differ by their parameters; the interval is Student's over members,
    widened by the error of the simulated mean.
    """
    members = calibrated.members(n_members, seed=seed)
    quantile = float(student.ppf(0.975, n_members - 1))
    out = []
    for policy in policies:
        centre, error = _value(calibrated.scenario, policy, 5 * n_subjects, seed, explore_share).value(outcome)
        each = [_value(m, policy, n_subjects, seed, explore_share).value(outcome)[0] for m in members]
        half = quantile * float(np.sqrt(np.var(each, ddof=1) + error**2))
        out.append(ValueWithSpread(policy.name, centre, centre - half, centre + half))
    return out


def value_grid(
    calibrated: Calibrated,
    policy: Policy,
    *,
    outcome: str = "kept_30d",
    n_subjects: int = 20_000,
    seed: int = 1,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
) -> list[dict[str, Any]]:
    """Value of a policy where each unidentified coefficient is at the ends of what is plausible, the others moved along."""
    rows = []
    known = set(calibrated.response.identified())
    for c in calibrated.response.coefficients:
        if c.name in known:
            continue
        for place, shift in (("low", -1.0), ("middle", 0.0), ("high", 1.0)):
            at = c.natural(c.prior_mean + shift * c.prior_sd)
            mean, error = _value(calibrated.where(**{c.name: at}), policy, n_subjects, seed, explore_share).value(
                outcome
            )
            rows.append({"parameter": c.name, "place": place, "at": at, "mean": mean, "standard_error": error})
    return rows


def _value(scenario: Scenario, policy: Policy, n: int, seed: int, explore_share: float) -> PolicyTruth:
    return true_value(scenario, policy, n_subjects=n, seed=seed, explore_share=explore_share)
