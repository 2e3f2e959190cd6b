"""Rules that look at nothing, or at one column: uniform, a fixed order, the incumbent, most popular."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.artifact import Artifact
from policies.errors import ArtifactError, InvalidInputError, SchemaError
from policies.greedy import greedy_probabilities
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, IntArray, InteractionBatch

# Below this many showings the best offer of a stage is mostly luck: such a stage follows the overall order.
MIN_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every eligible offer alike."""

    name = "uniform"
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """One over the number of eligible offers, shape ``(n, k)``."""
        return np.asarray(table.eligible / table.eligible.sum(axis=1, keepdims=True), dtype=np.float64)

    def to_artifact(self) -> Artifact:
        """Nothing but its kind."""
        return Artifact(self.name)


@dataclass(frozen=True, slots=True)
class FixedOrder:
    """The first eligible offer of a list; a list of one is "always this offer".

    Parameters
    ----------
    order
        Offer ids, best first. Offers not in it follow in the order of their ids. Empty: the order in which
        the offers are given, which makes the policy order-sensitive.
    """

    order: tuple[str, ...] = ()
    name = "fixed_order"

    @property
    def traits(self) -> PolicyTraits:
        """Order-sensitive only without a list."""
        return PolicyTraits(is_order_sensitive=not self.order)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All probability on the first eligible offer."""
        rank = _ranks(self.order, table.offers.ids) if self.order else np.arange(table.n_offers)
        return _first_eligible(np.broadcast_to(rank, table.eligible.shape), table)

    def to_artifact(self) -> Artifact:
        """Return the list."""
        return Artifact(self.name, {"order": list(self.order)})


@dataclass(frozen=True, slots=True)
class OfferValue:
    """What the training log says about one offer in one stage.

    Parameters
    ----------
    value
        Self-normalised importance-weighted mean reward of the decisions in which it was shown.
    standard_error
        Of ``value``; nan where it was shown fewer than two times.
    """

    offer: str
    value: float
    standard_error: float
    n_shown: int


@dataclass(frozen=True)
class IncumbentRules:
    """The best single offer per stage: what a sensible team would do without a model.

    Parameters
    ----------
    stage_column
        Context column whose text (or number) names the stage; None: one stage.
    orders
        For each stage, offer ids, best first: the first eligible one is shown.
    default
        Order for stages that are not in ``orders``, and behind each stage's own.
    evidence
        What the log said, by stage (``""``: overall); empty for rules that a person wrote.
    """

    stage_column: str | None
    orders: Mapping[str, tuple[str, ...]]
    default: tuple[str, ...]
    evidence: Mapping[str, tuple[OfferValue, ...]] = field(default_factory=dict)
    name = "incumbent_rules"
    traits = PolicyTraits()

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All probability on the best eligible offer of the row's stage, shape ``(n, k)``."""
        ids = table.offers.ids
        rank = np.broadcast_to(_ranks(self.default, ids), table.eligible.shape).copy()
        if self.stage_column is not None and self.orders:
            stages = stage_names(table, self.stage_column)
            for stage, order in self.orders.items():
                rank[stages == stage] = _ranks((*order, *(o for o in self.default if o not in order)), ids)
        return _first_eligible(rank, table)

    def to_artifact(self) -> Artifact:
        """Rules and the evidence for them."""
        return Artifact(
            self.name,
            {
                "stage_column": self.stage_column,
                "orders": {stage: list(order) for stage, order in self.orders.items()},
                "default": list(self.default),
                "evidence": {
                    stage: [
                        [v.offer, v.value, None if np.isnan(v.standard_error) else v.standard_error, v.n_shown]
                        for v in values
                    ]
                    for stage, values in self.evidence.items()
                },
            },
        )


