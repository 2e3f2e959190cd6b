"""Estimates of the simulator's parameters: against known truths, an established package, and published figures."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.errors import InvalidInputError, SchemaError
from simulator.calibrate import (
    SHIPPED,
    conditional_logit,
    fit_public_data,
    fit_returns,
    read_car_choice,
    shipped_fits,
    with_shipped,
)
from simulator.parameters import WorldParameters
from simulator.scenarios.car_subscription import reference
from simulator.world import Subjects


def _data(*parts: str) -> Path:
    folder = os.environ.get("NEXTOFFER_DATA_DIR")
    if not folder:
        pytest.skip("NEXTOFFER_DATA_DIR is not set; the public data sets are needed for this test")
    path = Path(folder, *parts)
    assert path.exists(), f"{path} is missing although NEXTOFFER_DATA_DIR is set"
    return path


def test_two_alternatives_are_a_logistic_regression() -> None:
    """By hand: with one indicator and three of four choices for it, the coefficient is log 3 and its error sqrt(4/3)."""
    attributes = np.asarray([[[1.0], [0.0]]] * 4)
    fit = conditional_logit(attributes, np.asarray([0, 0, 0, 1]), names=("x",))
    np.testing.assert_allclose(fit.coefficients, [np.log(3.0)], rtol=1e-9)
    np.testing.assert_allclose(fit.standard_errors, [np.sqrt(4.0 / 3.0)], rtol=1e-6)
    np.testing.assert_allclose(fit.log_likelihood, 3 * np.log(0.75) + np.log(0.25), rtol=1e-9)


def test_inverse_propensities_undo_a_biased_sample() -> None:
    """Choices kept with known, unequal chances give back the coefficients of all choices within four standard errors."""
    rng = np.random.default_rng(5)
    n, truth = 30_000, np.asarray([0.8, -0.5])
    attributes = rng.normal(size=(n, 3, 2))
    chosen = np.argmax(attributes @ truth + rng.gumbel(size=(n, 3)), axis=1)
    keep = np.where(attributes[np.arange(n), chosen, 0] > 0, 0.9, 0.3)
    kept = rng.random(n) < keep
    weighted = conditional_logit(attributes[kept], chosen[kept], names=("a", "b"), weights=1.0 / keep[kept])
    plain = conditional_logit(attributes[kept], chosen[kept], names=("a", "b"))
    assert (np.abs(weighted.coefficients - truth) < 4 * weighted.standard_errors).all()
    assert abs(plain.coefficients[0] - truth[0]) > 4 * plain.standard_errors[0]


def test_return_rates_of_a_known_population_are_recovered() -> None:
    """Rate and spread come back within three standard errors when people are watched for unequal times."""
    rng = np.random.default_rng(3)
    rate = 0.08 * np.exp(0.6 * rng.normal(size=4_000))
    days = rng.integers(20, 200, size=4_000)
    found, spread = fit_returns(rng.binomial(days, rate), days)
    assert abs(found.value - 0.08) < 3 * found.standard_error
    assert abs(spread.value - 0.6) < 3 * spread.standard_error


def test_shipped_fits_fill_in_parameters_with_their_sources() -> None:
    """What was fitted on public data says so, with file sums beside it; asking for another parameter is refused."""
    parameters = with_shipped(WorldParameters(), "price_sensitivity")
    assert parameters.price_sensitivity.provenance == "fitted"
    assert "4,654" in parameters.price_sensitivity.reason
    assert parameters.return_rate_per_day.provenance == "assumed"
    assert len(json.loads(SHIPPED.read_text())["sources"]) == 2
    assert with_shipped(WorldParameters()).return_rate_spread.provenance == "fitted"
    with pytest.raises(InvalidInputError, match="fatigue_per_view"):
        with_shipped(WorldParameters(), "fatigue_per_view")


def test_bad_inputs_are_named() -> None:
    """Sizes that do not fit and impossible counts are refused with what was found."""
    with pytest.raises(SchemaError, match="2 names"):
        conditional_logit(np.zeros((3, 4, 2)), np.zeros(2, dtype=np.int64), names=("a", "b"))
    with pytest.raises(InvalidInputError, match="more returns than days"):
        fit_returns(np.asarray([3]), np.asarray([2]))


def test_car_choice_gives_what_the_literature_reports() -> None:
    """Price and range are the published -0.185 and 0.350 of the same model on the same survey, within a standard error.

    Published: McFadden and Train (2000), "Mixed MNL models for discrete response", the multinomial logit.
    """
    attributes, chosen, names = read_car_choice(_data("car_choice", "car.csv.gz"))
    fit = conditional_logit(attributes, chosen, names=names)
    for name, published in (("price", -0.185), ("range", 0.350)):
        at = names.index(name)
        assert abs(fit.coefficients[at] - published) < fit.standard_errors[at]


@pytest.mark.slow
def test_car_choice_agrees_with_an_established_package() -> None:
    """On 300 respondents and three attributes coefficients and errors are those of statsmodels' conditional logit."""
    attributes, chosen, names = read_car_choice(_data("car_choice", "car.csv.gz"))
    columns = [names.index(name) for name in ("price", "range", "van")]
    attributes, chosen = attributes[:300][:, :, columns], chosen[:300]
    fit = conditional_logit(attributes, chosen, names=("price", "range", "van"))
    conditional = pytest.importorskip("statsmodels.discrete.conditional_models")
    n, j, d = attributes.shape
    taken = (np.arange(j)[None, :] == chosen[:, None]).astype(np.float64)
    theirs = conditional.ConditionalLogit(
        taken.ravel(), attributes.reshape(n * j, d), groups=np.repeat(np.arange(n), j)
    ).fit(disp=False)
    np.testing.assert_allclose(fit.coefficients, theirs.params, atol=1e-3)
    np.testing.assert_allclose(fit.standard_errors, theirs.bse, rtol=1e-2)


