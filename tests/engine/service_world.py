"""A small placement, policies and a clock that tests move by hand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from engine.decisions.opening import open_service
from engine.decisions.service import DecisionService
from engine.offers.placement import CatalogueOffer, Placement
from engine.offers.stored import definition_of
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.rewards.export import export_interactions
from engine.store.database import Database
from policies.records import InteractionBatch, Offer, OfferId

SECRET = b"a secret of sixteen or more bytes"
START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self, now: datetime = START) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **parts: float) -> datetime:
        """Move on and return the new time."""
        self.now += timedelta(**parts)
        return self.now


def offer(offer_id: str, price_eur: float = 1.0) -> Offer:
    """An offer with one feature and a payload."""
    return Offer(OfferId(offer_id), {"price_eur": price_eur}, {"title": f"Offer {offer_id}"})


def shop(n_offers: int = 3, *, placement: str = "shop", policy: str | None = None, **rest: object) -> Placement:
    """A placement with offers a, b, c, … and a reward window of 30 days."""
    entries = tuple(CatalogueOffer(offer("abcdefghij"[i], 1.0 + i)) for i in range(n_offers))
    arguments: dict[str, object] = {
        "reward": RewardDefinition((RewardTerm("subscribed", 1.0), RewardTerm("refund", -0.5)), window_s=30 * DAY_S)
    }
    arguments.update(rest)
    return Placement(placement, entries, policy=policy, **arguments)  # type: ignore[arg-type]


def exported(database: Database, placement: str, *, as_of: datetime) -> InteractionBatch:
    """What has matured at a placement, by its own reward definition."""
    return export_interactions(database, placement, definition=definition_of(database, placement), as_of=as_of)


def open_shop(folder: Path, *, clock: Clock | None = None, placements: Sequence[Placement] = ()) -> DecisionService:
    """A service over a new store with some placements; by default one called ``shop`` with offers a, b, c."""
    service = open_service(folder, secret=SECRET, clock=clock or Clock())
    for placement in placements or (shop(),):
        service.put_placement(placement)
    return service
