"""What an estimator owes; run it on your own.

``check_estimator(estimator)`` raises ``ContractError`` with the first rule that does not hold. Nothing here needs a test
framework.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, TypeVar

import numpy as np

from offline_eval.estimators import default_estimators
from offline_eval.estimators.base import ONE, REWARD, Column, Estimator, Rows, Shrunk, Value
from policies.contract import ContractError
from policies.errors import NextofferError
from policies.records import FloatArray

# When an estimator finds the truth, as the number of rows grows.
Right = Literal["always", "with a true model", "never"]
_T = TypeVar("_T")

# What rows are made of, without the columns they remember.
_GIVEN = tuple(f.name for f in fields(Rows) if f.init)


def check_estimator(
    estimator: Estimator, *, right: Right | None = None, seed: int = 0, n_rows: int = 41, n_offers: int = 3
) -> None:
    """Run the contract of ``Estimator``.

    The rules of form: names are text; columns are one finite number per row, leave their inputs alone, and are the same whatever
    other rows are beside them, before them, or in another order; a column with the name of a known one is that one, and one that
    says what it is where all weights are one is that; without a declared model none is used; the gradient is that of the value
    (against differences); value and gradient are of degree 0, so that a log given twice gives the same estimate; totals of
    resamples give one value each; rewards in another unit give the estimate in that unit.

    The rule of truth: on a log that holds every context, offer and reward exactly as often as they occur, the estimate is what the
    candidate earns there.

    Parameters
    ----------
    right
        When the rule of truth holds: ``"always"``, also with a reward model that is wrong; only ``"with a true model"``, as for DM;
        or ``"never"``, for one that is biased by design. Where None, always; for one that declares shrunk weights
        (``Shrunk``) with a true model, or never without one.

    Raises
    ------
    ContractError
        With the rule that does not hold, and what was found.
    """
    rng = np.random.default_rng(seed)
    rows = _rows(rng, n_rows, n_offers)
    twin = copy.deepcopy(estimator)
    _require(isinstance(estimator, Estimator), "the object has name, needs_model, columns and from_totals", estimator)
    _require(bool(estimator.name), "an estimator has a name", estimator.name)
    if not estimator.needs_model:
        bare = _changed(rows, model_chosen=None, model_target=None)
        _found("an estimator without needs_model does without a reward model", lambda: _totals(estimator, bare))
    before = rows.weight.copy(), rows.reward.copy()
    totals = _found("columns can be computed from rows", lambda: _totals(estimator, rows))
    same = np.array_equal(before[0], rows.weight) and np.array_equal(before[1], rows.reward)
    _require(same, "columns leave their inputs unchanged", estimator.name)
    _check_names(estimator, rows)
    found = _found(
        "the value can be computed from one, reward and the own columns", lambda: estimator.from_totals(totals)
    )
    _require(bool(np.isfinite(found.value)), "the value is a finite number on well-behaved rows", found.value)
    _check_gradient(estimator, totals, found)
    twice = float(estimator.from_totals({name: 2 * t for name, t in totals.items()}).value)
    _require(
        abs(twice - found.value) <= 1e-9 * max(1.0, abs(twice)), "a log given twice gives the same estimate", twice
    )
    _check_rows_apart(estimator, twin, rows, rng)
    _check_without_distributions(estimator, rows)
    many = {name: np.array([t, 2 * t]) for name, t in totals.items()}
    values = np.asarray(_found("totals of resamples are arrays", lambda: estimator.from_totals(many)).value)
    _require(values.shape == (2,), "totals of resamples give one value each", values.shape)
    scaled = estimator.from_totals(_totals(estimator, _scaled(rows, 3.0)))
    _require(
        abs(scaled.value - 3.0 * found.value) <= 1e-9 * max(1.0, abs(scaled.value)) or _is_fixed(estimator),
        "rewards in another unit give the estimate in that unit",
        (scaled.value, found.value),
    )
    _check_truth(estimator, _usually(estimator) if right is None else right, rng)


def same_names_differ(estimators: Sequence[Estimator], *, n_offers: int) -> str | None:
    """Name of a column that two estimators make differently; such columns are computed once, so one of them would be wrong."""
    rows = _rows(np.random.default_rng(0), 41, n_offers)
    known: dict[str, Column] = {}
    for column in (c for e in estimators for c in e.columns):
        other = known.setdefault(column.name, column)
        if other.of is not column.of and not _equal(other.of(rows), column.of(rows)):
            return column.name
    return None


def _check_gradient(estimator: Estimator, totals: Mapping[str, float], found: Value) -> None:
    for name in totals:
        step = 1e-6 * max(1.0, abs(totals[name]))
        up = float(estimator.from_totals({**totals, name: totals[name] + step}).value)
        down = float(estimator.from_totals({**totals, name: totals[name] - step}).value)
        slope, told = (up - down) / (2 * step), float(found.gradient.get(name, 0.0))
        _require(
            abs(slope - told) <= 1e-5 * max(1.0, abs(slope), abs(found.value)),
            f"the gradient by the total of {name!r} is the slope of the value",
            (told, slope),
        )


def _check_names(estimator: Estimator, rows: Rows) -> None:
    """Columns are shared between estimators by name: a name stands for one thing."""
    known = {c.name: c for e in default_estimators() for c in e.columns}
    reserved = {ONE: np.ones_like(rows.reward), REWARD: rows.reward}
    ones = _changed(rows, weight=np.ones_like(rows.weight), target=rows.logged, target_chosen=rows.propensity)
    for column in estimator.columns:
        values = column.of(rows)
        meant = known[column.name].of(rows) if column.name in known else reserved.get(column.name)
        _require(
            meant is None or _equal(values, meant),
            f"column {column.name!r} is what that name stands for elsewhere; call another thing otherwise",
            values[:3],
        )
        if column.at_one:
            assert rows.model_chosen is not None
            stands_for = {**reserved, "r-q": rows.reward - rows.model_chosen}.get(column.at_one)
            _require(
                stands_for is not None and _equal(column.of(ones), stands_for),
                f"column {column.name!r} is {column.at_one!r} where all weights are one, as it says",
                column.of(ones)[:3],
            )


def _check_rows_apart(estimator: Estimator, twin: Estimator, rows: Rows, rng: np.random.Generator) -> None:
    """A log is read in parts, in any order, by processes that do not know of each other."""
    n = len(rows.reward)
    whole = {c.name: c.of(_fresh(rows)) for c in estimator.columns}
    order = rng.permutation(n)
    for rule, parts in (
        ("a row's columns do not depend on the order of rows", [order]),
        ("a row's columns do not depend on the other rows of its part", [np.arange(n // 3), np.arange(n // 3, n)]),
    ):
        for column in estimator.columns:
            apart = np.concatenate([column.of(_permuted(rows, part)) for part in parts])
            _require(_equal(apart, whole[column.name][np.concatenate(parts)]), rule, column.name)
    # The twin has met a log of other weights and rewards before.
    _totals(twin, _changed(_scaled(rows, 0.1), weight=0.1 * rows.weight))
    for column in twin.columns:
        _require(
            _equal(column.of(_fresh(rows)), whole[column.name]),
            "a row's columns do not depend on a log that was read before",
            column.name,
        )
    before, after = (float(e.from_totals(_totals(e, _fresh(rows))).value) for e in (estimator, twin))
    _require(before == after, "the estimate does not depend on a log that was read before", (before, after))


def _check_without_distributions(estimator: Estimator, rows: Rows) -> None:
    """Many logs hold the propensity of the shown offer alone."""
    try:
        _found(
            "where whole distributions were not logged, columns are found or a NextofferError says what is needed",
            lambda: _totals(estimator, _changed(rows, logged=None)),
        )
    except ContractError as error:
        if not isinstance(error.__cause__, NextofferError):
            raise


def _check_truth(estimator: Estimator, right: Right, rng: np.random.Generator) -> None:
    if right == "never":
        return
    for model in ("true", "wrong") if right == "always" else ("true",):
        rows, truth = _population(rng, is_true=model == "true")
        value = float(estimator.from_totals(_totals(estimator, rows)).value)
        advice = 'pass right="with a true model" for one that relies on its model, right="never" for one that is biased by design'
        _require(
            abs(value - truth) <= 1e-9,
            f"on all of a population, with a reward model that is {model}, the estimate is the candidate's value {truth:.4f} "
            f"({advice})",
            value,
        )


def _usually(estimator: Estimator) -> Right:
    if not isinstance(estimator, Shrunk):
        return "always"
    return "with a true model" if estimator.needs_model else "never"


def _population(rng: np.random.Generator, *, is_true: bool) -> tuple[Rows, float]:
    """Rows that hold every context, offer and reward of a small world as often as they occur, and the candidate's value in it."""
    # In twentieths, so that whole rows give exact shares; no weight is above 5.
    logged = np.asarray([[4, 6, 10], [10, 6, 4], [8, 8, 4], [4, 12, 4]]) / 20
    target = np.asarray([[0.7, 0.1, 0.2], [0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [0.2, 0.1, 0.7]])
    expected = np.asarray([[1.0, 0.2, 0.4], [0.3, 0.9, 0.1], [0.6, 0.5, 0.8], [0.2, 0.7, 1.1]])
    context, chosen = np.nonzero(logged)
    times = np.rint(logged[context, chosen] * 20).astype(np.int64)
    context, chosen = np.repeat(context, times), np.repeat(chosen, times)
    sign = np.concatenate([np.resize([0.5, -0.5], t) for t in times])  # rewards around their mean; every count is even
    order = rng.permutation(len(chosen))
    context, chosen, sign = context[order], chosen[order], sign[order]
    model = expected if is_true else np.asarray([[0.1, 0.8, 0.3], [0.9, 0.2, 0.2], [0.4, 0.1, 0.9], [1.3, 0.3, 0.2]])
    q = model[context]
    rows = Rows(
        weight=target[context, chosen] / logged[context, chosen],
        reward=expected[context, chosen] + sign,
        propensity=logged[context, chosen],
        chosen=chosen,
        target=target[context],
        target_chosen=target[context, chosen],
        model_chosen=q[np.arange(len(q)), chosen],
        model_target=(target[context] * q).sum(axis=1),
        logged=logged[context],
        eligible=np.ones((len(q), 3), dtype=np.bool_),
    )
    return rows, float((target * expected).sum(axis=1).mean())


def _found(rule: str, find: Callable[[], _T]) -> _T:
    """What a researcher's code gives; an error of it becomes the rule it breaks."""
    try:
        return find()
    except ContractError:
        raise
    except Exception as error:  # whatever it is, it is the estimator's
        raise ContractError(f"{rule}; found: {type(error).__name__}: {error}") from error


def _equal(a: FloatArray, b: FloatArray) -> bool:
    return bool(np.allclose(a, b, rtol=1e-9, atol=1e-12))


def _is_fixed(estimator: Estimator) -> bool:
    """Whether a setting is itself in the unit of the reward, so that another unit needs another setting."""
    return getattr(estimator, "baseline", None) is not None


def _require(condition: bool, rule: str, found: object) -> None:
    if not condition:
        raise ContractError(f"{rule}; found: {found}")


def _rows(rng: np.random.Generator, n: int, k: int) -> Rows:
    logged, target = rng.dirichlet(np.ones(k), size=n), rng.dirichlet(np.ones(k), size=n)
    chosen = rng.integers(0, k, size=n)
    q = rng.normal(size=(n, k))
    index = np.arange(n)
    return Rows(
        weight=target[index, chosen] / logged[index, chosen],
        reward=rng.normal(1.0, 1.0, size=n),
        propensity=logged[index, chosen],
        chosen=chosen,
        target=target,
        target_chosen=target[index, chosen],
        model_chosen=q[index, chosen],
        model_target=(target * q).sum(axis=1),
        logged=logged,
        eligible=np.ones((n, k), dtype=np.bool_),
    )


def _permuted(rows: Rows, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Rows:
    values: dict[str, Any] = {name: getattr(rows, name) for name in _GIVEN}
    moved: dict[str, Any] = {name: None if v is None else v[order] for name, v in values.items()}
    return Rows(**moved)


def _changed(rows: Rows, **changes: Any) -> Rows:
    return replace(rows, **changes)  # what the rows remember is not taken along


def _fresh(rows: Rows) -> Rows:
    return _changed(rows)


def _scaled(rows: Rows, factor: float) -> Rows:
    values = {name: getattr(rows, name) for name in _GIVEN}
    for name in ("reward", "model_chosen", "model_target"):
        values[name] = factor * values[name]
    return Rows(**values)


def _totals(estimator: Estimator, rows: Rows) -> dict[str, float]:
    totals = {ONE: float(len(rows.reward)), REWARD: float(rows.reward.sum())}
    for column in estimator.columns:
        block: FloatArray = np.asarray(rows.column(column))
        _require(block.shape == rows.reward.shape, f"column {column.name!r} has one number per row", block.shape)
        _require(bool(np.isfinite(block).all()), f"column {column.name!r} is finite", block)
        totals[column.name] = float(block.sum())
    return totals
