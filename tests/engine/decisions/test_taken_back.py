"""Seen and not taken back: one rule for stock, caps, budgets, kept decisions, history and retries."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.experiments.history import history_of
from engine.offers.limits import Budget, FrequencyCap, Limits
from engine.offers.placement import CatalogueOffer, Placement
from engine.store.backends import opener
from engine.store.database import Database, sqlite_url
from engine.store.facts import void_row
from engine.store.writer import ThreadWriter
from tests.engine.service_world import SECRET, START, Clock, offer, open_shop, shop

CAP = FrequencyCap("once", 1, 9.0)


def take_back(service: DecisionService, decision_id: str) -> None:
    """Void a decision, as the log does where its caller was answered before the disk was."""
    service.writer.submit([void_row(decision_id, START)]).result(30)


def rare(stock: int) -> Placement:
    """A placement whose first offer runs out."""
    entries = (CatalogueOffer(offer("rare"), stock=stock), CatalogueOffer(offer("common")))
    return Placement("p", entries, baseline=("rare", "common"), explore_share=0.0)


def shown(folder: Path, *, is_shared: bool) -> list[str]:
    """Two offers that a server gives which starts over what is stored."""
    database = Database(sqlite_url(folder / "nextoffer.db"))
    writer = ThreadWriter(opener(database))
    with DecisionService(
        database, writer, artifacts=folder / "artifacts", secret=SECRET, clock=Clock(), is_shared=is_shared
    ) as service:
        return [service.decide(DecisionRequest("p", f"v{i}")).decision.offer for i in range(2)]


@pytest.mark.parametrize("is_restarted", [True, False])
def test_an_offer_activated_later_uses_up_stock(tmp_path: Path, is_restarted: bool) -> None:
    """Of two in stock one is seen after its decision: one is left, at once and after a restart; twice is once."""
    with open_shop(tmp_path, placements=[rare(2)]) as service:
        late = service.decide(DecisionRequest("p", "u", is_activated=False)).decision
        assert late.offer == "rare"
        service.decide(DecisionRequest("p", "nobody", is_activated=False))
        for _ in range(2):
            service.activate(late.id)
        if not is_restarted:
            found: list[str] = [service.decide(DecisionRequest("p", f"v{i}")).decision.offer for i in range(2)]
    if is_restarted:
        found = shown(tmp_path, is_shared=False)
    assert found == ["rare", "common"]


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_was_taken_back_or_shown_to_a_machine_uses_up_no_stock(tmp_path: Path, is_shared: bool) -> None:
    """One in stock, one decision taken back, and one of a machine that activated: it is there for the next visitor."""
    with open_shop(tmp_path, placements=[rare(1)]) as service:
        service.activate(service.decide(DecisionRequest("p", "crawler", role="bot")).decision.id)
        take_back(service, service.decide(DecisionRequest("p", "u")).decision.id)
    assert shown(tmp_path, is_shared=is_shared) == ["rare", "common"]


def test_caps_and_budgets_count_nothing_that_was_taken_back(tmp_path: Path) -> None:
    """A decision nobody was answered with is no view, and neither it nor its reward costs anything."""
    span = (START - timedelta(days=1), START + timedelta(days=1))
    views, contracts = (Budget(kind or "views", "price_eur", 9.0, *span, kind) for kind in (None, "subscribed"))
    with open_shop(tmp_path, placements=[shop(1, explore_share=0.0, limits=Limits(caps=(CAP,)))]) as service:
        counts, offers = service._pipeline._counts, shop(1).offer_set
        gone = service.decide(DecisionRequest("shop", "u")).decision
        service.reward(RewardRequest(gone.id, "subscribed"))
        assert [counts.spent("shop", b, offers) for b in (views, contracts)] == [1.0, 1.0]
        take_back(service, gone.id)
        counts.forget()
        assert [counts.spent("shop", b, offers) for b in (views, contracts)] == [0.0, 0.0]
        assert service.decide(DecisionRequest("shop", "u")).decision.offer == "a"


def test_a_retry_of_what_was_taken_back_does_not_say_recorded(tmp_path: Path) -> None:
    """The same id again, and reading it, say that the decision is no exposure; recorded after a void it is one."""
    with open_shop(tmp_path) as service:
        request = DecisionRequest("shop", "u", id="d1")
        assert service.decide(request).decision.recorded
        take_back(service, "d1")
        for again in (service.decide(request).decision, service.get_decision("d1")):
            assert (again.recorded, again.activated) == (False, False)
        take_back(service, "d2")
        later = service.decide(request._replace(id="d2")).decision
        for again in (later, service.decide(request._replace(id="d2")).decision, service.get_decision("d2")):
            assert (again.recorded, again.activated) == (True, True)


def test_a_kept_decision_that_was_recorded_after_its_void_is_kept(tmp_path: Path) -> None:
    """A void before the decision takes nothing back: a reload gets the same one; a void after it does."""
    ask = DecisionRequest("shop", "u1", ttl_s=600.0)
    with open_shop(tmp_path / "other") as service:
        first_id = service.decide(ask).decision.id
    with open_shop(tmp_path, placements=[shop(explore_share=0.9)]) as service:
        take_back(service, first_id)
        first = service.decide(ask).decision
        assert first.id == first_id
        assert service.decide(ask).decision == first
        other = service.decide(ask._replace(subject="u2")).decision
        take_back(service, other.id)
        assert service.decide(ask._replace(subject="u2")).decision.id != other.id


def test_the_history_of_a_visitor_says_what_was_seen(tmp_path: Path) -> None:
    """Activated later is seen; never activated, or taken back, is not."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        for decision_id, is_activated in (("now", True), ("later", False), ("never", False), ("gone", True)):
            service.decide(DecisionRequest("shop", "u", id=decision_id, is_activated=is_activated))
            clock.forward(minutes=1)
        service.activate("later")
        take_back(service, "gone")
        _, decisions, _ = history_of(service.database, "u")
        assert {d.id: d.is_seen for d in decisions} == {"now": True, "later": True, "never": False, "gone": False}
