"""What counts as success at a placement: facts turned into the one number a learner sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from policies.errors import InvalidInputError

DAY_S = 86_400.0
Aggregation = Literal["sum", "first", "last", "max"]
_AGGREGATIONS = ("sum", "first", "last", "max")


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """One kind of fact and what it is worth.

    Parameters
    ----------
    kind
        Kind of the reward (named by decision) or outcome (attributed by subject).
    weight
        Multiplies the value of the fact.
    """

    kind: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class RewardDefinition:
    """Types, weights, window, default and aggregation; applied once, when the window of a decision closes.

    Parameters
    ----------
    terms
        Facts that count; a decision's number is the sum over terms of weight times the aggregate of that kind's values.
    window_s
        Facts up to this long after the decision count; the decision is learned from when it is over.
    default
        The number of a decision to which no fact came.
    aggregation
        How several facts of one kind become one value: their sum, the first or the last in time, or the largest.
    """

    terms: tuple[RewardTerm, ...] = (RewardTerm("subscribed"),)
    window_s: float = 30 * DAY_S
    default: float = 0.0
    aggregation: Aggregation = "sum"

    def __post_init__(self) -> None:
        if not self.terms:
            raise InvalidInputError("a reward definition has no terms; name at least one kind of reward or outcome")
        kinds = [t.kind for t in self.terms]
        if len(set(kinds)) != len(kinds):
            raise InvalidInputError(f"kinds {kinds} of a reward definition repeat; give each kind one weight")
        if not self.window_s > 0:
            raise InvalidInputError(f"window_s of a reward definition is {self.window_s}; expected seconds above 0")
        if self.aggregation not in _AGGREGATIONS:
            raise InvalidInputError(f"aggregation {self.aggregation!r} is unknown; expected one of {_AGGREGATIONS}")

    @property
    def kinds(self) -> frozenset[str]:
        """Kinds of facts that count."""
        return frozenset(t.kind for t in self.terms)

    def number(self, facts: Iterable[tuple[str, int, str, float]]) -> float:
        """Turn the facts of one decision inside its window into its number.

        Parameters
        ----------
        facts
            ``(kind, time in microseconds, id, value)`` in any order; kinds that do not count are ignored.
        """
        by_kind: dict[str, list[tuple[int, str, float]]] = {}
        for kind, at_us, fact_id, value in facts:
            by_kind.setdefault(kind, []).append((at_us, fact_id, value))
        total, n_terms = 0.0, 0
        for term in self.terms:
            values = [v for _, _, v in sorted(by_kind.get(term.kind, ()))]
            if values:
                n_terms += 1
                total += term.weight * _aggregate(values, self.aggregation)
        return total if n_terms else self.default

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that ``from_json`` reads back to an equal definition."""
        return {
            "terms": [{"kind": t.kind, "weight": t.weight} for t in self.terms],
            "window_s": self.window_s,
            "default": self.default,
            "aggregation": self.aggregation,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> RewardDefinition:
        """Read back what ``to_json`` wrote; what is left out has its default."""
        known = dict(document)
        if "terms" in known:
            known["terms"] = tuple(RewardTerm(t["kind"], t.get("weight", 1.0)) for t in known["terms"])
        return cls(**known)


def _aggregate(values: list[float], aggregation: Aggregation) -> float:
    match aggregation:
        case "sum":
            return sum(values)
        case "first":
            return values[0]
        case "last":
            return values[-1]
        case "max":
            return max(values)
