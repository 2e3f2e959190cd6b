"""Declarative rules on context and offer attributes: they form the eligible set before any policy acts.

A rule forbids: an offer stays eligible unless some rule that applies to it is not satisfied. What is left
is logged with the decision, with the id of the rule that excluded each other offer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from policies.records import BoolArray, Features, FeatureValue, OfferId, OfferSet

Operator = Literal["==", "!=", "in", "not in", "<", "<=", ">", ">=", "missing", "present"]
_OPERATORS: tuple[str, ...] = ("==", "!=", "in", "not in", "<", "<=", ">", ">=", "missing", "present")


@dataclass(frozen=True, slots=True)
class Condition:
    """A test of one named feature; a missing feature satisfies only ``missing``, ``!=`` and ``not in``."""

    feature: str
    operator: Operator
    value: FeatureValue | tuple[FeatureValue, ...] = None

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            raise InvalidInputError(
                f"operator {self.operator!r} of a condition on {self.feature!r} is unknown; expected one of {_OPERATORS}"
            )
        if self.operator in ("in", "not in") and not isinstance(self.value, tuple):
            raise InvalidInputError(
                f"condition on {self.feature!r} uses {self.operator!r} with a single value; expected a list"
            )
        if self.operator in ("<", "<=", ">", ">=") and (
            isinstance(self.value, bool) or not isinstance(self.value, int | float) or not math.isfinite(self.value)
        ):
            raise InvalidInputError(
                f"condition on {self.feature!r} compares by {self.operator!r} with {self.value!r}; it needs a number"
            )

    def holds(self, features: Features) -> bool:
        """Whether one set of features satisfies the condition."""
        value = features.get(self.feature)
        if isinstance(value, float) and value != value:  # noqa: PLR0124 - nan is missing
            value = None
        expected: Any = self.value
        match self.operator:
            case "missing":
                return value is None or value == ""
            case "present":
                return value is not None and value != ""
            case "==":
                return bool(value == expected)
            case "!=":
                return bool(value != expected)
            case "in":
                return value in expected
            case "not in":
                return value not in expected
        return isinstance(value, int | float) and _compare(self.operator, float(value), float(expected))


def _compare(operator: str, value: float, expected: float) -> bool:
    return {"<": value < expected, "<=": value <= expected, ">": value > expected, ">=": value >= expected}[operator]


@dataclass(frozen=True, slots=True)
class EligibilityRule:
    """Offers that match ``offers`` may be shown only to contexts that match ``requires``.

    Parameters
    ----------
    id
        Logged as the reason where the rule excludes an offer.
    offers
        Conditions on offer features (and ``id``) that say which offers the rule speaks of; empty: all.
    requires
        Conditions on context features, all of which must hold.
    """

    id: str
    offers: tuple[Condition, ...] = ()
    requires: tuple[Condition, ...] = ()

    def speaks_of(self, offers: OfferSet) -> BoolArray:
        """Which offers the rule speaks of, shape ``(k,)``."""
        return np.asarray(
            [all(c.holds({**o.features, "id": o.id}) for c in self.offers) for o in offers], dtype=np.bool_
        )


def excluded_by(rules: Sequence[EligibilityRule], offers: OfferSet, context: Features) -> dict[OfferId, str]:
    """Which offers may not be shown in one context, each with the first rule that says so."""
    out: dict[OfferId, str] = {}
    for rule in rules:
        if all(c.holds(context) for c in rule.requires):
            continue
        for position in np.flatnonzero(rule.speaks_of(offers)):
            out.setdefault(offers.ids[position], rule.id)
    return out


def eligible_mask(
    rules: Sequence[EligibilityRule], offers: OfferSet, columns: Mapping[str, NDArray[Any]], *, n: int
) -> BoolArray:
    """Eligible set of many contexts, shape ``(n, k)``; equal to ``excluded_by`` row by row."""
    mask = np.ones((n, len(offers)), dtype=np.bool_)
    for rule in rules:
        satisfied = np.ones(n, dtype=np.bool_)
        for condition in rule.requires:
            satisfied &= _holds_in(condition, columns.get(condition.feature), n)
        mask[np.ix_(~satisfied, rule.speaks_of(offers))] = False
    return mask


def _holds_in(condition: Condition, column: NDArray[Any] | None, n: int) -> BoolArray:
    """``condition.holds`` for each value of a column, shape ``(n,)``; ``nan`` and empty text are missing."""
    if column is None:
        return np.full(n, condition.holds({}), dtype=np.bool_)
    is_text = column.dtype.kind == "U"
    is_missing: BoolArray = (column == "") if is_text else np.isnan(column)

    def equals(expected: Any) -> BoolArray:
        if expected is None:
            return is_missing
        if isinstance(expected, str) is not is_text:
            return np.zeros(n, dtype=np.bool_)
        return np.asarray((column == expected) & ~is_missing, dtype=np.bool_)

    def one_of(expected: Any) -> BoolArray:
        return np.any([equals(v) for v in expected], axis=0) if expected else np.zeros(n, dtype=np.bool_)

    expected: Any = condition.value
    match condition.operator:
        case "missing":
            return is_missing
        case "present":
            return ~is_missing
        case "==":
            return equals(expected)
        case "!=":
            return ~equals(expected)
        case "in":
            return one_of(expected)
        case "not in":
            return ~one_of(expected)
    if is_text:
        return np.zeros(n, dtype=np.bool_)
    compare = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[condition.operator]
    return np.asarray(compare(column, float(expected)) & ~is_missing, dtype=np.bool_)


def rule_to_json(rule: EligibilityRule) -> dict[str, Any]:
    """Plain JSON values of one rule."""
    return {
        "id": rule.id,
        "offers": [condition_to_json(c) for c in rule.offers],
        "requires": [condition_to_json(c) for c in rule.requires],
    }


def rule_from_json(document: Mapping[str, Any]) -> EligibilityRule:
    """Read back what ``rule_to_json`` wrote."""
    return EligibilityRule(
        document["id"],
        offers=tuple(condition_from_json(c) for c in document.get("offers", ())),
        requires=tuple(condition_from_json(c) for c in document.get("requires", ())),
    )


def condition_to_json(condition: Condition) -> dict[str, Any]:
    """Plain JSON values of one condition."""
    value = list(condition.value) if isinstance(condition.value, tuple) else condition.value
    return {"feature": condition.feature, "operator": condition.operator, "value": value}


def condition_from_json(document: Mapping[str, Any]) -> Condition:
    """Read back what ``condition_to_json`` wrote."""
    value = document.get("value")
    return Condition(document["feature"], document["operator"], tuple(value) if isinstance(value, list) else value)