def fit_incumbent(
    batch: InteractionBatch, *, stage_column: str | None = None, min_shown: int = MIN_SHOWN
) -> IncumbentRules:
    """Find the best single offer per stage on a randomised training log.

    Offers are compared by their self-normalised importance-weighted mean reward over the decisions in which
    each was shown; the full order is kept, so that an offer that is not eligible gives way to the next best.

    Parameters
    ----------
    stage_column
        Context column that names the stage.
    min_shown
        A stage in which an offer was shown fewer times than this does not rank that offer itself: the offer
        keeps its overall place, behind those the stage ranks.

    Notes
    -----
    Each offer's mean is over the decisions in which it was eligible. Where eligibility depends on the subject,
    means of two offers speak of different subjects; the stage column should then carry the difference.
    """
    overall = _offer_values(batch, np.ones(len(batch), dtype=np.bool_))
    default = _best_first(overall, min_shown) + tuple(v.offer for v in _under(overall, min_shown))
    evidence = {"": tuple(overall)}
    orders: dict[str, tuple[str, ...]] = {}
    if stage_column is not None:
        stages = stage_names(batch.table, stage_column)
        for stage in np.unique(stages):
            values = _offer_values(batch, stages == stage)
            evidence[str(stage)] = tuple(values)
            ranked = _best_first(values, min_shown)
            if ranked:
                orders[str(stage)] = ranked
    return IncumbentRules(stage_column, orders, default, evidence)


def stage_names(table: DecisionTable, column: str) -> NDArray[np.str_]:
    """Text of a stage column, shape ``(n,)``; whole numbers are written without a fraction.

    Raises
    ------
    SchemaError
        If the table has no such column.
    """
    if column not in table.columns:
        raise SchemaError(f"stage column {column!r} is not in the table; expected one of {sorted(table.columns)}")
    values = table.columns[column]
    if values.dtype.kind == "U":
        return values
    return np.asarray([f"{v:g}" for v in values], dtype=np.str_)


def _offer_values(batch: InteractionBatch, rows: NDArray[np.bool_]) -> list[OfferValue]:
    out = []
    for position, offer in enumerate(batch.table.offers.ids):
        shown = rows & (batch.chosen == position)
        weights, rewards = 1.0 / batch.propensity[shown], batch.reward[shown]
        n = int(shown.sum())
        if n == 0:
            continue
        value = float(weights @ rewards / weights.sum())
        spread = float(np.sqrt(((weights * (rewards - value)) ** 2).sum()) / weights.sum()) if n > 1 else float("nan")
        out.append(OfferValue(offer, value, spread, n))
    return out


def _best_first(values: Sequence[OfferValue], min_shown: int) -> tuple[str, ...]:
    known = [v for v in values if v.n_shown >= min_shown]
    return tuple(v.offer for v in sorted(known, key=lambda v: (-v.value, v.offer)))


def _under(values: Sequence[OfferValue], min_shown: int) -> list[OfferValue]:
    return sorted((v for v in values if v.n_shown < min_shown), key=lambda v: (-v.n_shown, v.offer))


