"""Where a policy stands: what waits to be learned is counted by position, and as many as a count of everything finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.decisions.tallies import tally_up
from engine.learner import progress
from engine.learner.progress import Learning, learning_of
from engine.store.facts import to_us
from tests.engine.learner.test_learner import HOUR, Lab

_UNLEARNED = (
    "SELECT count(*) FROM decisions WHERE policy = :policy AND at_us <= :closed AND ledger_offset >= "
    "(SELECT coalesce(max(end_offset), 1) FROM learner_ticks WHERE policy = :policy)"
)


def stands(lab: Lab) -> tuple[Learning, int]:
    """What is told of the lab's policy, and how many wait by a count of everything."""
    database, ref = lab.service.database, str(lab.ref)
    told = learning_of(
        database,
        lab.service.policies,
        ref,
        "shop",
        tally=tally_up(database, "shop")[ref],
        window_s=HOUR.window_s,
        now=lab.clock.now,
    )
    closed_us = to_us(lab.clock.now) - round(HOUR.window_s * 1e6)
    return told, int(database.rows(_UNLEARNED, policy=ref, closed=closed_us)[0][0])


@pytest.mark.slow
def test_what_waits_to_be_learned_is_what_a_count_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first window closes, behind, learned, and behind by more than is counted."""
    lab = Lab(tmp_path)
    lab.traffic(20)
    told, n = stands(lab)
    assert (told.state, told.n_waiting, n) == ("waiting", 0, 0)
    lab.traffic(90)
    told, n = stands(lab)
    assert (told.state, told.n_waiting) == ("behind", n)
    assert n > 30
    learner = lab.learner()
    learner.tick()
    learner.publish()
    told, n = stands(lab)
    assert (told.state, told.n_waiting, n) == ("learning", 0, 0)
    lab.traffic(30)
    told, n = stands(lab)
    assert (told.state, told.n_waiting) == ("behind", n)
    monkeypatch.setattr(progress, "MOST_WAITING", n - 5)
    told, n = stands(lab)
    assert (told.n_waiting, f"at least {n - 5} decisions" in told.message) == (n - 5, True)
    lab.service.close()
