"""A placement: what may be shown there, under which rules, and by which policy when no experiment says otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from engine.offers.candidates import MAX_CATALOGUE, MAX_OFFERS, CandidateRule, candidates_from_json
from engine.offers.limits import Limits, limits_from_json
from engine.rewards.definition import RewardDefinition
from policies.eligibility import EligibilityRule, rule_from_json, rule_to_json
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import Offer, OfferId, OfferSet
from policies.sampling import DEFAULT_EXPLORE_SHARE


@dataclass(frozen=True, slots=True)
class CatalogueOffer:
    """An offer with the limits it is shown under.

    Parameters
    ----------
    starts_at, ends_at
        Shown from the first until before the second; aware datetimes; None is unlimited.
    stock
        How many activated decisions may show it in all; None is unlimited.
    """

    offer: Offer
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    stock: int | None = None

    def __post_init__(self) -> None:
        for name in ("starts_at", "ends_at"):
            moment = getattr(self, name)
            if moment is not None and moment.tzinfo is None:
                raise InvalidInputError(
                    f"{name} of offer {self.offer.id!r} has no time zone; send 2026-01-31T00:00:00Z"
                )
        if self.stock is not None and self.stock < 0:
            raise InvalidInputError(
                f"stock of offer {self.offer.id!r} is {self.stock}; expected 0 or more, or none for unlimited"
            )


@dataclass(frozen=True, slots=True)
class Placement:
    """A place on a site where one offer is shown.

    Parameters
    ----------
    policy
        ``name@version`` of the registered policy that decides outside experiments; None: the baseline order.
    baseline
        Order of offers for the last rung of the ladder; offers not named follow in catalogue order.
    explore_share
        Share of decisions given to uniform exploration, in [0, 1).
    reward
        What a learner and the reports count as success here.
    fallback
        ``name@version`` of the registered policy that decides where ``policy`` cannot, before the baseline order does: one that
        is plain and quick, such as ``greedy`` over a reward model; None: the baseline order at once.
    encoder
        ``name@version`` of the registered sequence encoder whose state vector policies see as ``sequence``; None: no vector.
    doors
        What other contracts configure and a placement has no word for, by door; kept with the placement so that one revision
        holds both. Policies never see it.
    limits
        Frequency caps, mandatory offers, margin floors, budgets and diversity of a page; they need the catalogue's own offers.
    candidates
        How the offers of one decision are found in a catalogue of up to 10,000; None: all are compared, up to 200.
    """

    id: str
    offers: tuple[CatalogueOffer, ...]
    rules: tuple[EligibilityRule, ...] = ()
    policy: str | None = None
    baseline: tuple[str, ...] = ()
    explore_share: float = DEFAULT_EXPLORE_SHARE
    reward: RewardDefinition = field(default_factory=RewardDefinition)
    encoder: str | None = None
    fallback: str | None = None
    doors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    candidates: CandidateRule | None = None

    def __post_init__(self) -> None:
        if not self.id or len(self.id) > 128 or not all(c.isalnum() or c in "-_." for c in self.id):
            raise InvalidInputError(
                f"placement id {self.id!r} is not usable; expected 1 to 128 letters, digits, '-', '_' or '.'"
            )
        most = MAX_OFFERS if self.candidates is None else MAX_CATALOGUE
        if len(self.offers) > most:
            raise InvalidInputError(
                f"placement {self.id!r} has {len(self.offers)} offers; at most {MAX_OFFERS} are compared in one decision: "
                f"say how candidates are found (candidates) in up to {MAX_CATALOGUE:,}, or send them with the request"
            )
        known = self.offer_set.ids  # also refuses an empty set and duplicates
        for offer_id in self.baseline:
            if offer_id not in known:
                raise UnknownNameError(f"offer in the baseline of placement {self.id!r}:", offer_id, known)
        if not math.isfinite(self.explore_share) or not 0.0 <= self.explore_share < 1.0:
            raise InvalidInputError(f"explore_share of placement {self.id!r} is {self.explore_share}; expected [0, 1)")

    @property
    def offer_set(self) -> OfferSet:
        """The catalogue as policies see it."""
        return OfferSet([o.offer for o in self.offers])

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values that ``placement_from_json`` reads back to an equal placement."""
        return {
            "id": self.id,
            "offers": [offer_to_json(o) for o in self.offers],
            "rules": [rule_to_json(r) for r in self.rules],
            "policy": self.policy,
            "baseline": list(self.baseline),
            "explore_share": self.explore_share,
            "reward": self.reward.to_json(),
            "encoder": self.encoder,
            "limits": self.limits.to_json(),
            "candidates": None if self.candidates is None else self.candidates.to_json(),
            "fallback": self.fallback,
            "doors": {door: dict(kept) for door, kept in self.doors.items()},
        }


def placement_from_json(document: Mapping[str, Any]) -> Placement:
    """Read back what ``to_json`` wrote."""
    return Placement(
        id=document["id"],
        offers=tuple(offer_from_json(o) for o in document["offers"]),
        rules=tuple(rule_from_json(r) for r in document.get("rules", ())),
        policy=document.get("policy"),
        baseline=tuple(document.get("baseline", ())),
        explore_share=document.get("explore_share", DEFAULT_EXPLORE_SHARE),
        reward=RewardDefinition.from_json(document.get("reward", {})),
        encoder=document.get("encoder"),
        fallback=document.get("fallback"),
        doors=document.get("doors", {}),
        limits=limits_from_json(document.get("limits", {})),
        candidates=candidates_from_json(document.get("candidates")),
    )


def offer_to_json(entry: CatalogueOffer) -> dict[str, Any]:
    """Plain JSON values of one catalogue entry."""
    return {
        "id": entry.offer.id,
        "features": dict(entry.offer.features),
        "payload": dict(entry.offer.payload),
        "starts_at": None if entry.starts_at is None else entry.starts_at.isoformat(),
        "ends_at": None if entry.ends_at is None else entry.ends_at.isoformat(),
        "stock": entry.stock,
    }


def offer_from_json(document: Mapping[str, Any]) -> CatalogueOffer:
    """Read back what ``offer_to_json`` wrote."""
    starts_at, ends_at = document.get("starts_at"), document.get("ends_at")
    return CatalogueOffer(
        Offer(OfferId(document["id"]), document.get("features", {}), document.get("payload", {})),
        starts_at=None if starts_at is None else datetime.fromisoformat(starts_at),
        ends_at=None if ends_at is None else datetime.fromisoformat(ends_at),
        stock=document.get("stock"),
    )