class MostPopular:
    """The offer with the highest mean reward lately, whoever is asking.

    Parameters
    ----------
    half_life
        Interactions after which an observation weighs half; 0: it never fades.
    prior_mean, prior_weight
        What an offer without observations is thought to earn, and how many observations that is worth: an
        optimistic mean lets new offers be tried.
    """

    name = "most_popular"
    traits = PolicyTraits()

    def __init__(self, *, half_life: float = 0.0, prior_mean: float = 0.0, prior_weight: float = 1.0) -> None:
        if half_life < 0 or not prior_weight > 0:
            raise InvalidInputError(
                f"half_life {half_life}, prior_weight {prior_weight}; expected at least 0, and above 0"
            )
        self.half_life, self.prior_mean, self.prior_weight = half_life, prior_mean, prior_weight
        self._totals: dict[str, tuple[float, float]] = {}  # offer -> faded weight, faded weight x reward

    def mean_reward(self, offer: str) -> float:
        """Faded, importance-weighted mean reward of an offer, drawn to the prior."""
        weight, total = self._totals.get(offer, (0.0, 0.0))
        return (total + self.prior_weight * self.prior_mean) / (weight + self.prior_weight)

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """All probability on the most popular eligible offer, ties shared."""
        means = np.asarray([self.mean_reward(o) for o in table.offers.ids])
        return greedy_probabilities(np.broadcast_to(means, table.eligible.shape), table.eligible)

    def learn(self, batch: InteractionBatch) -> None:
        """Add the rows in their order; learning in parts equals learning at once."""
        n = len(batch)
        if n == 0:
            return
        fade = fading(n, self.half_life)
        self._totals = {o: (w * fade.whole, t * fade.whole) for o, (w, t) in self._totals.items()}
        weights = fade.rows / batch.propensity
        added = np.bincount(batch.chosen, weights, minlength=batch.table.n_offers)
        earned = np.bincount(batch.chosen, weights * batch.reward, minlength=batch.table.n_offers)
        for position in np.unique(batch.chosen):
            offer = batch.table.offers.ids[position]
            weight, total = self._totals.get(offer, (0.0, 0.0))
            self._totals[offer] = (weight + float(added[position]), total + float(earned[position]))

    def to_artifact(self) -> Artifact:
        """Parameters and totals."""
        return Artifact(
            self.name,
            {
                "half_life": self.half_life,
                "prior_mean": self.prior_mean,
                "prior_weight": self.prior_weight,
                "offers": list(self._totals),
            },
            {"totals": np.asarray(list(self._totals.values()), dtype=np.float64).reshape(-1, 2)},
        )


@dataclass(frozen=True, slots=True)
class Fading:
    """How much older observations weigh after ``n`` new ones: ``whole`` for what was there, ``rows`` for the new ones."""

    whole: float
    rows: FloatArray


def fading(n: int, half_life: float) -> Fading:
    """Weights of a half-life counted in interactions; 0 fades nothing."""
    if half_life == 0:
        return Fading(1.0, np.ones(n))
    return Fading(0.5 ** (n / half_life), 0.5 ** (np.arange(n - 1, -1, -1) / half_life))


def _ranks(order: Sequence[str], ids: Sequence[str]) -> IntArray:
    """Place of each offer: by the list, then by id, so that the order given never matters."""
    place = {offer: i for i, offer in enumerate(order)}
    rest = {offer: len(order) + i for i, offer in enumerate(sorted(set(ids) - set(order)))}
    return np.asarray([place[o] if o in place else rest[o] for o in ids], dtype=np.int64)


def _first_eligible(rank: NDArray[Any], table: DecisionTable) -> FloatArray:
    n, k = table.eligible.shape
    out = np.zeros((n, k))
    out[np.arange(n), np.argmin(np.where(table.eligible, rank, np.iinfo(np.int64).max), axis=1)] = 1.0
    return out


def load_uniform(artifact: Artifact) -> Uniform:
    """Entry point of kind ``uniform``."""
    return Uniform()


def load_fixed_order(artifact: Artifact) -> FixedOrder:
    """Entry point of kind ``fixed_order``."""
    return FixedOrder(tuple(artifact.manifest["order"]))


def load_incumbent_rules(artifact: Artifact) -> IncumbentRules:
    """Entry point of kind ``incumbent_rules``."""
    m = artifact.manifest
    try:
        return IncumbentRules(
            m["stage_column"],
            {stage: tuple(order) for stage, order in m["orders"].items()},
            tuple(m["default"]),
            {
                stage: tuple(OfferValue(o, v, float("nan") if se is None else se, n) for o, v, se, n in values)
                for stage, values in m.get("evidence", {}).items()
            },
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"incumbent rules lack {error}; expected stage_column, orders and default") from error


def load_most_popular(artifact: Artifact) -> MostPopular:
    """Entry point of kind ``most_popular``."""
    m = artifact.manifest
    out = MostPopular(half_life=m["half_life"], prior_mean=m["prior_mean"], prior_weight=m["prior_weight"])
    out._totals = {o: (float(w), float(t)) for o, (w, t) in zip(m["offers"], artifact.arrays["totals"], strict=True)}
    return out
