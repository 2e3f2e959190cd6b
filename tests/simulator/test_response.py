"""The likelihood of responses: its derivatives, its integral over what is hidden, and what it recovers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, logsumexp

from policies.errors import InvalidInputError
from policies.fixed import Uniform
from policies.records import FloatArray
from simulator.coefficients import Coefficient
from simulator.evidence import evidence_of, trait_design
from simulator.habit import HabitScenario
from simulator.likelihood import Likelihood, _weighted
from simulator.response import COEFFICIENTS, HISTORY, ResponseFit, fit_response
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.named import retention, trial


@pytest.fixture(scope="module")
def run() -> Rollout:
    """A log of the reference site."""
    return rollout(reference(), Uniform(), n_subjects=1_200, seed=2)


@pytest.fixture(scope="module")
def fit(run: Rollout) -> ResponseFit:
    """What a few nodes make of it."""
    return fit_response(run, reference(), n_nodes=64)


def test_weights_count_what_each_visit_adds() -> None:
    """By hand, for a visitor of three visits with a contract after them and one of two: w1 l1 + w2 (l2 - l1) + w3 (l3 with the stay - l2)."""
    rng = np.random.default_rng(3)
    visits, weight = -rng.random((5, 4)).astype(np.float32), np.asarray([0.5, 2.0, 1.5, 3.0, 0.2], dtype=np.float32)
    stay = np.asarray([[0.1, -0.4, -0.2, -1.0], [0.0, 0.0, 0.0, 0.0]])
    start, ends = np.asarray([0, 3]), (3, 5)
    whole = np.stack([visits[a:b].sum(axis=0) for a, b in zip(start, ends, strict=True)]) + stay - np.log(4)
    top = logsumexp(whole, axis=1)

    def so_far(first: int, last: int, more: FloatArray | float = 0.0) -> float:
        return float(logsumexp(visits[first:last].sum(axis=0) + more) - np.log(4))

    one = [so_far(0, 1), so_far(0, 2), so_far(0, 3, stay[0])]
    two = [so_far(3, 4), so_far(3, 5)]
    expected = 0.5 * one[0] + 2.0 * (one[1] - one[0]) + 1.5 * (one[2] - one[1]) + 3.0 * two[0] + 0.2 * (two[1] - two[0])
    value, _, of_row = _weighted(visits, top, np.exp(whole - top[:, None]), start, weight)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # What each visit's log-likelihood at a node is worth is the derivative of that sum.
    for i, j in ((0, 1), (1, 3), (2, 0), (3, 2), (4, 2)):
        moved = visits.copy()
        moved[i, j] += 1e-2
        after = np.stack([moved[a:b].sum(axis=0) for a, b in zip(start, ends, strict=True)]) + stay - np.log(4)
        up = logsumexp(after, axis=1)
        slope = (_weighted(moved, up, np.exp(after - up[:, None]), start, weight)[0] - value) / 1e-2
        np.testing.assert_allclose(of_row[i, j], slope, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("is_weighted", [False, True], ids=["plain", "weighted"])
def test_derivatives_are_those_of_the_likelihood(run: Rollout, is_weighted: bool) -> None:
    """Scores add up to central differences of the log-likelihood, coefficient by coefficient."""
    evidence = evidence_of(run, reference(), is_weighted=is_weighted)
    traits = tuple(Coefficient(n, 0.0, 2.0) for n in evidence.linear_names if n.startswith("affinity:"))
    coefficients = (*COEFFICIENTS, *traits, *HISTORY)
    of = Likelihood(evidence, coefficients, n_nodes=16, rows_a_chunk=3_000)
    at = np.asarray([c.prior_mean for c in coefficients]) + 0.05
    scores = of(at)[1].sum(axis=0)
    for i, c in enumerate(coefficients):
        step = np.zeros(len(at))
        step[i] = 0.02 * c.prior_sd
        slope = (of(at + step)[0] - of(at - step)[0]) / (2 * step[i])
        assert abs(scores[i] - slope) * c.prior_sd < 2e-3 * abs(slope) * c.prior_sd + 0.05, c.name


def test_without_hidden_differences_a_visitor_is_a_product_by_hand(run: Rollout) -> None:
    """With spreads near nought the likelihood of clicks and contracts is that of independent logistic regressions."""
    evidence = evidence_of(run, reference())
    coefficients = COEFFICIENTS
    wanted = {"taste_spread": 1e-6, "price_sensitivity_spread": 1e-6, "affinity_hidden": 1e-6}
    values = {c.name: wanted.get(c.name, c.natural(c.prior_mean)) for c in coefficients}
    values |= {"retention_offer_effect": 0.0, "cancel_per_taste": 0.0}
    free = np.asarray([c.free(values[c.name]) for c in coefficients])
    traits = tuple(Coefficient(n, 0.0, 2.0) for n in evidence.linear_names if n.startswith("affinity:"))
    of = Likelihood(evidence, (*coefficients, *traits, *HISTORY), n_nodes=8, rows_a_chunk=2_000)
    made = of(np.concatenate([free, np.zeros(len(traits) + len(HISTORY))]))[0]

    run_order = np.lexsort((run.day, run.row))
    offers, p = reference().offers, values
    expected = 0.0
    views: dict[tuple[int, str], list[int]] = {}
    means = {c: np.mean([float(o.features["monthly_price_eur"] or 0) for o in offers if o.features["car_class"] == c])
             for c in ("city", "compact", "suv")}  # fmt: skip
    for i in run_order:
        offer, day, subject = offers[int(run.chosen[i])], int(run.day[i]), int(run.row[i])
        f = offer.features
        discount, family = float(f["discount_pct"] or 0) / 100, str(f["family"])
        index = p["click_base"] + p["discount_appeal"] * discount + p["perk_appeal"] * float(f["perk"] or 0)
        index -= p["term_dislike"] * float(f["term_months"] or 0)
        if f["car_class"] in means:
            effective = float(f["monthly_price_eur"] or 0) * (1 - discount)
            index -= p["price_sensitivity"] * (effective - float(means[str(f["car_class"])])) / 100
        if family == "none":
            index += p["no_offer_penalty"]
        else:
            seen = views.setdefault((subject, family), [])
            index -= p["fatigue_per_view"] * sum(p["fatigue_decay_per_day"] ** (day - d) for d in seen)
            seen.append(day)
        clicked = run.rewards["clicked"][i] > 0
        expected += float(np.log(expit(index if clicked else -index)))
        if clicked and run.table.columns["stage"][i] == "visitor":
            contract = index - p["click_base"] + p["convert_base"]
            expected += float(np.log(expit(contract if run.rewards["subscribed"][i] > 0 else -contract)))
    for signer in np.flatnonzero(run.subjects.subscribed):
        i = int(np.flatnonzero((run.row == signer) & (run.rewards["subscribed"] > 0))[0])
        f = offers[int(run.chosen[i])].features
        f = offers[offers.index_of("city_flex")].features if f["car_class"] == "none" else f
        hazard = p["cancel_per_day"] * np.exp(
            p["cancel_per_discount"] * float(f["discount_pct"] or 0) / 100
            + p["cancel_per_term"] * float(f["term_months"] or 0)
            + p["cancel_per_perk"] * float(f["perk"] or 0)
        )
        signed, left = int(run.subjects.signed_day[signer]), int(run.subjects.cancelled_day[signer])
        days = (left if left >= 0 else run.last_day) - signed
        expected += days * np.log1p(-hazard) + (np.log(hazard / (1 - hazard)) if left >= 0 else 0.0)
    np.testing.assert_allclose(made, expected, rtol=1e-4)


def test_what_the_log_says_nothing_of_keeps_its_prior(fit: ResponseFit) -> None:
    """Few visitors leave the spread of sensitivities as wide as it was; taste for the class searched for is known."""
    assert "price_sensitivity_spread" not in fit.identified()
    assert "click_base" in fit.identified()
    draws = fit.draws(np.random.default_rng(1).multinomial(fit.n_subjects, np.full(fit.n_subjects, 1 / fit.n_subjects), 400),
                      np.random.default_rng(2))  # fmt: skip
    spread = draws.std(axis=0)
    expected = np.sqrt(np.diag(fit.covariance))
    assert (np.abs(spread / expected - 1.0) < 0.25).all()


def test_holding_one_coefficient_moves_those_it_trades_against(fit: ResponseFit) -> None:
    """What is held is held exactly; a dearer sensitivity to prices leaves less to the discount itself."""
    at = fit.natural()
    held = fit.natural(fit.given(price_sensitivity=at["price_sensitivity"] + 0.3))
    np.testing.assert_allclose(held["price_sensitivity"], at["price_sensitivity"] + 0.3)
    assert held["discount_appeal"] < at["discount_appeal"]
    np.testing.assert_allclose(fit.given(click_base=at["click_base"]), fit.mode, atol=1e-9)


@pytest.mark.slow
def test_laws_of_another_kind_are_fitted_too() -> None:
    """Where the likelihood's outer product is no curvature, the search still settles, in few steps."""
    log = rollout(HabitScenario(), Uniform(), n_subjects=20_000, seed=6_001)
    made = fit_response(log, reference(), with_history_effects=True, n_nodes=64, max_steps=20)
    assert np.isfinite(made.mode).all()


