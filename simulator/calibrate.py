"""Parameters from data: price response of a discrete choice, return behaviour, delay of signing; each with its standard error.

``python -m simulator.calibrate --data DIR`` fits price response on ``car_choice`` and return behaviour on ``online_retail`` and
writes ``simulator/fitted.json``, which is shipped: every entry says from which file (by its SHA-256), how many people and by
which likelihood. A log of the site itself identifies more: ``calibrated.calibrate``.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

from policies.errors import InvalidInputError, SchemaError
from policies.records import FloatArray, IntArray
from simulator.parameters import WorldParameters
from simulator.times import returns_loss, settled

SHIPPED = Path(__file__).with_name("fitted.json")
# The bridge from buying to subscribing, assumed: a subscription costs 2.2 % of the car's price a month all in (so 100 EUR a
# month stand for a car 4.5 thousand dearer), and the survey divides thousands by the log of income in thousands, 3.9 at 50.
UNITS_PER_100_EUR = 0.1 / 0.022 / 3.9


@dataclass(frozen=True, slots=True)
class Fitted:
    """An estimate.

    Parameters
    ----------
    source
        Data, likelihood and number of people, in a sentence.
    """

    value: float
    standard_error: float
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class ChoiceFit:
    """A conditional logit: coefficients, their covariance, and the log-likelihood."""

    names: tuple[str, ...]
    coefficients: FloatArray
    covariance: FloatArray
    log_likelihood: float
    n_choices: int

    @property
    def standard_errors(self) -> FloatArray:
        """Of the coefficients, shape ``(d,)``."""
        return np.asarray(np.sqrt(np.diag(self.covariance)), dtype=np.float64)


def conditional_logit(
    attributes: FloatArray, chosen: IntArray, *, names: tuple[str, ...], weights: FloatArray | None = None
) -> ChoiceFit:
    """Fit ``P(j) = exp(x_j b) / sum_l exp(x_l b)`` by Newton's method.

    Parameters
    ----------
    attributes
        Shape ``(n, alternatives, len(names))``.
    chosen
        Index of the alternative taken, shape ``(n,)``.
    weights
        Inverse propensities, shape ``(n,)``; default: ones. The standard errors are then sandwich ones.

    References
    ----------
    McFadden (1974), "Conditional logit analysis of qualitative choice behavior".
    """
    n, _, d = attributes.shape
    if chosen.shape != (n,) or d != len(names):
        raise SchemaError(
            f"chosen has shape {chosen.shape} and there are {len(names)} names; expected ({n},) and {d} names"
        )
    w = np.ones(n) if weights is None else weights
    b = np.zeros(d)
    taken = attributes[np.arange(n), chosen]
    for _ in range(50):
        scores = attributes @ b
        p = np.exp(scores - logsumexp(scores, axis=1, keepdims=True))
        mean = np.einsum("nj,njd->nd", p, attributes)
        gradient = taken - mean
        centred = attributes - mean[:, None, :]
        information = np.einsum("n,nj,njd,nje->de", w, p, centred, centred)
        step = np.linalg.solve(information, w @ gradient)
        b = b + step
        if np.abs(step).max() < 1e-10:
            break
    else:
        raise InvalidInputError(
            "the choice model did not converge; expected attributes that do not separate the choices"
        )
    inverse = np.linalg.inv(information)
    covariance = inverse
    if weights is not None:
        meat = np.einsum("n,nd,ne->de", w**2, gradient, gradient)
        covariance = inverse @ meat @ inverse
    likelihood = float((w * np.log(p[np.arange(n), chosen])).sum())
    return ChoiceFit(names, b, np.asarray(covariance, dtype=np.float64), likelihood, n)


def fit_returns(n_returns: IntArray, n_days: IntArray, *, pace: FloatArray | None = None) -> tuple[Fitted, Fitted]:
    """Median daily return rate and the log-scale spread between people, from how often each came in the days observed.

    By ``times.returns_loss`` alone, without a prior: for data of many people.
    """
    crude = max(n_returns.sum(), 1) / max(n_days.sum(), 1)
    found, covariance = settled(returns_loss(n_returns, n_days, pace=pace), np.asarray([np.log(crude), np.log(0.5)]))
    rate, spread = np.exp(found)
    about = f"{len(n_returns):,} people, censored geometric returns with log-normal rates"
    return (
        Fitted(float(rate), float(rate * np.sqrt(covariance[0, 0])), about),
        Fitted(float(spread), float(spread * np.sqrt(covariance[1, 1])), about),
    )


CHOICE_NAMES = ("price", "range", "acc", "speed", "pollution", "size", "space", "cost", "station")


def read_car_choice(path: Path) -> tuple[FloatArray, IntArray, tuple[str, ...]]:
    """Attributes of six cars and the one chosen, with indicators of fuel and body, from the survey's file."""
    with gzip.open(path, "rt", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or "price1" not in rows[0]:
        raise SchemaError(f"{path} has no column 'price1'; expected the car survey with six alternatives a row")
    numbers = [[[float(r[f"{name}{j}"]) for name in CHOICE_NAMES] for j in range(1, 7)] for r in rows]
    kinds = ("electric", "cng", "methanol"), ("van", "sportuv", "sportcar", "stwagon", "truck")
    marks = [
        [[*(float(r[f"fuel{j}"] == f) for f in kinds[0]), *(float(r[f"type{j}"] == t) for t in kinds[1])] for j in range(1, 7)]
        for r in rows
    ]  # fmt: skip
    chosen = np.asarray([int(r["choice"].removeprefix("choice")) - 1 for r in rows], dtype=np.int64)
    attributes = np.concatenate([np.asarray(numbers), np.asarray(marks)], axis=2)
    attributes[:, :, 1] /= 100.0  # range and speed in hundreds of miles, operating cost in cents: coefficients near one
    attributes[:, :, 3] /= 100.0
    return attributes, chosen, (*CHOICE_NAMES, *kinds[0], *kinds[1])


def read_invoices(path: Path) -> tuple[IntArray, IntArray]:
    """Returns and days at risk of each customer, from invoices with their times: one return a day, cancellations left out."""
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["CustomerID", "ts", "cancel"])
    customer = table["CustomerID"].to_numpy(zero_copy_only=False)
    day = table["ts"].to_numpy().astype("datetime64[D]").astype(np.int64)
    is_sale = ~table["cancel"].to_numpy(zero_copy_only=False).astype(bool) & ~np.isnan(customer.astype(np.float64))
    pairs = np.unique(np.stack([customer[is_sale].astype(np.int64), day[is_sale]], axis=1), axis=0)
    _, start, count = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    return count - 1, pairs[:, 1].max() - pairs[start, 1]


