"""The nouns: offers, what is known before a choice, the choice, and what came of it.

Small, frozen, boring. ``DecisionTable`` holds what is known *before* the choice, for one decision or
a million; ``InteractionBatch`` wraps one and adds chosen offer, propensity and reward, so that a policy
cannot be handed its own answer. Arrays are checked once, when a record is built, and then trusted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple, NewType, Self

import numpy as np
from numpy.typing import NDArray

from policies.errors import DuplicateOfferError, InvalidInputError, SchemaError, SupportError

OfferId = NewType("OfferId", str)
SubjectId = NewType("SubjectId", str)
DecisionId = NewType("DecisionId", str)
PlacementId = NewType("PlacementId", str)

FeatureValue = float | int | str | bool | None
Features = Mapping[str, FeatureValue]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PolicyRef:
    """Which policy, and which version of it: enough to find the artefact again."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that can be shown: features are what policies see, payload is what the site shows."""

    id: OfferId
    features: Features = field(default_factory=dict)
    payload: Mapping[str, Any] = field(default_factory=dict)


class OfferSet(Sequence[Offer]):
    """An immutable, ordered, versioned set of offers.

    The revision is a hash of ids and features (never of the payload: a new picture is not a new
    decision problem). Interned: two sets with the same content in the same order are one object,
    so encoders can cache what they derive by identity.

    Raises
    ------
    DuplicateOfferError
        If two offers share an id.
    InvalidInputError
        If the set is empty or a feature is not a finite number, text or boolean.
    """

    __slots__ = ("_index", "_offers", "ids", "revision")
    _interned: dict[tuple[str, tuple[str, ...]], OfferSet] = {}  # noqa: RUF012 - a cache on purpose, bounded below
    _MAX_INTERNED = 4096

    ids: tuple[OfferId, ...]
    revision: str
    _offers: tuple[Offer, ...]
    _index: dict[OfferId, int]

    def __new__(cls, offers: Sequence[Offer]) -> OfferSet:
        """Return the one set with this content, made now or before."""
        offers = tuple(offers)
        if not offers:
            raise InvalidInputError(
                "an offer set is empty; a decision needs at least one offer: add one to the catalogue"
            )
        index: dict[OfferId, int] = {}
        for position, offer in enumerate(offers):
            if offer.id in index:
                raise DuplicateOfferError(offer.id)
            index[offer.id] = position
            check_features(offer.features, where=f"offer {offer.id!r}")
        content = json.dumps([[o.id, dict(sorted(o.features.items()))] for o in offers], separators=(",", ":"))
        payloads = json.dumps([o.payload for o in offers], default=str, sort_keys=True)
        revision = hashlib.sha256(content.encode()).hexdigest()[:16]
        key = (revision, (hashlib.sha256(payloads.encode()).hexdigest(),))
        known = cls._interned.get(key)
        if known is not None:
            return known
        made = super().__new__(cls)
        made._offers = offers
        made._index = index
        made.ids = tuple(o.id for o in offers)
        made.revision = revision
        if len(cls._interned) >= cls._MAX_INTERNED:
            cls._interned.clear()
        cls._interned[key] = made
        return made

    def index_of(self, offer_id: str) -> int:
        """Position of an offer; ``KeyError`` if it is not in the set."""
        return self._index[OfferId(offer_id)]

    def __contains__(self, item: object) -> bool:
        return (item.id if isinstance(item, Offer) else item) in self._index

    def __getitem__(self, position: Any) -> Any:
        return self._offers[position]

    def __len__(self) -> int:
        return len(self._offers)

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._offers)

    def __repr__(self) -> str:
        return f"OfferSet({len(self)} offers, revision {self.revision})"

    def __reduce__(self) -> tuple[type[OfferSet], tuple[tuple[Offer, ...]]]:
        # Copies and pickles come back as the interned set.
        return (type(self), (self._offers,))

    def permuted(self, order: Sequence[int]) -> OfferSet:
        """Return the same offers in another order."""
        return OfferSet([self._offers[i] for i in order])