@pytest.mark.slow
def test_an_established_package_has_its_maximum_where_ours_is() -> None:
    """On all respondents and all attributes statsmodels' likelihood is ours at our coefficients, flat there, and as curved there."""
    attributes, chosen, names = read_car_choice(_data("car_choice", "car.csv.gz"))
    fit = conditional_logit(attributes, chosen, names=names)
    conditional = pytest.importorskip("statsmodels.discrete.conditional_models")
    n, j, d = attributes.shape
    taken = (np.arange(j)[None, :] == chosen[:, None]).astype(np.float64)
    model = conditional.ConditionalLogit(taken.ravel(), attributes.reshape(n * j, d), groups=np.repeat(np.arange(n), j))
    np.testing.assert_allclose(model.loglike(fit.coefficients), fit.log_likelihood, rtol=1e-10)
    # In standard errors: the maximum is nearer than a thousandth of one.
    score = np.asarray(model.score(fit.coefficients))
    assert (np.abs(score * fit.standard_errors) < 1e-3).all()
    for i in (0, 1, 9):
        step = np.zeros(d)
        step[i] = 0.05 * fit.standard_errors[i]
        slope = (model.score(fit.coefficients + step) - model.score(fit.coefficients - step)) / (2 * step[i])
        np.testing.assert_allclose(-slope, np.linalg.inv(fit.covariance)[i], rtol=1e-3, atol=1e-2)


@pytest.mark.slow
def test_the_shipped_file_is_what_the_data_give() -> None:
    """Fitting the public files again gives the shipped file, every number of it, sums and sizes of the sources included."""
    made = json.loads(json.dumps(fit_public_data(_data())))
    shipped = json.loads(SHIPPED.read_text())
    assert made.keys() == shipped.keys()
    assert (made["sources"], made["command"]) == (shipped["sources"], shipped["command"])
    for name in ("coefficients", "standard_errors", "log_likelihood"):
        np.testing.assert_allclose(made["choice"][name], shipped["choice"][name], rtol=1e-5, atol=2e-6)
    for name, fitted in shipped_fits().items():
        assert made[name]["source"] == fitted.source
        np.testing.assert_allclose(made[name]["value"], fitted.value, rtol=1e-4)
        np.testing.assert_allclose(made[name]["standard_error"], fitted.standard_error, rtol=1e-3)


def test_a_shipped_return_rate_is_lived_as_it_was_fitted() -> None:
    """Rates of a wholesaler's customers, most below one in a hundred a day, come out of the world with their median and spread."""
    site = reference(parameters=with_shipped(WorldParameters(), "return_rate_per_day", "return_rate_spread"))
    one = replace(site, population=replace(site.population, pace=np.ones(len(site.population))))
    rate = np.log(Subjects.draw(one, np.arange(20_000), seed=1).return_rate)
    fits = shipped_fits()
    assert abs(np.median(rate) - np.log(fits["return_rate_per_day"].value)) < 0.04
    assert abs(rate.std() - fits["return_rate_spread"].value) < 0.03
