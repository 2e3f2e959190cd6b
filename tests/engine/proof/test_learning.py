"""What a proof learns from: earnings ahead, sides that share nobody, a grid within its ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.proof.config import ProofConfig
from engine.proof.grid import RANGES, grid_worlds
from engine.proof.learning import CANDIDATES, SINGLE, challenge, collect, halves, learn, to_go
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet
from simulator.habit import HabitScenario
from simulator.scenarios.car_subscription import reference

CONFIG = ProofConfig.quick(Path("nowhere"))


def test_every_decision_earns_what_its_visitor_earns_later() -> None:
    """Rewards are summed from each decision to its visitor's last one, whatever the order of rows; by hand."""
    offers = OfferSet([Offer(OfferId("a")), Offer(OfferId("b"))])
    at = np.datetime64("2026-01-01", "us") + np.asarray([3, 1, 2, 1, 2]).astype("timedelta64[D]")
    subjects = np.asarray(["u", "u", "v", "v", "u"])
    table = DecisionTable(offers, np.ones((5, 2), dtype=np.bool_), subjects=subjects, at=at)
    batch = InteractionBatch(table, np.zeros(5, dtype=np.int64), np.full(5, 0.5), np.asarray([4.0, 0.0, 0.0, 2.0, 1.0]))
    np.testing.assert_allclose(to_go(batch), [4.0, 5.0, 0.0, 2.0, 5.0])


def test_nobody_is_on_both_sides() -> None:
    """Learning and judging rows have no visitor in common and leave nobody out."""
    log = collect(HabitScenario(), CONFIG, seed=3, n_subjects=300)
    kept = log.rewards["kept_30d"]
    learned, judged = halves(kept, seed=1)
    assert kept.table.subjects is not None
    assert not set(kept.table.subjects[learned].tolist()) & set(kept.table.subjects[judged].tolist())
    assert len(learned) + len(judged) == len(kept)


@pytest.mark.parametrize("confounding", [0.0, 1.5])
def test_candidates_come_back_from_their_artefacts(confounding: float) -> None:
    """Every candidate answers with a distribution, and the single offer shows the same to all of one stage."""
    log = collect(HabitScenario(), CONFIG, seed=3, n_subjects=600, confounding=confounding)
    rows = np.arange(len(log.rewards["kept_30d"]))
    candidates = learn(log, rows)
    assert tuple(candidates) == CANDIDATES
    table = log.rewards["kept_30d"].table.take(rows[:200])
    for policy in candidates.values():
        np.testing.assert_allclose(policy.probabilities(table).sum(axis=1), 1.0)
    visitors = np.flatnonzero(table.columns["stage"] == "visitor")
    shown = candidates[SINGLE].probabilities(table.take(visitors)).argmax(axis=1)
    assert len(set(shown.tolist())) == 1


def test_grid_stays_within_what_is_plausible() -> None:
    """Every point of the grid changes all assumed responses within their ranges and nothing else."""
    points = grid_worlds(5, seed=1)
    plain = reference().parameters.values()
    assert len(points) == 5
    for point in points:
        values = point.world.parameters.values()
        assert all(low <= values[name] <= high for name, (low, high) in RANGES.items())
        assert {n for n in plain if plain[n] != values[n]} <= set(RANGES)
    spread = np.asarray([list(p.at.values()) for p in points]).std(axis=0)
    assert (spread > 0).all()


def test_what_shows_the_same_is_no_challenger() -> None:
    """A candidate that shows the incumbent's offers is known without error to gain nothing, and is not chosen for that."""
    log = collect(HabitScenario(), CONFIG, seed=4, n_subjects=1_200)
    learned = challenge(log, CONFIG, seed=1)
    first = learned.candidates[SINGLE].probabilities(log.rewards["kept_30d"].table)
    incumbent = log.incumbent.probabilities(log.rewards["kept_30d"].table)
    assert (SINGLE in learned.same) == bool((first == incumbent).all())
    assert learned.challenger not in (*learned.same, *learned.loses_margin)
