"""Whether fitting a log gives back the site that made it: sites with drawn parameters, their logs, what the fit says of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import kendalltau

from policies.fixed import FixedOrder, Uniform
from policies.protocols import Policy, PolicyTraits
from policies.records import DecisionTable, FloatArray
from simulator.calibrated import Calibrated, always, calibrate, values_with_spread
from simulator.habit import AnyWorld, HabitScenario
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.truth import OUTCOMES, true_value

OUTCOME = "kept_30d"
# How far the parameters of a drawn site may lie from the reference site's: factors for what is positive, sums for the rest.
_FACTORS = {
    "taste_spread": 0.25, "price_sensitivity": 0.25, "price_sensitivity_spread": 0.25, "discount_appeal": 0.25,
    "deal_affinity_weight": 0.25, "perk_appeal": 0.5, "term_dislike": 0.4, "fatigue_per_view": 0.4, "cancel_per_day": 0.3,
    "return_rate_per_day": 0.2, "return_rate_spread": 0.2, "delay_zero_share": 0.2, "delay_mean_days": 0.2,
}  # fmt: skip
_SUMS = {
    "click_base": 0.2, "convert_base": 0.2, "no_offer_penalty": 0.3, "taste_shown": 0.1, "fatigue_decay_per_day": 0.08,
    "cancel_per_discount": 1.0, "cancel_per_term": 0.03, "cancel_per_perk": 0.2, "cancel_per_taste": 0.15,
    "retention_offer_effect": 0.2, "engagement_gain": 0.15,
}  # fmt: skip


def drawn_site(seed: int) -> Scenario:
    """A site of the first family whose parameters nobody knows: drawn around the reference site's."""
    rng = np.random.default_rng(seed)
    site = reference()
    values = site.parameters.values()
    moved = {n: values[n] * (1.0 + r * rng.uniform(-1.0, 1.0)) for n, r in _FACTORS.items()}
    moved |= {n: values[n] + r * rng.uniform(-1.0, 1.0) for n, r in _SUMS.items()}
    return replace(site, name=f"drawn-{seed}", parameters=site.parameters.with_assumed(**moved))


@dataclass(frozen=True, slots=True)
class ByColumn:
    """One offer for each value of a column; "no offer" where that may not be shown."""

    name: str
    column: str
    offers: Mapping[str, str]
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """One on the offer of the row's value."""
        wanted = np.asarray([table.offers.index_of(self.offers[str(v)]) for v in table.columns[self.column]])
        rows = np.arange(len(table))
        out = np.zeros(table.eligible.shape)
        out[rows, np.where(table.eligible[rows, wanted], wanted, 0)] = 1.0
        return out


def ten_policies() -> list[Policy]:
    """Six single offers, uniform, and three rules on what the site sees."""
    single = ("city_flex", "city_deal", "compact_year", "compact_deal", "suv_care", "suv_deal")
    lists = {"city": "city_flex", "compact": "compact_year", "suv": "suv_care"}
    deals = {"city": "city_deal", "compact": "compact_deal", "suv": "suv_deal"}
    return [
        *(FixedOrder((offer,)) for offer in single),
        Uniform(),
        ByColumn("list price of the class searched for", "searched_class", lists),
        ByColumn("deal of the class searched for", "searched_class", deals),
        ByColumn("deals for the young", "age", {"19-44": "compact_deal", "45+": "suv_care"}),
    ]


def known_truth(site: Scenario) -> dict[str, float]:
    """Parameters as a log can show them: paces and affinities of people folded into the spreads between visitors."""
    p, people = site.parameters.values(), site.population
    weight = p["deal_affinity_weight"]
    affinity = people.deal_affinity
    # What of affinity the traits do not tell.
    design = np.column_stack([np.ones(len(affinity)), people.columns["deal_share"]])
    hidden = affinity - design @ np.linalg.lstsq(design, affinity, rcond=None)[0]
    pace = np.log(people.pace)
    return p | {
        "discount_appeal": p["discount_appeal"] + weight * float(affinity.mean()),
        "deal_affinity_weight": weight * float(affinity.std()),
        "deal_affinity_shown": float(np.sqrt(1.0 - hidden.var() / affinity.var())),
        "return_rate_per_day": p["return_rate_per_day"] * float(np.exp(pace.mean())),
        "return_rate_spread": float(np.sqrt(p["return_rate_spread"] ** 2 + pace.var())),
    }


