"""Which offers of a large catalogue one decision compares: at most k, found by what a visitor and an offer have in common.

Found before any policy sees them, from the request and the catalogue alone, so the same visitor finds the same candidates, and
the set that was compared is logged like any other: off-policy evaluation knows exactly what could have been shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from policies.errors import InvalidInputError
from policies.records import Features, FeatureValue, OfferSet

MAX_OFFERS = 200
MAX_CATALOGUE = 10_000
_MAX_FOUND = 4_096


@dataclass(frozen=True, slots=True)
class CandidateRule:
    """How candidates are found.

    Parameters
    ----------
    k
        How many at most, 1 to 200.
    match
        Features that visitors and offers share, such as a category, the most telling first: offers equal to the visitor in the
        first come first, then those equal in the second, then the rest; within each by the placement's baseline order.
    """

    k: int = 50
    match: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_OFFERS:
            raise InvalidInputError(f"k of the candidates is {self.k}; expected 1 to {MAX_OFFERS}")
        if len(set(self.match)) < len(self.match):
            raise InvalidInputError(f"candidates match {', '.join(self.match)}; name each feature once")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that ``candidates_from_json`` reads back."""
        return {"k": self.k, "match": list(self.match)}


def candidates_from_json(document: Mapping[str, Any] | None) -> CandidateRule | None:
    """Read back what ``to_json`` wrote; None where there was nothing."""
    return None if document is None else CandidateRule(document["k"], tuple(document["match"]))


class Found(NamedTuple):
    """Candidates of a decision in catalogue order, and the same by the baseline order."""

    offers: OfferSet
    order: tuple[str, ...]


class CandidateIndex:
    """A catalogue arranged so that finding candidates costs what they are many, not what the catalogue is.

    Parameters
    ----------
    order
        All offers by the placement's baseline order.
    """

    def __init__(self, offers: OfferSet, rule: CandidateRule, *, order: tuple[str, ...]) -> None:
        self._offers = offers
        self._rule = rule
        self._ranked = [offers.index_of(offer) for offer in order]
        self._rank = {position: rank for rank, position in enumerate(self._ranked)}
        self._alike: dict[tuple[str, FeatureValue], list[int]] = {}
        for position in self._ranked:
            features = offers[position].features
            for name in rule.match:
                value = features.get(name)
                if value is not None:
                    self._alike.setdefault((name, value), []).append(position)
        self._found: dict[tuple[Any, ...], Found] = {}

    def windows(self, features: Features) -> Iterator[Found]:
        """Candidates; then, for who asks again because none of them may be shown, the next k, until the catalogue is through."""
        values = tuple(features.get(name) for name in self._rule.match)
        for start in range(0, len(self._offers), self._rule.k):
            key = (start, *values)
            found = self._found.get(key)
            if found is None:
                found = self._find(values, start)
                if len(self._found) >= _MAX_FOUND:
                    self._found.clear()
                self._found[key] = found
            yield found

    def _find(self, values: tuple[FeatureValue, ...], start: int) -> Found:
        end = start + self._rule.k
        chosen: dict[int, None] = {}
        for name, value in zip(self._rule.match, values, strict=True):
            chosen |= dict.fromkeys(self._alike.get((name, value), ()))
        for position in self._ranked:
            if len(chosen) >= end:
                break
            chosen[position] = None
        positions = sorted(list(chosen)[start:end])
        by_rank = sorted(positions, key=self._rank.__getitem__)
        return Found(OfferSet([self._offers[p] for p in positions]), tuple(str(self._offers[p].id) for p in by_rank))
