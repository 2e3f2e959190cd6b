"""Which variant a subject gets: a sticky hash, compatible with GrowthBook's (version 2).

Two levels of chance that never mix: this hash picks the *variant*, ``sampling.decide`` picks the *offer*.
The hash function and the bucket ranges follow GrowthBook's published SDK specification 0.8, so that a split made here and one
evaluated by any GrowthBook SDK agree; ``tests/policies/test_allocation.py`` runs its public vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Literal

from policies.errors import InvalidInputError

WEIGHT_TOTAL_BP = 10_000
_FNV_OFFSET = 0x811C9DC5
_FNV_PRIME = 0x01000193


def fnv1a32(text: str) -> int:
    """32-bit FNV-1a over UTF-16 code units, as GrowthBook's clients compute it (JavaScript's ``charCodeAt``)."""
    value = _FNV_OFFSET
    if text.isascii():
        units: Sequence[int] = text.encode("ascii")
    else:
        raw = text.encode("utf-16-le", "surrogatepass")
        units = memoryview(raw).cast("H")
    for unit in units:
        value = ((value ^ unit) * _FNV_PRIME) & 0xFFFFFFFF
    return value


def bucket(seed: str, subject: str, *, version: Literal[1, 2] = 2) -> float:
    """Where a subject falls in [0, 1).

    Version 1 is there to read old experiments only: its buckets depend on each other across experiments.
    """
    if version == 1:
        return fnv1a32(subject + seed) % 1000 / 1000
    return fnv1a32(str(fnv1a32(seed + subject))) % 10_000 / 10_000


def equal_weights(n_variants: int) -> tuple[int, ...]:
    """Equal weights in basis points, rounded so that every bucket agrees with GrowthBook's equal floats.

    The cumulative bound is rounded *up*: bucket 0.3333 lies below 1/3, so the first of three needs 3334.
    """
    if n_variants < 1:
        raise InvalidInputError(f"an experiment has {n_variants} variants; expected at least one")
    bounds = [-(-WEIGHT_TOTAL_BP * i // n_variants) for i in range(n_variants + 1)]
    return tuple(b - a for a, b in pairwise(bounds))


def bucket_ranges(weights_bp: Sequence[int], *, coverage: float = 1.0) -> tuple[tuple[float, float], ...]:
    """Range of buckets of each variant; raising the coverage only ever adds subjects.

    Parameters
    ----------
    weights_bp
        Integers in basis points that sum to 10,000.
    coverage
        Share of subjects that take part, in [0, 1].

    Raises
    ------
    InvalidInputError
        If the weights do not sum to 10,000 or the coverage is out of range.
    """
    if any(w < 0 or w != int(w) for w in weights_bp) or sum(weights_bp) != WEIGHT_TOTAL_BP:
        raise InvalidInputError(
            f"weights {list(weights_bp)} sum to {sum(weights_bp)}; expected non-negative whole basis points that sum to "
            f"{WEIGHT_TOTAL_BP}: {list(equal_weights(max(1, len(weights_bp))))} is the equal split"
        )
    if not 0.0 <= coverage <= 1.0:
        raise InvalidInputError(f"coverage is {coverage}; expected a share in [0, 1]")
    starts = [0, *accumulate(weights_bp)][:-1]
    return tuple(
        (s / WEIGHT_TOTAL_BP, (s + coverage * w) / WEIGHT_TOTAL_BP) for s, w in zip(starts, weights_bp, strict=True)
    )


def choose_range(position: float, ranges: Sequence[tuple[float, float]]) -> int | None:
    """Index of the range a bucket falls in; None where it falls in none."""
    for i, (start, end) in enumerate(ranges):
        if start <= position < end:
            return i
    return None


@dataclass(frozen=True, slots=True)
class Variant:
    """One arm of an experiment.

    Parameters
    ----------
    key
        Its name in logs and reports.
    weight_bp
        Its share in basis points.
    policy
        Name of the policy (or its version) that chooses for it.
    """

    key: str
    weight_bp: int
    policy: str


@dataclass(frozen=True, slots=True)
class Split:
    """How one phase of an experiment divides subjects.

    Parameters
    ----------
    seed
        Of the experiment; must differ from that of its layer.
    """

    seed: str
    variants: tuple[Variant, ...]
    coverage: float = 1.0

    def __post_init__(self) -> None:
        keys = [v.key for v in self.variants]
        if len(set(keys)) != len(keys):
            raise InvalidInputError(f"variant keys {keys} are not unique; rename one")
        bucket_ranges([v.weight_bp for v in self.variants], coverage=self.coverage)

    def assign(self, subject: str) -> Variant | None:
        """Variant of a subject; None where the coverage leaves it out."""
        ranges = _cached_ranges(tuple(v.weight_bp for v in self.variants), self.coverage)
        chosen = choose_range(bucket(self.seed, subject), ranges)
        return None if chosen is None else self.variants[chosen]

    def probability(self, key: str) -> float:
        """Probability of a variant among the subjects that take part."""
        return next(v.weight_bp for v in self.variants if v.key == key) / WEIGHT_TOTAL_BP


@lru_cache(maxsize=1024)
def _cached_ranges(weights_bp: tuple[int, ...], coverage: float) -> tuple[tuple[float, float], ...]:
    return bucket_ranges(weights_bp, coverage=coverage)
