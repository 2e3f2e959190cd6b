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
        names = {c.feature for c in rule.requires}
        rows = [{name: _plain(columns[name][i]) for name in names if name in columns} for i in range(n)]
        blocked = np.asarray([not all(c.holds(row) for c in rule.requires) for row in rows], dtype=np.bool_)
        mask[np.ix_(blocked, rule.speaks_of(offers))] = False
    return mask


def _plain(value: Any) -> FeatureValue:
    if isinstance(value, np.floating):
        return None if np.isnan(value) else float(value)
    return str(value) or None
