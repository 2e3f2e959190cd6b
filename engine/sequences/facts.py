"""What a simulator may take from the data: how often people come back, how often they respond, and who they are.

Writes ``_facts/population.parquet`` (a row per subject) and ``_facts/fitted.json``. Everything here is descriptive: offers in observational
data were targeted, so the response rates say how often *those targeted* responded, not what an offer causes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from engine.sources.description import Facts, Source
from policies.errors import InvalidInputError
from policies.records import FloatArray, IntArray

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

FOLDER = "_facts"
_LONGEST_GAP = 366
_HAZARD_DAYS = 60
_N_RESAMPLES = 200
_LEVEL = 0.95
# A logistic coefficient beyond this is a separated class, not an effect.
_RIDGE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class VisitGaps:
    """Gaps between visit days, counted per subject.

    Parameters
    ----------
    observed
        Gaps of exactly g days that ended with a visit, shape ``(n_subjects, n_days)``; column 0 is unused.
    censored
        Last gaps that were still open when the data ended, by the days they had lasted, same shape.
    """

    observed: IntArray
    censored: IntArray


def write_facts(
    spark: SparkSession, source: Source, events: DataFrame, *, out: Path, observed_until: datetime, seed: int = 0
) -> dict[str, Any]:
    """Fit and write the facts of a built source (``out/points`` is read)."""
    facts = source.facts
    if facts is None:
        raise InvalidInputError(f"source {source.name!r} has no [facts]; name the kinds of event that are visits")
    people = _people(spark, source, events, facts, observed_until=observed_until)
    gaps = visit_gaps(people)
    rng = np.random.default_rng(seed)
    points = pq.read_table(out / "points")
    fitted = {
        "source": source.name,
        "note": "descriptive: offers were targeted, so rates of response are of those targeted, no effects",
        "seed": seed,
        "n_subjects": people.num_rows,
        "level": _LEVEL,
        "visits": fit_visits(gaps, rng),
        "visit_rate_per_day": _rate(people),
        "response": fit_response(points, rng),
        "response_model": fit_response_model(points, facts),
    }
    folder = out / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(people.drop_columns(["visit_days"]), folder / "population.parquet")
    (folder / "fitted.json").write_text(json.dumps(fitted, indent=1, sort_keys=True, allow_nan=False))
    return fitted


def _people(
    spark: SparkSession, source: Source, events: DataFrame, facts: Facts, *, observed_until: datetime
) -> pa.Table:
    """A row per subject with its visit days (counted from the end of the data) and observable traits."""
    from pyspark.sql import functions as F

    visits = events.where(F.col("kind").isin(*facts.visit_kinds))
    is_deal = F.col("kind").isin(*facts.deal_kinds) if facts.deal_kinds else F.lit(False)
    days_left = F.floor((F.unix_seconds(F.lit(observed_until)) - F.unix_seconds("at")) / 86_400).cast("int")
    people = visits.groupBy("subject").agg(
        F.sort_array(F.collect_set(days_left), asc=False).alias("visit_days"),
        F.count(F.lit(1)).cast("double").alias("n_visits"),
        F.avg("value").alias("amount_mean"),
        F.avg(is_deal.cast("double")).alias("deal_share"),
    )
    if source.customer is not None:
        spec = source.customer
        table = spark.table(spec.table)
        texts = [F.expr(e).alias(f"customer_{name}") for name, e in spec.columns.items()]
        customers = table.select(F.expr(spec.key).cast("string").alias("subject"), *texts).dropDuplicates(["subject"])
        people = people.join(customers, "subject", "left")
    return people.orderBy("subject").toArrow()


def visit_gaps(people: pa.Table) -> VisitGaps:
    """Count gaps in days from ``visit_days`` (days before the end of the data, falling)."""
    shape = (people.num_rows, _LONGEST_GAP + 1)
    observed, censored = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for row, days in enumerate(people["visit_days"].to_pylist()):
        steps = -np.diff(np.asarray(days, dtype=np.int64))
        np.add.at(observed[row], np.minimum(steps, _LONGEST_GAP), 1)
        censored[row, min(days[-1], _LONGEST_GAP)] += 1
    return VisitGaps(observed, censored)


def fit_visits(gaps: VisitGaps, rng: np.random.Generator) -> dict[str, Any]:
    """Weibull of the gaps and the discrete hazard of returning, with standard errors clustered by subject.

    Notes
    -----
    A gap of g days has probability S(g - 1) - S(g) with S(t) = exp(-(t / scale) ** shape); an open gap of c days has S(c). Pooled over
    subjects: that people differ makes the pooled shape smaller than anyone's own.
    """
    weights = _resampled(len(gaps.observed), rng)
    total, open_ = gaps.observed.sum(axis=0), gaps.censored.sum(axis=0)
    shape, scale = fit_weibull(total, open_)
    again = np.asarray([fit_weibull(w @ gaps.observed, w @ gaps.censored) for w in weights[:60]])
    hazard = _hazard(total, open_)
    hazards = np.asarray([_hazard(w @ gaps.observed, w @ gaps.censored) for w in weights])
    days = range(1, _HAZARD_DAYS + 1)
    return {
        "n_gaps": int(total.sum()),
        "n_open": int(open_.sum()),
        "weibull": {
            "shape": shape,
            "shape_se": float(again[:, 0].std(ddof=1)),
            "scale_days": scale,
            "scale_days_se": float(again[:, 1].std(ddof=1)),
        },
        "hazard": [{"day": day, "value": float(hazard[day]), "se": float(hazards[:, day].std(ddof=1))} for day in days],
        "return_within": {
            str(day): _interval(_within(hazard, day), [_within(h, day) for h in hazards]) for day in (1, 7, 14, 30, 60)
        },
    }


def fit_weibull(observed: NDArray[Any], censored: NDArray[Any]) -> tuple[float, float]:
    """Shape and scale (days) by maximum likelihood on counts per whole day, index = days."""
    from scipy.optimize import minimize

    days = np.arange(len(observed), dtype=np.float64)
    # A visit on the same day is no gap; an open gap of 0 days says nothing.
    seen, open_ = observed[1:].astype(np.float64), censored[1:].astype(np.float64)
    start, end = days[:-1], days[1:]

    def loss(parameters: FloatArray) -> float:
        shape, scale = np.exp(parameters)
        below, above = -((start / scale) ** shape), -((end / scale) ** shape)
        # log(S(g-1) - S(g)) without cancellation
        within = below + np.log(-np.expm1(np.minimum(above - below, -1e-12)))
        return float(-(seen @ within + open_ @ above) / max(1.0, seen.sum()))

    mean = max(1.0, float(seen @ end) / max(1.0, seen.sum()))
    best = minimize(loss, np.log([0.8, mean]), method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12})
    return float(np.exp(best.x[0])), float(np.exp(best.x[1]))


def _hazard(observed: NDArray[Any], censored: NDArray[Any]) -> FloatArray:
    """P(visit on day g | none before), index g; open gaps of c days are at risk up to and with day c."""
    leaving = observed + censored
    at_risk = leaving[::-1].cumsum()[::-1]
    return np.asarray(np.divide(observed, at_risk, out=np.zeros(len(observed)), where=at_risk > 0), dtype=np.float64)


def _within(hazard: FloatArray, day: int) -> float:
    return float(1.0 - np.prod(1.0 - hazard[1 : day + 1]))


def _rate(people: pa.Table) -> dict[str, float]:
    """Mean and spread over subjects of the log visit rate, for a population that differs from person to person."""
    n_days = np.asarray([len(days) for days in people["visit_days"].to_pylist()], dtype=np.float64)
    span = np.asarray([days[0] for days in people["visit_days"].to_pylist()], dtype=np.float64)
    enough = (n_days >= 2) & (span >= 14)
    log_rate = np.log(n_days[enough] / (span[enough] + 1))
    return {
        "n_subjects": int(enough.sum()),
        "log_mean": float(log_rate.mean()),
        "log_sd": float(log_rate.std(ddof=1)),
        "log_mean_se": float(log_rate.std(ddof=1) / np.sqrt(enough.sum())),
    }


def fit_response(points: pa.Table, rng: np.random.Generator, *, by: str = "offer_type") -> dict[str, Any]:
    """Rate of the label among matured points by kind of offer; intervals by bootstrap over subjects."""
    matured = points.filter(points["is_matured"])
    label = np.asarray(matured["label"].to_numpy(), dtype=np.float64)
    _, subject = np.unique(np.asarray(matured["subject"].to_pylist(), dtype=np.str_), return_inverse=True)
    groups = (
        np.asarray([g or "" for g in matured[by].to_pylist()], dtype=np.str_)
        if by in matured.column_names
        else np.full(len(label), "all")
    )
    n_subjects = int(subject.max()) + 1
    weights = _resampled(n_subjects, rng)
    out: dict[str, Any] = {}
    for group in np.unique(groups):
        inside = groups == group
        n = np.bincount(subject[inside], minlength=n_subjects)
        k = np.bincount(subject[inside], weights=label[inside], minlength=n_subjects)
        rates = (weights @ k) / np.maximum(1, weights @ n)
        out[str(group)] = {
            **_interval(float(k.sum() / n.sum()), rates),
            "n_points": int(n.sum()),
            "n_positive": int(k.sum()),
            "n_subjects": int((n > 0).sum()),
        }
    return out


def fit_response_model(points: pa.Table, facts: Facts) -> dict[str, Any]:
    """Logistic model of the label on observable traits before the offer; standard errors clustered by subject.

    Traits are standardised; ``standardised`` holds their means and deviations. Types of offer are intercepts.
    """
    matured = points.filter(points["is_matured"])
    label = np.asarray(matured["label"].to_numpy(), dtype=np.float64)
    _, subject = np.unique(np.asarray(matured["subject"].to_pylist(), dtype=np.str_), return_inverse=True)
    traits = {name: make(matured, facts) for name, make in _TRAITS.items()}
    scales = {name: (float(x.mean()), float(x.std()) or 1.0) for name, x in traits.items()}
    columns = [(x - scales[n][0]) / scales[n][1] for n, x in traits.items()]
    names = list(traits)
    kinds = (
        np.asarray([g or "" for g in matured["offer_type"].to_pylist()])
        if "offer_type" in matured.column_names
        else np.full(len(label), "all")
    )
    for kind in np.unique(kinds):
        columns.append((kinds == kind).astype(np.float64))
        names.append(f"intercept:{kind}")
    coefficients, errors = clustered_logistic(np.stack(columns, axis=1), label, subject)
    return {
        "coefficients": {
            name: {"estimate": float(b), "se": float(e)} for name, b, e in zip(names, coefficients, errors, strict=True)
        },
        "standardised": {name: {"mean": m, "sd": s} for name, (m, s) in scales.items()},
        "n_points": len(label),
        "n_subjects": int(subject.max()) + 1,
    }


def clustered_logistic(x: FloatArray, label: FloatArray, cluster: IntArray) -> tuple[FloatArray, FloatArray]:
    """Coefficients of a logistic regression by Newton's method and their sandwich errors, clustered."""
    beta = np.zeros(x.shape[1])
    ridge = _RIDGE * np.eye(x.shape[1])
    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-(x @ beta)))
        information = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(information, x.T @ (label - p) - _RIDGE * beta)
        beta = beta + step
        if np.abs(step).max() < 1e-10:
            break
    p = 1.0 / (1.0 + np.exp(-(x @ beta)))
    scores = np.zeros((int(cluster.max()) + 1, x.shape[1]))
    np.add.at(scores, cluster, x * (label - p)[:, None])
    bread = np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x + ridge)
    return beta, np.sqrt(np.diag(bread @ (scores.T @ scores) @ bread))