def test_small_logs_are_refused() -> None:
    """A hundred visitors are too few, and the message says how many there are; so are laws that the likelihood does not know."""
    with pytest.raises(InvalidInputError, match="on trial"):
        fit_response(rollout(trial(), Uniform(), n_subjects=300, seed=1), trial())
    with pytest.raises(InvalidInputError, match="100 visitors"):
        fit_response(rollout(reference(), Uniform(), n_subjects=100, seed=1), reference())


def test_traits_become_centred_numbers() -> None:
    """Text becomes indicators of all values but the first, numbers get unit spread, gaps the mean."""
    design, names = trait_design({"age": np.asarray(["b", "a", "b"]), "share": np.asarray([1.0, np.nan, 3.0])})
    assert names == ("age=b", "share")
    np.testing.assert_allclose(design.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(design[1, 1], 0.0)


@pytest.mark.slow
def test_dependence_on_discounts_is_found_where_it_is_and_not_where_it_is_not() -> None:
    """Both effects of discounts seen before are within three errors of the truth, in a retention world and in the reference."""
    for site, truth in ((retention(discount_dependence=0.8), 0.8), (reference(), 0.0)):
        made = fit_response(
            rollout(site, Uniform(), n_subjects=6_000, seed=4), site, with_history_effects=True, n_nodes=64
        )
        found, error = made.natural(), made.standard_errors()
        for name, value in (("cancel_per_dependence", truth), ("appeal_per_dependence", 0.25 * truth)):
            assert abs(found[name] - value) < 3 * error[name], name
