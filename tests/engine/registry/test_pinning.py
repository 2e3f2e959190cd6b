"""A placement keeps the version it was given."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from engine.decisions.opening import open_service
from engine.offers.placement import CatalogueOffer, Placement
from policies.fixed import FixedOrder
from policies.records import Offer, OfferId


def test_a_bare_name_is_pinned_to_its_newest_version(tmp_path: Path) -> None:
    """A later registration under the same name changes no placement by itself, and the version is loaded once."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    offers = tuple(CatalogueOffer(Offer(OfferId(o))) for o in ("a", "b", "c"))
    with open_service(tmp_path, clock=lambda: at) as service:
        first = service.policies.register(FixedOrder(("a",)).to_artifact(), name="rule", at=at)
        service.put_placement(Placement("page", offers, policy="rule"))
        service.policies.register(FixedOrder(("b",)).to_artifact(), name="rule", at=at)
        assert service.placement("page")[0].policy == str(first)
        assert service.policies.load(str(first)) is service.policies.load(str(first))
