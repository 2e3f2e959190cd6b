"""A site fitted on its own log: parameters with their sources, an ensemble that carries their errors, and what no log told.

``calibrate`` joins what the log says of responses (``response.fit_response``), of returns and of the delay of signing. Its
``members`` are sites drawn as the estimates spread, all parts from one resample of the visitors, so that the value of a policy
comes with the error of the site it was computed in. What the log leaves open keeps the spread of its prior in them, and
``value_grid`` shows what a policy is worth at its ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import t as student

from policies.errors import InvalidInputError
from policies.protocols import Policy
from policies.records import FloatArray, IntArray
from policies.sampling import DEFAULT_EXPLORE_SHARE
from simulator.coefficients import Coefficient
from simulator.evidence import seen_from_the_start, trait_design, traits_of
from simulator.parameters import Parameter, WorldParameters
from simulator.population import Population
from simulator.response import ResponseFit, fit_response
from simulator.rollouts import Rollout
from simulator.scenarios.car_subscription import Scenario
from simulator.times import TIMES, TimesFit, TimesSeen, fit_times, times_seen
from simulator.truth import OUTCOMES, PolicyTruth, true_value

_TRAIT = "affinity:"
# A policy by the site it is let loose on: yardsticks that see what is hidden need each member's own.
PolicyFor = Callable[[Scenario], Policy]


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A site as its log shows it.

    Attributes
    ----------
    scenario
        The site at the estimates.
    identified, unidentified
        Names of parameters by whether the log narrowed what was plausible to less than half.
    n_left_out
        Visitors of the log that it had not seen from their first visit.
    """

    scenario: Scenario
    response: ResponseFit
    identified: tuple[str, ...]
    unidentified: tuple[str, ...]
    times: TimesFit
    seen: TimesSeen
    n_left_out: int
    traits: FloatArray
    hidden: FloatArray
    people: Population

    @property
    def open_coefficients(self) -> list[tuple[Coefficient, float, float]]:
        """Of the likelihoods, those the log leaves open, each with its estimate and standard deviation in the free form."""
        out = []
        for coefficients, fit in ((self.response.coefficients, self.response), (TIMES, self.times)):
            known, spread = set(fit.identified()), np.sqrt(np.diag(fit.covariance))
            each = zip(coefficients, fit.mode.tolist(), spread.tolist(), strict=True)
            out += [(c, mode, sd) for c, mode, sd in each if c.name not in known]
        return out

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
        prior = np.asarray([(c.prior_mean, c.prior_sd) for c in TIMES])
        made = []
        for count, at in zip(counts, free, strict=True):
            who = np.repeat(np.arange(size), count)
            times = fit_times(self.seen.take(who), about=rng.normal(prior[:, 0], prior[:, 1]))
            made.append(self._site(at, times.natural(), who))
        return made

    def where(self, **values: float) -> Scenario:
        """The site where some coefficients are held at given values and the others moved as the log asks."""
        of_times = {n: v for n, v in values.items() if n in {c.name for c in TIMES}}
        of_response = {n: v for n, v in values.items() if n not in of_times}
        response = self.response.given(**of_response) if of_response else self.response.mode
        times = self.times.given(**of_times) if of_times else self.times.mode
        natural = {c.name: c.natural(float(x)) for c, x in zip(TIMES, times, strict=True)}
        return self._site(response, natural, np.arange(len(self.people)))

    def _site(self, free: FloatArray, times: Mapping[str, float], who: IntArray) -> Scenario:
        """The site at these coefficients, its people the visitors named."""
        found = self.response.natural(free)
        affinity, weight = _affinity(found, self.traits, self.hidden)
        shown = float(np.std(self.traits @ _loadings(found)) / weight)
        values = {**times, "deal_affinity_weight": weight, "deal_affinity_shown": shown}
        values |= {n: v for n, v in found.items() if n in self.scenario.parameters.values()}
        people = self.people
        return replace(
            self.scenario,
            parameters=self.scenario.parameters.with_assumed(**values),
            population=Population(
                columns={name: column[who] for name, column in people.columns.items()},
                vectors={name: block[who] for name, block in people.vectors.items()},
                deal_affinity=affinity[who],
                pace=people.pace[who],
                label=people.label,
            ),
        )

    def table(self) -> list[dict[str, Any]]:
        """Parameters with provenance, standard error and whether the log identified them."""
        known = {**dict.fromkeys(self.identified, True), **dict.fromkeys(self.unidentified, False)}
        return [{**row, "is_identified": known.get(row["name"])} for row in self.scenario.parameters.table()]


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
        The site's offers, rules and usual prices, which are known; its parameters, people and calendar are not read. What is not fitted
        is as it is where nobody says otherwise (``WorldParameters``), and the fitted site has no dates.
    with_history_effects, is_weighted, n_nodes
        As of ``response.fit_response``.
    seed
        Of the hidden part of the affinity of the people it draws.
    """
    n_in_log = len(np.unique(run.row))
    run = seen_from_the_start(run)
    response = fit_response(
        run, scenario, with_history_effects=with_history_effects, is_weighted=is_weighted, n_nodes=n_nodes
    )
    seen = times_seen(run)
    times = fit_times(seen)
    columns = traits_of(run)
    n = response.n_subjects
    design = trait_design(columns)[0] if columns else np.zeros((n, 0))
    hidden = np.random.default_rng(seed).normal(size=n)
    found = {**response.natural(), **times.natural()}
    errors = {**response.standard_errors(), **times.standard_errors()}
    identified = {*response.identified(), *times.identified()}
    affinity, _ = _affinity(response.natural(), design, hidden)
    _, first = np.unique(run.row, return_index=True)
    people = Population(
        columns=columns,
        vectors={name: block[first] for name, block in run.table.vectors.items()},
        deal_affinity=affinity,
        pace=np.ones(n),
        label=f"{n:,} visitors of a log",
    )
    about = {
        **dict.fromkeys(
            response.names,
            f"{n:,} visitors and {response.n_visits:,} visits, likelihood of clicks, contracts and stays",
        ),
        **dict.fromkeys(
            (TIMES[0].name, TIMES[1].name), f"{n:,} visitors, censored geometric returns with log-normal rates"
        ),
        **dict.fromkeys(
            (TIMES[2].name, TIMES[3].name),
            f"{int((seen.delay >= 0).sum()):,} contracts, zero-inflated geometric delays",
        ),
    }
    names = WorldParameters().values()
    made = {
        key: _told(value, errors[key], about[key], key in identified) for key, value in found.items() if key in names
    }
    is_known = "affinity_hidden" in identified
    (weight, shown), (weight_error, shown_error) = _weight_and_share(response, design)
    made["deal_affinity_weight"] = _told(float(weight), float(weight_error), about["affinity_hidden"], is_known)
    made["deal_affinity_shown"] = _told(float(shown), float(shown_error), about["affinity_hidden"], is_known)
    laws = replace(WorldParameters(), **made)
    fitted = tuple(n for n, p in made.items() if p.provenance == "fitted")
    return Calibrated(
        scenario=replace(
            scenario,
            name=name or f"{scenario.name}-fitted",
            parameters=laws,
            population=people,
            shows_history="discounts_seen" in run.table.columns,
            calendar=None,
        ),
        response=response,
        identified=fitted,
        unidentified=tuple(n for n in made if n not in fitted),
        times=times,
        seen=seen,
        n_left_out=n_in_log - n,
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
    return Parameter(
        value, "assumed", f"the log hardly narrows what was plausible before it: standard deviation {error:.2g}", error
    )


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
    outcome: str
    mean: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {n: getattr(self, n) for n in ValueWithSpread.__slots__} | {"in_simulation": True}


def always(policy: Policy) -> PolicyFor:
    """The same policy on every site."""
    return lambda _: policy


def values_with_spread(
    calibrated: Calibrated,
    policies: Sequence[PolicyFor],
    *,
    outcomes: Sequence[str] = OUTCOMES,
    n_members: int = 16,
    n_subjects: int = 10_000,
    seed: int = 1,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
) -> list[ValueWithSpread]:
    """Values of policies per visitor, each with an interval over an ensemble: policy by policy, outcome by outcome.

    Parameters
    ----------
    policies
        Each made anew for the site at the estimates and for every member; ``always`` where it is the same on all.
    n_subjects
        Visitors for each member; the estimates themselves get five times as many.

    Notes
    -----
    All members meet the same luck, so that their values differ by their parameters and their people; the interval is Student's over
    members, widened by the error of the simulated mean.
    """
    members = calibrated.members(n_members, seed=seed)
    quantile = float(student.ppf(0.975, n_members - 1))
    out = []
    for policy in policies:
        centre = _value(calibrated.scenario, policy, 5 * n_subjects, seed, explore_share)
        each = [_value(m, policy, n_subjects, seed, explore_share) for m in members]
        for outcome in outcomes:
            mean, error = centre.value(outcome)
            spread = np.var([value.value(outcome)[0] for value in each], ddof=1)
            half = quantile * float(np.sqrt(spread + error**2))
            out.append(ValueWithSpread(centre.policy, outcome, mean, mean - half, mean + half))
    return out


def value_grid(
    calibrated: Calibrated,
    policy: PolicyFor,
    *,
    outcome: str = "kept_30d",
    n_subjects: int = 20_000,
    seed: int = 1,
    explore_share: float = DEFAULT_EXPLORE_SHARE,
) -> list[dict[str, Any]]:
    """Value of a policy where each coefficient that the log leaves open is at the ends of what is still plausible.

    Notes
    -----
    The ends are two standard deviations either side of the estimate in the free form, the other coefficients moved along. All places
    meet the same luck: ``difference`` to the estimates is paired, and ``standard_error`` is its.
    """
    rows = []
    centre = _value(calibrated.scenario, policy, n_subjects, seed, explore_share)
    middle = centre.value(outcome)[0]
    for c, mode, spread in calibrated.open_coefficients:
        rows.append(_place(c.name, "middle", c.natural(mode), middle, (0.0, 0.0)))
        for place, shift in (("low", -2.0), ("high", 2.0)):
            at = c.natural(mode + shift * spread)
            there = _value(calibrated.where(**{c.name: at}), policy, n_subjects, seed, explore_share)
            rows.append(_place(c.name, place, at, middle, there.difference(centre, outcome)))
    return sorted(rows, key=lambda r: (r["parameter"], r["at"]))


def _place(name: str, place: str, at: float, middle: float, moved: tuple[float, float]) -> dict[str, Any]:
    return {
        "parameter": name, "place": place, "at": at, "mean": middle + moved[0], "difference": moved[0],
        "standard_error": moved[1],
    }  # fmt: skip


def _value(scenario: Scenario, policy: PolicyFor, n: int, seed: int, explore_share: float) -> PolicyTruth:
    return true_value(scenario, policy(scenario), n_subjects=n, seed=seed, explore_share=explore_share)
