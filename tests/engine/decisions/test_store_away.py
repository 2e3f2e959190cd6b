"""What needs the store and does not get it: visitors are answered all the same, and nobody waits for a read in the loop."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import event

from engine.decisions.configuration import Configuration
from engine.decisions.follower import Follower
from engine.decisions.requests import DecisionRequest, IdentifyRequest, OutcomeRequest, PageRequest, Slot
from engine.decisions.service import DecisionService
from engine.offers.limits import Budget, FrequencyCap, Limits
from engine.offers.placement import CatalogueOffer, Placement
from policies.errors import StoreUnavailableError
from policies.features import FeatureSpace
from policies.linear import LinUCB
from policies.records import DecisionTable
from tests.engine.service_world import START, offer, open_shop, shop

AWAY = ("links", "decisions", "assignments", "rewards")


@contextmanager
def away(service: DecisionService) -> Iterator[None]:
    """A store that answers no question about people and decisions, nor takes any in."""
    names = [(table, f"{table}_away") for table in AWAY]
    for pairs in (names, [(new, old) for old, new in names]):
        with closing(sqlite3.connect(service.database.sqlite_path)) as other:
            for old, new in pairs:
                other.execute(f"ALTER TABLE {old} RENAME TO {new}")
        if pairs is names:
            yield


@contextmanager
def statements(service: DecisionService) -> Iterator[list[tuple[str, int]]]:
    """What is read meanwhile, and by which thread."""
    found: list[tuple[str, int]] = []

    def note(_c: object, _d: object, sql: str, *_: object) -> None:
        found.append((sql, threading.get_ident()))

    event.listen(service.database.engine, "before_cursor_execute", note)
    yield found
    event.remove(service.database.engine, "before_cursor_execute", note)


def test_a_visitor_nobody_knows_is_answered_while_the_store_is_away(tmp_path: Path) -> None:
    """With links, a cap and a budget, each kind of request gets the unrecorded baseline offer, and is recorded again afterwards."""
    budget = Budget("views", "price_eur", 99.0, START, START.replace(year=2027))
    limits = Limits(caps=(FrequencyCap("once", 1, 9.0),), budgets=(budget,))
    with open_shop(tmp_path, placements=[shop(explore_share=0.9, limits=limits)]) as service:
        service.decide(DecisionRequest("shop", "cookie"))
        service.identify(IdentifyRequest("cookie", "customer"))
        ask = DecisionRequest("shop", "new")
        with away(service):
            answers = [
                service.decide(ask),
                service.decide(ask._replace(ttl_s=600.0)),
                service.decide(ask._replace(explain=True)),
                asyncio.run(service.adecide(ask)),
                *service.decide_many([ask, ask._replace(subject="other")]),
            ]
            page = PageRequest(ask._replace(id="page"), (Slot("one"), Slot("two")))
            slots = [service.decide_page(page), service.decide_page(replace(page, decision=ask._replace(ttl_s=600.0)))]
            for answer in answers:
                assert (answer.decision.recorded, answer.decision.rung) == (False, "unrecorded")
                assert (answer.decision.offer, answer.payload) == ("a", {"title": "Offer a"})
            assert answers[2].explanation is not None
            assert [[a.decision.offer for _, a in p.slots] for p in slots] == [["a", "b"], ["a", "b"]]
            assert not any(a.decision.recorded for p in slots for _, a in p.slots)
            with pytest.raises(StoreUnavailableError):
                service.decide(ask._replace(dry_run=True))
        assert service.decide(ask).decision.recorded


def test_a_follower_outlives_any_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A look that raises what nobody expects is logged; it and the others are called again."""
    looks: list[str] = []

    def broken() -> None:
        looks.append("broken")
        raise ZeroDivisionError("by design")

    with caplog.at_level(logging.WARNING):
        follower = Follower([broken, lambda: looks.append("sound")], every_s=0.001)
        deadline = time.monotonic() + 30
        while looks.count("sound") < 3 and time.monotonic() < deadline:
            time.sleep(0.005)
        follower.close()
    assert looks.count("sound") >= 3
    assert looks.count("broken") >= 3
    assert "by design" in caplog.text


def test_a_shared_store_reloads_nothing_that_has_not_changed(tmp_path: Path) -> None:
    """With dated and stocked offers a look counts the stock that others have used, and keeps the placement as it is."""
    entries = (CatalogueOffer(offer("rare"), stock=2), CatalogueOffer(offer("dated"), starts_at=START))
    place = Placement("p", entries, baseline=("rare",), explore_share=0.0)
    with open_shop(tmp_path, placements=[place]) as service:
        other = Configuration(service.database, is_shared=True)
        live = other.placement("p")
        service.decide(DecisionRequest("p", "u"))
        other.refresh()
        assert other.placement("p") is live
        assert live.shown == {"rare": 1}


def test_what_an_outcome_is_attributed_to_is_not_read_in_the_loop(tmp_path: Path) -> None:
    """Other requests go on while the store is asked."""
    with open_shop(tmp_path) as service:
        made = service.decide(DecisionRequest("shop", "u")).decision
        with statements(service) as found:
            receipt = asyncio.run(service.aoutcome(OutcomeRequest("u", "subscribed")))
        assert receipt.attributed_to == (made.id,)
        assert found
        assert threading.get_ident() not in {thread for _, thread in found}


def test_an_apprentice_s_decisions_do_not_look_up_its_version_each(tmp_path: Path) -> None:
    """The versions are read once, not by each decision; a policy that is gone leaves the baseline."""
    with open_shop(tmp_path) as service:
        table = DecisionTable(shop().offer_set, np.ones((4, 3), dtype=np.bool_), {"x": np.arange(4.0)})
        learner = LinUCB(FeatureSpace.fit(table))
        ref = str(service.policies.register(learner.to_artifact(), name="p", at=START))
        service.put_placement(shop(policy=ref))
        ask = DecisionRequest("shop", "u", {"x": 1.0}, role="apprentice")
        assert str(service.decide(ask).decision.policy) == ref
        with statements(service) as found:
            assert service.decide(ask).decision.rung == "apprentice"
        assert not [sql for sql, _ in found if "policy_versions" in sql]
