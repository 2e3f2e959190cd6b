"""Who is chosen by the log: never the incumbent under another name while there is anybody else."""

from __future__ import annotations

import numpy as np

from offline_eval.panel import Panel, evaluate
from offline_eval.ranking import best, differing, same_as_incumbent
from policies.fixed import FixedOrder, Uniform
from policies.protocols import Policy
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet


def _panel(candidates: dict[str, Policy]) -> Panel:
    """Three offers that earn the same, shown evenly."""
    rng = np.random.default_rng(4)
    n = 1_003
    table = DecisionTable(OfferSet([Offer(OfferId(o)) for o in "abc"]), np.ones((n, 3), dtype=np.bool_))
    log = InteractionBatch(table, rng.integers(0, 3, n), np.full(n, 1 / 3), (rng.random(n) < 0.3).astype(np.float64))
    incumbent: Policy = FixedOrder(("a", "b", "c"))
    return evaluate(
        log, {"incumbent": incumbent, **candidates}, incumbent="incumbent", explore_share=0.07, n_resamples=20
    )


def test_what_shows_the_same_is_chosen_only_where_nobody_shows_anything_else() -> None:
    """A copy of the incumbent has the best verdict, for nothing is uncertain of it, and yet the real candidate goes on."""
    copy = FixedOrder(("a", "c", "b"))
    panel = _panel({"copy": copy, "other": FixedOrder(("b", "a", "c")), "even": Uniform()})
    assert same_as_incumbent(panel) == ("copy",)
    assert best(panel) == "copy"
    assert best(differing(panel)) != "copy"
    assert best(differing(_panel({"copy": copy}))) == "copy"