def _number(table: pa.Table, name: str) -> FloatArray:
    if name not in table.column_names:
        return np.zeros(table.num_rows)
    return np.nan_to_num(np.asarray(table[name].to_numpy(), dtype=np.float64))


def _deal_share(table: pa.Table, facts: Facts) -> FloatArray:
    visits = sum((_number(table, f"agg_n_{kind}") for kind in facts.visit_kinds), np.zeros(table.num_rows))
    deals = sum((_number(table, f"agg_n_{kind}") for kind in facts.deal_kinds), np.zeros(table.num_rows))
    return np.asarray(np.divide(deals, visits, out=np.zeros(len(visits)), where=visits > 0), dtype=np.float64)


_TRAITS: Mapping[str, Callable[[pa.Table, Facts], FloatArray]] = {
    "deal_share": _deal_share,
    "log_events_90d": lambda t, _: np.log1p(_number(t, "agg_n_90d")),
    "log_amount_mean": lambda t, _: np.log1p(np.maximum(0.0, _number(t, "agg_amount_mean"))),
}


def _resampled(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each subject is drawn in each resample, shape ``(n_resamples, n)``."""
    return np.asarray(rng.multinomial(n, np.full(n, 1.0 / n), size=_N_RESAMPLES), dtype=np.float64)


def _interval(estimate: float, resampled: Any) -> dict[str, float]:
    low, high = np.quantile(np.asarray(resampled), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"estimate": float(estimate), "low": float(low), "high": float(high)}