def fit_public_data(folder: Path) -> dict[str, Any]:
    """Fit everything the public files identify; plain values for ``fitted.json``."""
    cars, invoices = folder / "car_choice" / "car.csv.gz", folder / "online_retail" / "invoices_2010_2011.parquet"
    for path in (cars, invoices):
        if not path.exists():
            raise InvalidInputError(
                f"{path} is missing; expected the public data set there: see its README for the source"
            )
    attributes, chosen, names = read_car_choice(cars)
    choice = conditional_logit(attributes, chosen, names=names)
    price = choice.names.index("price")
    value, error = -choice.coefficients[price], choice.standard_errors[price]
    n_returns, n_days = read_invoices(invoices)
    returns, spread = fit_returns(n_returns, n_days)
    sizes = {"customers": len(n_returns), "days_with_an_invoice": int(n_returns.sum()) + len(n_returns)}
    survey = (
        f"stated choice among six cars, {choice.n_choices:,} respondents, conditional logit; bridged to a monthly price by "
        f"{UNITS_PER_100_EUR:.2f} units of its price per 100 EUR a month (assumed)"
    )
    retail = "days with an invoice, Online Retail December 2010 to December 2011, "
    return {
        "command": "python -m simulator.calibrate --data DIR",
        "sources": {
            str(p.relative_to(folder)): {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), **size}
            for p, size in ((cars, {"respondents": len(chosen)}), (invoices, sizes))
        },
        "choice": {
            "likelihood": "conditional logit of the car chosen among six, one answer a respondent",
            "names": choice.names,
            "coefficients": np.round(choice.coefficients, 6).tolist(),
            "standard_errors": np.round(choice.standard_errors, 6).tolist(),
            "log_likelihood": round(choice.log_likelihood, 4),
        },
        "price_sensitivity": asdict(
            Fitted(round(value * UNITS_PER_100_EUR, 6), round(error * UNITS_PER_100_EUR, 6), survey)
        ),
        "return_rate_per_day": asdict(_rounded(returns, retail)),
        "return_rate_spread": asdict(_rounded(spread, retail)),
    }


def _rounded(fitted: Fitted, prefix: str) -> Fitted:
    return Fitted(round(fitted.value, 6), round(fitted.standard_error, 6), prefix + fitted.source)


def shipped_fits() -> dict[str, Fitted]:
    """The fitted parameters that come with the package, by name."""
    told: Mapping[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return {name: Fitted(**entry) for name, entry in told.items() if "value" in entry}


def with_shipped(parameters: WorldParameters, *names: str) -> WorldParameters:
    """Parameters with some of the shipped fits in place of what was assumed; without names: all of them.

    Raises
    ------
    InvalidInputError
        If one of the names has no shipped fit.
    """
    fits = shipped_fits()
    unknown = [n for n in names if n not in fits]
    if unknown:
        raise InvalidInputError(f"no shipped fit for {unknown}; expected some of {sorted(fits)}: others are assumed")
    wanted = names or tuple(fits)
    return parameters.with_fitted({n: (fits[n].value, fits[n].standard_error, fits[n].source) for n in wanted})


def main(arguments: list[str] | None = None) -> int:
    """Fit the public files and write the shipped file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with car_choice/ and online_retail/")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args(arguments)
    made = fit_public_data(options.data)
    options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(json.dumps({k: v for k, v in made.items() if k != "choice"}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