@dataclass(frozen=True, slots=True)
class Context:
    """What is known about one visitor at the moment of one decision."""

    subject: SubjectId
    features: Features = field(default_factory=dict)
    vectors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    at: datetime | None = None  # of any zone; UTC where it has none


def check_features(features: Features, *, where: str) -> None:
    """Refuse features that would poison a model: not finite, nested, or of another type."""
    for name, value in features.items():
        kind = type(value)
        if kind is str or kind is bool or value is None or (kind is float and -1e12 <= value <= 1e12):  # type: ignore[operator]
            continue  # what nearly all are
        if not isinstance(value, int | float | np.floating | np.integer):
            raise InvalidInputError(
                f"feature {name!r} of {where} is a {type(value).__name__}; expected a number, text, boolean or null: "
                "flatten nested values into named features"
            )
        if not abs(value) <= 1e12:  # also refuses nan, and integers that no float holds
            raise InvalidInputError(
                f"feature {name!r} of {where} is {value!r}; expected a finite number below 1e12 in size: leave it out if it is unknown"
            )


class RowColumns(Mapping[str, NDArray[Any]]):
    """Columns of a table of one row, made into arrays only where somebody asks for one.

    Whoever can work from plain values takes ``row``: for one decision that is several times cheaper.
    """

    __slots__ = ("row",)

    def __init__(self, row: Features) -> None:
        self.row = row

    def __getitem__(self, name: str) -> NDArray[Any]:
        value = self.row[name]
        if isinstance(value, str):
            return np.array([value])
        return np.array([np.nan if value is None else float(value)])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self.row))

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True, eq=False)
class DecisionTable:
    """What is known before each of n choices among one set of k offers.

    Parameters
    ----------
    offers
        The k offers all rows choose from, in the order that columns of every matrix have.
    eligible
        Which offers may be shown in which row, shape ``(n, k)``.
    columns
        Context features by name, each of shape ``(n,)``: float64 (``nan`` is missing) or text (``""`` is missing).
    vectors
        Named blocks of context features, each of shape ``(n, d)``, float32 (for example a sequence state).
    subjects
        Whose decision it is, shape ``(n,)``; optional.
    at
        When, shape ``(n,)``, ``datetime64[us]`` in UTC; optional.
    """

    offers: OfferSet
    eligible: BoolArray
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    subjects: NDArray[np.str_] | None = None
    at: NDArray[np.datetime64] | None = None

    def __post_init__(self) -> None:
        if self.eligible.ndim != 2 or self.eligible.shape[1] != len(self.offers) or self.eligible.dtype != np.bool_:
            raise SchemaError(
                f"eligible has shape {self.eligible.shape} and type {self.eligible.dtype}; "
                f"expected booleans of shape (n, {len(self.offers)}), one column per offer"
            )
        n = len(self.eligible)
        for name, column in self.columns.items():
            if column.shape != (n,) or column.dtype.kind not in "fU":
                raise SchemaError(
                    f"column {name!r} has shape {column.shape} and type {column.dtype}; "
                    f"expected ({n},) of float64 or text: convert integers and booleans to float"
                )
            if column.dtype.kind == "f" and np.isinf(column).any():
                raise InvalidInputError(f"column {name!r} holds an infinite value; use nan for missing")
        for name, block in self.vectors.items():
            if block.ndim != 2 or len(block) != n or not np.isfinite(block).all():
                raise SchemaError(f"vector {name!r} has shape {block.shape}; expected ({n}, d) with finite values")
        for label, extra in (("subjects", self.subjects), ("at", self.at)):
            if extra is not None and extra.shape != (n,):
                raise SchemaError(f"{label} has shape {extra.shape}; expected ({n},)")

    def __len__(self) -> int:
        return len(self.eligible)

    @property
    def n_offers(self) -> int:
        """Number of offers k."""
        return len(self.offers)

    def take(self, rows: NDArray[Any] | slice) -> DecisionTable:
        """Return the chosen rows, in the order asked for."""
        return replace(
            self,
            eligible=self.eligible[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            vectors={name: block[rows] for name, block in self.vectors.items()},
            subjects=None if self.subjects is None else self.subjects[rows],
            at=None if self.at is None else self.at[rows],
        )

    def permute_offers(self, order: Sequence[int]) -> DecisionTable:
        """Return the same decisions with the offers in another order."""
        return replace(self, offers=self.offers.permuted(order), eligible=self.eligible[:, list(order)])

    @classmethod
    def from_contexts(cls, offers: OfferSet, contexts: Sequence[Context], *, eligible: BoolArray | None = None) -> Self:
        """Build a table from one context per row; features absent from a row are missing.

        Raises
        ------
        SchemaError
            If a feature is text in one row and a number in another.
        """
        n = len(contexts)
        names = sorted({name for context in contexts for name in context.features})
        blocks = sorted({name for context in contexts for name in context.vectors})
        return cls(
            offers=offers,
            eligible=np.ones((n, len(offers)), dtype=np.bool_) if eligible is None else eligible,
            columns={name: feature_column(name, [c.features.get(name) for c in contexts]) for name in names},
            vectors={name: np.asarray([c.vectors[name] for c in contexts], dtype=np.float32) for name in blocks},
            subjects=np.asarray([c.subject for c in contexts], dtype=np.str_),
            at=None
            if any(c.at is None for c in contexts)
            else np.asarray([_in_utc(c.at) for c in contexts if c.at is not None], dtype="datetime64[us]"),
        )


class DecisionOfOne(DecisionTable):
    """``DecisionTable.from_contexts`` of one context, without looking again at what was checked at the door.

    Arrays are made where somebody asks for them; who can work from plain values takes ``allowed`` and ``columns.row``.

    Parameters
    ----------
    allowed
        Whether each offer may be shown; None: all may.
    at_us
        Microseconds since 1970 in UTC.
    """

    __slots__ = ("_at_us", "_subject", "allowed")
    allowed: Sequence[bool] | None
    _at_us: int
    _subject: str

    def __init__(
        self,
        offers: OfferSet,
        *,
        subject: str,
        features: Features,
        at_us: int,
        vectors: Mapping[str, Sequence[float]] | None = None,
        allowed: Sequence[bool] | None = None,
    ) -> None:
        put = object.__setattr__
        put(self, "offers", offers)
        put(self, "allowed", allowed)
        put(self, "columns", RowColumns(features))
        put(self, "vectors", {name: np.array([v], dtype=np.float32) for name, v in vectors.items()} if vectors else {})
        put(self, "_subject", subject)
        put(self, "_at_us", at_us)

    @property
    def eligible(self) -> BoolArray:
        """Which offers may be shown, shape ``(1, k)``."""
        return _all_eligible(len(self.offers)) if self.allowed is None else np.array([self.allowed], dtype=np.bool_)

    @property
    def subjects(self) -> NDArray[np.str_]:
        """Whose decision it is, shape ``(1,)``."""
        return np.array([self._subject])

    @property
    def at(self) -> NDArray[np.datetime64]:
        """When, shape ``(1,)``."""
        return np.array([self._at_us]).view("datetime64[us]")

    def whole(self) -> DecisionTable:
        """Give the same as a plain table."""
        return DecisionTable(self.offers, self.eligible, dict(self.columns), self.vectors, self.subjects, self.at)

    def take(self, rows: NDArray[Any] | slice) -> DecisionTable:
        """Return the chosen rows, in the order asked for."""
        return self.whole().take(rows)

    def permute_offers(self, order: Sequence[int]) -> DecisionTable:
        """Return the same decision with the offers in another order."""
        return self.whole().permute_offers(order)

    def __len__(self) -> int:
        return 1


@lru_cache(maxsize=64)
def _in_utc(moment: datetime) -> datetime:
    """The moment without its zone; one that came without a zone is in UTC."""
    return moment if moment.tzinfo is None else moment.astimezone(UTC).replace(tzinfo=None)


def _all_eligible(n_offers: int) -> BoolArray:
    eligible = np.ones((1, n_offers), dtype=np.bool_)
    eligible.flags.writeable = False
    return eligible


def feature_column(name: str, values: Sequence[FeatureValue]) -> NDArray[Any]:
    """One context feature of all rows as an array: float64 with ``nan``, or text with ``""``, for missing."""
    known = [v for v in values if v is not None]
    n_text = sum(isinstance(v, str) for v in known)
    if n_text and n_text < len(known):
        raise SchemaError(f"feature {name!r} is text in some rows and a number in others; send one type")
    if n_text:
        return np.asarray(["" if v is None else v for v in values], dtype=np.str_)
    return np.asarray([np.nan if v is None else float(v) for v in values], dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class InteractionBatch:
    """Logged decisions with what came of them: the one input of every estimator and learner.

    Parameters
    ----------
    table
        What was known before each choice, n rows, k offers.
    chosen
        Index of the offer shown, shape ``(n,)``, int64.
    propensity
        Probability with which it was shown, shape ``(n,)``, in (0, 1].
    reward
        What came of it, shape ``(n,)``, in the unit of the reward definition; finite.
    probabilities
        The whole logged distribution, shape ``(n, k)``; optional.
    decision_ids, policies, variants, phases
        Text of shape ``(n,)``; optional. ``policies`` holds ``name@version`` of who chose.
    variant_probability
        Probability of the variant, shape ``(n,)``; optional.
    is_reward_weighted
        Whether rewards that came stand for others not seen yet (``offline_eval.censoring.inverse_censoring``): then their mean is
        that of the reward, and their distribution is not.

    Raises
    ------
    SchemaError, SupportError, InvalidInputError
        At construction, naming the column, the rule and the number of rows.
    """

    table: DecisionTable
    chosen: IntArray
    propensity: FloatArray
    reward: FloatArray
    probabilities: FloatArray | None = None
    decision_ids: NDArray[np.str_] | None = None
    policies: NDArray[np.str_] | None = None
    variants: NDArray[np.str_] | None = None
    phases: NDArray[np.str_] | None = None
    variant_probability: FloatArray | None = None
    is_reward_weighted: bool = False

    def __post_init__(self) -> None:
        n, k = self.table.eligible.shape
        for name in (
            "chosen",
            "propensity",
            "reward",
            "decision_ids",
            "policies",
            "variants",
            "phases",
            "variant_probability",
        ):
            column = getattr(self, name)
            if column is not None and column.shape != (n,):
                raise SchemaError(f"{name} has shape {column.shape}; expected ({n},), one value per decision")
        if self.chosen.dtype.kind not in "iu":
            raise SchemaError(
                f"chosen has type {self.chosen.dtype}; expected integers, the position of the offer in the set"
            )
        bad = (self.chosen < 0) | (self.chosen >= k)
        if bad.any():
            raise InvalidInputError(
                f"chosen is outside 0..{k - 1} in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; expected the position "
                "of the shown offer in the offer set"
            )
        bad = ~self.table.eligible[np.arange(n), self.chosen]
        if bad.any():
            raise SupportError(
                f"chosen was not eligible in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; expected the set that the "
                "policy drew from: log it, or leave these rows out"
            )
        bad = ~((self.propensity > 0) & (self.propensity <= 1))
        if bad.any():
            first = int(np.argmax(bad))
            raise SupportError(
                f"propensity is outside (0, 1] in {int(bad.sum())} rows, the first at {first} ({self.propensity[first]:g}); "
                "log the probability with which the shown offer was drawn, or drop rows that were not drawn"
            )
        bad = ~np.isfinite(self.reward)
        if bad.any():
            raise InvalidInputError(
                f"reward is not finite in {int(bad.sum())} rows, the first at {int(np.argmax(bad))}; "
                "leave out rows whose window is still open instead of filling them"
            )
        if self.probabilities is not None:
            self._check_probabilities(self.probabilities)

    def _check_probabilities(self, probabilities: FloatArray) -> None:
        if probabilities.shape != self.table.eligible.shape:
            raise SchemaError(f"probabilities have shape {probabilities.shape}; expected {self.table.eligible.shape}")
        off = ~(np.abs(probabilities.sum(axis=1) - 1.0) <= 1e-6)
        if off.any():
            raise SupportError(
                f"logged probabilities do not sum to 1 in {int(off.sum())} rows, the first at {int(np.argmax(off))}; expected one "
                "distribution over the offers in every row"
            )
        if (probabilities < 0).any():
            off = (probabilities < 0).any(axis=1)
            raise SupportError(
                f"logged probabilities are below 0 in {int(off.sum())} rows, the first at {int(np.argmax(off))}; expected a "
                "distribution over the offers in every row"
            )
        shown = probabilities[np.arange(len(self.chosen)), self.chosen]
        off = ~(np.abs(shown - self.propensity) <= 1e-6)
        if off.any():
            raise SupportError(
                f"propensity differs from the logged distribution in {int(off.sum())} rows, the first at {int(np.argmax(off))}; "
                "expected the shown offer's own entry: are the distributions in the order of the offer set?"
            )

    def __len__(self) -> int:
        return len(self.chosen)

    def take(self, rows: NDArray[Any] | slice) -> InteractionBatch:
        """Return the chosen rows, in the order asked for."""

        def cut(column: Any) -> Any:
            return None if column is None else column[rows]

        return InteractionBatch(
            table=self.table.take(rows),
            chosen=self.chosen[rows],
            propensity=self.propensity[rows],
            reward=self.reward[rows],
            probabilities=cut(self.probabilities),
            decision_ids=cut(self.decision_ids),
            policies=cut(self.policies),
            variants=cut(self.variants),
            phases=cut(self.phases),
            variant_probability=cut(self.variant_probability),
            is_reward_weighted=self.is_reward_weighted,
        )

    def with_reward(self, reward: FloatArray) -> InteractionBatch:
        """Return the same decisions judged by another reward."""
        return replace(self, reward=reward)


_NO_EXCLUDED: Mapping[OfferId, str] = MappingProxyType({})


class Decision(NamedTuple):
    """One offer chosen for one subject, with the distribution it was drawn from; never edited.

    ``probabilities`` run over ``offers`` (the eligible ones, in catalogue order) after the explore share
    was mixed in; ``context`` and ``vectors`` are values, never references, so that a decision can be
    recomputed after the features behind it have moved on. A tuple, since a frozen dataclass of so many fields takes three times
    as long to make.
    """

    id: DecisionId
    placement: PlacementId
    subject: SubjectId
    at: datetime
    offers: tuple[OfferId, ...]
    probabilities: tuple[float, ...]
    chosen: int
    offer_set_revision: str
    policy: PolicyRef
    snapshot: str
    rung: str
    explore_share: float
    uniform: float
    secret_version: int
    feature_space: str
    context: Features
    vectors: Mapping[str, tuple[float, ...]]
    event_cursor: int
    experiment: str | None = None
    phase: int | None = None
    variant: str | None = None
    variant_probability: float | None = None
    excluded: Mapping[OfferId, str] = _NO_EXCLUDED
    recorded: bool = True
    activated: bool = True

    @property
    def offer(self) -> OfferId:
        """The offer that was chosen."""
        return self.offers[self.chosen]

    @property
    def propensity(self) -> float:
        """Probability with which it was chosen, given the variant."""
        return self.probabilities[self.chosen]


@dataclass(frozen=True, slots=True)
class Reward:
    """Something that came of one decision: an append-only fact."""

    id: str
    decision: DecisionId
    kind: str
    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Outcome:
    """Something that became known of a subject (billing knows a customer, not a decision)."""

    id: str
    subject: SubjectId
    kind: str
    value: float
    at: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """Behaviour of a subject: what sequences are built from."""

    id: str
    subject: SubjectId
    kind: str
    item: str
    value: float
    at: datetime