@dataclass(frozen=True, slots=True)
class Personal:
    """Draws by softmax of random tastes for what the site sees of a visitor: a log that is confounded by what is in it."""

    name = "personal"
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Softmax of scores linear in class searched for, share of deals bought and visits so far."""
        columns = table.columns
        seen = [
            np.ones(len(table)),
            columns["searched_class"] == "suv",
            columns["searched_class"] == "city",
            10.0 * (columns["deal_share"] - 0.3),
            np.minimum(columns["n_visits"], 4.0) / 2.0,
        ]
        weights = np.random.default_rng(4).normal(0.0, 0.7, (len(seen), len(table.offers)))
        odds = np.exp(np.column_stack(seen) @ weights) * table.eligible
        return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float64)


def four_policies() -> list[Policy]:
    """Of the ten, a single offer, uniform and two personal rules: for what is repeated over many logs."""
    ten = ten_policies()
    return [ten[3], ten[6], ten[8], ten[9]]


@dataclass(frozen=True, slots=True)
class Recovery:
    """One site, its log and what was made of it.

    Attributes
    ----------
    kind
        What log it was.
    z
        Errors of identified parameters in standard errors, by name.
    covered
        Whether the interval of each of the four policies holds its true value, by outcome.
    """

    kind: str
    z: dict[str, float]
    covered: dict[str, list[bool]]


# Logs that are held against their sites: who chose, and how many visitors of ten thousand came.
LOGS: dict[str, tuple[Policy, float]] = {
    "uniform": (Uniform(), 1.0),
    "personal": (Personal(), 1.0),
    "personal, small": (Personal(), 0.25),
}


def recover(
    site: Scenario, *, kind: str, n_visitors: int, seed: int, n_members: int = 16, n_subjects: int = 8_000
) -> Recovery:
    """Log a site, fit it, and hold estimates and intervals against the site.

    Parameters
    ----------
    kind
        Of ``LOGS``.
    n_visitors
        In a log that is not small.
    n_subjects
        Visitors for the value on each member; the true value gets eight times as many.
    """
    policy, share = LOGS[kind]
    made = calibrate(rollout(site, policy, n_subjects=round(share * n_visitors), seed=seed), site)
    policies = [always(p) for p in four_policies()]
    values = values_with_spread(made, policies, n_members=n_members, n_subjects=n_subjects, seed=seed + 1)
    true = {p.name: true_value(site, p, n_subjects=8 * n_subjects, seed=seed + 2) for p in four_policies()}
    covered: dict[str, list[bool]] = {outcome: [] for outcome in OUTCOMES}
    for v in values:
        covered[v.outcome].append(v.low <= true[v.policy].value(v.outcome)[0] <= v.high)
    return Recovery(kind, _errors(made, site), covered)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ten policies on a site and on the fit of its log.

    Attributes
    ----------
    true, estimated
        Their values, shape of ``ten_policies``.
    """

    true: list[float]
    estimated: list[float]

    @property
    def tau(self) -> float:
        """Kendall's, between the true order of the policies and the estimated one."""
        return float(kendalltau(self.true, self.estimated).statistic)

    @property
    def worst_relative_error(self) -> float:
        """Of the ten values."""
        return max(abs(e / t - 1.0) for e, t in zip(self.estimated, self.true, strict=True))


def rank(site: Scenario, *, n_visitors: int, n_truth: int, seed: int, n_nodes: int = 256) -> Ranking:
    """Fit one long log and value ten policies on the site and on the fit, with the same luck on both.

    Parameters
    ----------
    n_truth
        Visitors for each value, on either side.
    """
    made = calibrate(rollout(site, Uniform(), n_subjects=n_visitors, seed=seed), site, n_nodes=n_nodes)
    policies = ten_policies()
    return Ranking(
        true=[_true(site, p, n=n_truth, seed=seed + 2) for p in policies],
        estimated=[_true(made.scenario, p, n=n_truth, seed=seed + 2) for p in policies],
    )


def rank_on_other_laws(*, n_visitors: int, n_truth: int, seed: int) -> Ranking:
    """Fit the first family on a log of the second and value ten policies on both: what the form of the laws costs."""
    site = HabitScenario()
    run = rollout(site, Uniform(), n_subjects=n_visitors, seed=seed)
    made = calibrate(run, reference(), with_history_effects=True)
    policies = ten_policies()
    return Ranking(
        true=[_true(site, p, n=n_truth, seed=seed + 2) for p in policies],
        estimated=[_true(made.scenario, p, n=n_truth, seed=seed + 2) for p in policies],
    )


def _true(site: AnyWorld, policy: Policy, *, n: int, seed: int) -> float:
    return true_value(site, policy, n_subjects=n, seed=seed).value(OUTCOME)[0]


def _errors(made: Calibrated, site: Scenario) -> dict[str, float]:
    truth, fitted = known_truth(site), made.scenario.parameters
    out = {}
    for name in made.identified:
        parameter = getattr(fitted, name)
        out[name] = (parameter.value - truth[name]) / parameter.standard_error
    return out
