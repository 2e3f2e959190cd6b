"""What an estimator owes; run it on your own.

``check_estimator(estimator)`` raises ``ContractError`` with the first rule that does not hold. Nothing here needs a test
framework.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from offline_eval.estimators.base import ONE, REWARD, Estimator, Rows, Shrunk
from policies.contract import ContractError
from policies.records import FloatArray

# What rows are made of, without the columns they remember.
_GIVEN = tuple(f.name for f in fields(Rows) if f.init)


def check_estimator(estimator: Estimator, *, seed: int = 0, n_rows: int = 41, n_offers: int = 3) -> None:
    """Run the contract of ``Estimator``.

    The rules: names are text; columns are one finite number per row and leave their inputs alone; the gradient is that of
    the value (against differences); value and gradient are of degree 0, so that a log given twice gives the same estimate;
    the order of rows does not matter; totals of resamples give one value each; one that names the weight it uses also names what is
    left of the true one, the lesser of the two, for its largest bias is computed from both.

    Raises
    ------
    ContractError
        With the rule that does not hold, and what was found.
    """
    rng = np.random.default_rng(seed)
    rows = _rows(rng, n_rows, n_offers)
    _require(isinstance(estimator, Estimator), "the object has name, needs_model, columns and from_totals", estimator)
    _require(bool(estimator.name), "an estimator has a name", estimator.name)
    before = rows.weight.copy(), rows.reward.copy()
    totals = _totals(estimator, rows)
    same = np.array_equal(before[0], rows.weight) and np.array_equal(before[1], rows.reward)
    _require(same, "columns leave their inputs unchanged", estimator.name)
    found = estimator.from_totals(totals)
    _require(bool(np.isfinite(found.value)), "the value is a finite number on well-behaved rows", found.value)
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
    twice = float(estimator.from_totals({name: 2 * t for name, t in totals.items()}).value)
    _require(
        abs(twice - found.value) <= 1e-9 * max(1.0, abs(twice)), "a log given twice gives the same estimate", twice
    )
    order = rng.permutation(n_rows)
    moved = float(estimator.from_totals(_totals(estimator, _permuted(rows, order))).value)
    _require(abs(moved - found.value) <= 1e-9 * max(1.0, abs(moved)), "the order of rows does not matter", moved)
    many = {name: np.array([t, 2 * t]) for name, t in totals.items()}
    values = np.asarray(estimator.from_totals(many).value)
    _require(values.shape == (2,), "totals of resamples give one value each", values.shape)
    if hasattr(estimator, "shrunk_weight"):
        _require(isinstance(estimator, Shrunk), "beside shrunk_weight stands kept_weight", estimator.name)
        assert isinstance(estimator, Shrunk)
        used, kept = rows.column(estimator.shrunk_weight), rows.column(estimator.kept_weight)
        _require(bool((used >= 0).all()), "the weight used is not negative", used.min())
        _require(
            bool(np.allclose(kept, np.minimum(rows.weight, used), rtol=1e-12)),
            "the weight kept is the lesser of the weight used and the true one",
            kept,
        )
    scaled = estimator.from_totals(_totals(estimator, _scaled(rows, 3.0)))
    _require(
        abs(scaled.value - 3.0 * found.value) <= 1e-9 * max(1.0, abs(scaled.value)) or _is_fixed(estimator),
        "rewards in another unit give the estimate in that unit",
        (scaled.value, found.value),
    )


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
