"""Stock is counted once whole and then by what has come since: the same numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest
from engine.decisions.service import DecisionService
from engine.offers.stock import StockCounts
from engine.rewards.seen import IS_SEEN
from engine.store.facts import void_row
from policies.errors import UnknownDecisionError
from tests.engine.service_world import START, open_shop, shop

OFFERS = ("a", "b", "c")


def _by_the_rule(service: DecisionService) -> dict[str, int]:
    """The count by the rule that all readers share, over the whole history."""
    sql = f"SELECT d.offer, COUNT(*) FROM decisions d WHERE d.placement = 'shop' AND {IS_SEEN} GROUP BY d.offer"
    return dict.fromkeys(OFFERS, 0) | {str(offer): int(n) for offer, n in service.database.rows(sql)}


def one_more(service: DecisionService, rng: np.random.Generator, made: list[str]) -> None:
    """One thing that may happen to stock, and some that may not."""
    kind = rng.integers(5)
    earlier = str(rng.choice(made)) if made else "none"
    if kind <= 1:
        made.append(f"d{len(made)}")
        place = "shop" if rng.random() < 0.8 else "elsewhere"
        role: Literal["bot", "policy"] = "bot" if rng.random() < 0.2 else "policy"
        service.decide(DecisionRequest(place, f"u{len(made) % 7}", id=made[-1], is_activated=kind == 0, role=role))
    elif kind == 2 and made:
        service.activate(earlier)
    elif kind == 3:  # of a decision that is there, or of one that comes only now
        service.writer.submit([void_row(earlier if rng.random() < 0.7 else f"d{len(made)}", START)]).result(30)
    elif kind == 4:
        try:
            service.activate("never made")
        except UnknownDecisionError:
            return


def check_any_order(service: DecisionService, *, seed: int, n: int) -> None:
    """After any few facts the count that goes on, one from the start, and the rule over the whole history agree."""
    rng, made = np.random.default_rng(seed), list[str]()
    going_on = StockCounts(service.database)
    for _ in range(n):
        for _ in range(int(rng.integers(1, 6))):
            one_more(service, rng, made)
        expected = _by_the_rule(service)
        assert going_on.views("shop", OFFERS) == expected
        assert StockCounts(service.database).views("shop", OFFERS) == expected
    assert sum(expected.values()) > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counting_on_is_counting_anew(tmp_path: Path, seed: int) -> None:
    """Decisions, activations, takings back before and after, machines and other placements, in any order."""
    places = (shop(explore_share=0.3), shop(placement="elsewhere"))
    with open_shop(tmp_path, placements=places) as service:
        check_any_order(service, seed=seed, n=15)


def test_an_offer_that_gets_a_limit_later_is_counted_from_its_first_view(tmp_path: Path) -> None:
    """What was shown before anybody counted counts too."""
    with open_shop(tmp_path, placements=(shop(explore_share=0.0),)) as service:
        counts = StockCounts(service.database)
        service.decide(DecisionRequest("shop", "u1"))
        assert counts.views("shop", ["b"]) == {"b": 0}
        assert counts.views("shop", ["a", "b"]) == {"a": 1, "b": 0}
        service.decide(DecisionRequest("shop", "u2"))
        assert counts.views("shop", ["a"]) == {"a": 2}
