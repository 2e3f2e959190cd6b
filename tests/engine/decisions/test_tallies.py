"""Counts of a placement: what is kept and what has come since are together what a count of everything gives."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from engine.decisions import tallies
from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.decisions.service import DecisionService
from engine.decisions.tallies import newest_reward, tally_up
from engine.store.database import Database
from tests.engine.service_world import open_shop, shop

_PLACEMENTS = ("shop", "menu")
_JOINED = "FROM rewards r JOIN decisions d ON d.id = r.decision WHERE d.placement = :placement"


def counted(database: Database, placement: str) -> tuple[int, int, int, str | None]:
    """Decisions, those for machines, rewards, and the decision of the newest reward, by counting the whole history."""
    ((n, n_bots),) = database.rows(
        "SELECT count(*), coalesce(sum(CASE WHEN policy LIKE 'bot@%' THEN 1 ELSE 0 END), 0) FROM decisions "
        "WHERE placement = :placement",
        placement=placement,
    )
    ((n_rewards,),) = database.rows(f"SELECT count(*) {_JOINED}", placement=placement)
    last = database.rows(f"SELECT d.id {_JOINED} ORDER BY r.ledger_offset DESC LIMIT 1", placement=placement)
    return int(n), int(n_bots), int(n_rewards), last[0][0] if last else None


def told(service: DecisionService, placement: str) -> tuple[int, int, int, str | None]:
    """The same, as the placement's status and its newest reward tell."""
    status = service.status(placement)
    last = newest_reward(service.database, tally_up(service.database, placement))
    return status.n_decisions, status.n_bot_decisions, status.n_rewards, last.decision if last else None


def test_what_is_kept_and_what_came_since_equal_a_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decisions, machines, rewards that come first, late or twice, erased people: at every moment as many as a count finds."""
    monkeypatch.setattr(tallies, "KEPT_EVERY", 7)
    rng = random.Random(5)
    with open_shop(tmp_path, placements=[shop(), shop(placement="menu")]) as service:
        for i in range(120):
            place, role = rng.choice(_PLACEMENTS), "bot" if rng.random() < 0.2 else "policy"
            if rng.random() < 0.3:
                service.reward(RewardRequest(f"d{i}", "subscribed", must_join=False))
            service.decide(DecisionRequest(place, f"u{i % 9}", id=f"d{i}", role=role))  # type: ignore[arg-type]
            for _ in range(rng.randrange(3)):
                service.reward(RewardRequest(f"d{rng.randrange(i + 1)}", rng.choice(("subscribed", "refund"))))
            if i == 60:
                service.erase("u3")
            if rng.random() < 0.4:
                assert [told(service, p) for p in _PLACEMENTS] == [counted(service.database, p) for p in _PLACEMENTS]
        ((kept,),) = service.database.rows("SELECT next_offset FROM tally_cursor")
        assert service.database.head() - kept < 7 + 6
        assert [told(service, p) for p in _PLACEMENTS] == [counted(service.database, p) for p in _PLACEMENTS]
        assert all(n > 0 for p in _PLACEMENTS for n in told(service, p)[:3])


def test_two_that_count_at_once_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stretch that another process has added meanwhile is not added again."""
    with open_shop(tmp_path) as service:
        for i in range(20):
            service.decide(DecisionRequest("shop", f"u{i}", id=f"d{i}"))
        database = service.database
        monkeypatch.setattr(tallies, "KEPT_EVERY", 1)
        count = tallies._counted
        inside = False

        def counted_twice(database: Database, *, first: int, end: int) -> dict[tuple[str, str], tallies.Tally]:
            nonlocal inside
            if not inside:
                inside = True
                tally_up(database, "shop")
            return count(database, first=first, end=end)

        monkeypatch.setattr(tallies, "_counted", counted_twice)
        assert sum(t.n_decisions for t in tally_up(database, "shop").values()) == 20
        assert database.rows("SELECT sum(n_decisions) FROM placement_tallies") == [(20,)]
        assert sum(t.n_decisions for t in tally_up(database, "shop").values()) == 20
