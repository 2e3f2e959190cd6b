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
    return _fold(_FNV_OFFSET, code_units(text))


def code_units(text: str) -> Sequence[int]:
    """UTF-16 code units of a text."""
    if text.isascii():
        return text.encode("ascii")
    return memoryview(text.encode("utf-16-le", "surrogatepass")).cast("H")


def _fold(value: int, units: Sequence[int]) -> int:
    for unit in units:
        value = ((value ^ unit) * _FNV_PRIME) & 0xFFFFFFFF
    return value


@dataclass(frozen=True, slots=True)
class Id:
    """A subject's code units by fours, cut once for all its splits: what has to be a short number is cut once in four then.

    Bits above the thirty-second never reach those below.
    """

    fours: tuple[tuple[int, int, int, int], ...]
    rest: Sequence[int]

    @staticmethod
    def of(subject: str) -> Id:
        """Code units of a subject."""
        units = code_units(subject)
        end = len(units) & ~3
        return Id(tuple(zip(*(units[i:end:4] for i in range(4)), strict=True)), units[end:])


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
    starts = [0, *accumulate(weights_bp)]
    if coverage == 1.0:
        return tuple((a / WEIGHT_TOTAL_BP, b / WEIGHT_TOTAL_BP) for a, b in pairwise(starts))
    # The float operations of GrowthBook's clients: an end that differs in its last bit moves a bucket.
    return tuple(
        (s / WEIGHT_TOTAL_BP, s / WEIGHT_TOTAL_BP + coverage * (w / WEIGHT_TOTAL_BP))
        for s, w in zip(starts[:-1], weights_bp, strict=True)
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
    value
        Text that a flag of the experiment answers with instead of the key, for variants that are plain values.
    """

    key: str
    weight_bp: int
    policy: str
    value: str = ""


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
        chosen = self.table[Seed.of(self.seed).bucket(Id.of(subject))]
        return None if chosen == _NONE else self.variants[chosen]

    @property
    def table(self) -> bytes:
        """Position of the variant for each of the 10,000 buckets; 255 where the coverage leaves it out."""
        return _bucket_table(tuple(v.weight_bp for v in self.variants), self.coverage)

    def probability(self, key: str) -> float:
        """Probability of a variant among the subjects that take part."""
        return next(v.weight_bp for v in self.variants if v.key == key) / WEIGHT_TOTAL_BP


@dataclass(frozen=True, slots=True)
class Seed:
    """A seed hashed once: what is left of version 2 for each subject is its own code units."""

    state: int

    @staticmethod
    @lru_cache(maxsize=4096)
    def of(text: str) -> Seed:
        """Seed of an experiment, a layer or a holdout."""
        return Seed(fnv1a32(text))

    def bucket(self, subject: Id) -> int:
        """Whole bucket of a subject, 0 to 9,999; ``bucket`` times 10,000."""
        value, prime = self.state, _FNV_PRIME
        for a, b, c, d in subject.fours:
            value = ((((value ^ a) * prime ^ b) * prime ^ c) * prime ^ d) * prime & 0xFFFFFFFF
        for unit in subject.rest:
            value = (value ^ unit) * prime & 0xFFFFFFFF
        outer = _FNV_OFFSET
        for digit in b"%d" % value:
            outer = (outer ^ digit) * prime
        return (outer & 0xFFFFFFFF) % WEIGHT_TOTAL_BP


@dataclass(frozen=True, slots=True)
class Trial:
    """A running split as an allocator needs it.

    Parameters
    ----------
    layer, slots
        Name of the layer and the range of its buckets that belongs to this split; no layer: all subjects.
    """

    split: Split
    layer: str = ""
    slots: tuple[int, int] = (0, WEIGHT_TOTAL_BP)


class Allocator:
    """Variants of a subject in many splits at once, remembered for subjects that come again.

    Parameters
    ----------
    holdout_bp
        Basis points of all subjects that take part in nothing.
    memory
        Subjects remembered; beyond it, the oldest are forgotten and hashed again.
    """

    def __init__(self, trials: Sequence[Trial], *, holdout_bp: int = 0, memory: int = 100_000) -> None:
        if not 0 <= holdout_bp <= WEIGHT_TOTAL_BP:
            raise InvalidInputError(f"the holdout is {holdout_bp}; expected 0 to {WEIGHT_TOTAL_BP} basis points")
        self.trials = tuple(trials)
        self._holdout_bp = holdout_bp
        self._memory = memory
        self._known: dict[str, tuple[int | None, ...]] = {}
        self._nothing: tuple[int | None, ...] = (None,) * len(self.trials)
        self._compiled = [
            (
                Seed.of(t.split.seed),
                t.split.table,
                Seed.of(layer_seed(t.layer)) if t.layer else None,
                t.slots[0],
                t.slots[1],
            )
            for t in self.trials
        ]

    def positions(self, subject: str) -> tuple[int | None, ...]:
        """Position of the subject's variant in each trial; None where it takes no part."""
        found = self._known.get(subject)
        if found is None:
            found = self._hash(subject)
            if len(self._known) >= self._memory:
                del self._known[next(iter(self._known))]
            self._known[subject] = found
        return found

    def is_held_out(self, subject: str) -> bool:
        """Whether a subject is in the holdout."""
        return self._holdout_bp > 0 and Seed.of(HOLDOUT_SEED).bucket(Id.of(subject)) < self._holdout_bp

    def _hash(self, subject: str) -> tuple[int | None, ...]:
        if self.is_held_out(subject):
            return self._nothing
        units = Id.of(subject)
        slots: dict[Seed, int] = {}
        out: list[int | None] = []
        for seed, table, layer, first, last in self._compiled:
            if layer is not None:
                slot = slots.get(layer)
                if slot is None:
                    slot = slots[layer] = layer.bucket(units)
                if not first <= slot < last:
                    out.append(None)
                    continue
            chosen = table[seed.bucket(units)]
            out.append(None if chosen == _NONE else chosen)
        return tuple(out)


HOLDOUT_SEED = "nextoffer holdout"
_NONE = 255


def layer_seed(layer: str) -> str:
    """Seed of a layer; no experiment can have it, so that slots and variants are independent."""
    return f"nextoffer layer\x1f{layer}"


@lru_cache(maxsize=1024)
def _bucket_table(weights_bp: tuple[int, ...], coverage: float) -> bytes:
    ranges = bucket_ranges(weights_bp, coverage=coverage)
    found = (choose_range(b / WEIGHT_TOTAL_BP, ranges) for b in range(WEIGHT_TOTAL_BP))
    return bytes(_NONE if i is None else i for i in found)
