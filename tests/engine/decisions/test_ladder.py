"""A slow or failing policy steps down for a stated time; who has waited too long gets the plain answer at once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.ladder import COOL_DOWN_S, MOST_BAD, Ladder, Rung
from engine.registry.versions import LoadedPolicy, Registry
from engine.store.database import Database, sqlite_url
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray, OfferSet, PolicyRef
from tests.engine.service_world import offer


class Timer:
    """A monotonic clock that policies move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """Uniform, after a time that is set."""

    name = "slow"
    traits = PolicyTraits()

    def __init__(self, timer: Timer, takes_s: float, *, fails: bool = False) -> None:
        self.timer, self.takes_s, self.fails, self.n_calls = timer, takes_s, fails, 0

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """Uniform over eligible offers."""
        self.n_calls += 1
        self.timer.now += self.takes_s
        if self.fails:
            raise ValueError("by design")
        return np.asarray(table.eligible / table.eligible.sum(axis=1, keepdims=True))


class World:
    """A ladder over one policy and one fallback."""

    def __init__(self, registry: Registry) -> None:
        self.timer = Timer()
        self.n_published: Counter[str] = Counter()
        self.registry = registry
        self.ladder = Ladder(registry, deadline_s=0.05, monotonic=self.timer)
        self.table = DecisionTable(OfferSet([offer(f"o{i}") for i in range(3)]), np.ones((1, 3), dtype=np.bool_))

    def publish(self, ref: str, policy: Slow) -> Slow:
        """Put a version in place, or a newer snapshot of it."""
        name, version = ref.split("@")
        self.registry.publish(ref, LoadedPolicy(policy, PolicyRef(name, version), version, "", self.n_published[ref]))
        self.n_published[ref] += 1
        return policy

    def draw(self, *, fallback: str | None = None, waited_s: float = 0.0) -> Rung:
        """One decision by p@1."""
        return self.ladder.draw(
            "p@1",
            self.table,
            uniform=0.5,
            explore_share=0.1,
            order=("o2",),
            fallback=fallback,
            waited_s=waited_s,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A ladder whose registry has an empty store."""
    database = Database(sqlite_url(tmp_path / "store.db"))
    database.upgrade()
    return World(Registry(database, tmp_path))


def test_a_slow_policy_is_left_alone_for_the_cool_down_and_then_tried_again(world: World) -> None:
    """Its late answers count (they are valid); after so many in a row it rests; the first quick answer clears it."""
    slow = world.publish("p@1", Slow(world.timer, 0.2))
    assert [world.draw().name for _ in range(MOST_BAD)] == ["policy"] * MOST_BAD
    rested = world.draw()
    assert (rested.name, slow.n_calls) == ("baseline", MOST_BAD)
    assert rested.probabilities == pytest.approx([0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3])
    assert "left alone" in rested.faults[0]
    world.timer.now += COOL_DOWN_S
    slow.takes_s = 0.0
    assert [world.draw().name for _ in range(MOST_BAD + 1)] == ["policy"] * (MOST_BAD + 1)


def test_still_slow_after_the_cool_down_it_rests_again_at_once(world: World) -> None:
    """One decision, not another three, finds out."""
    slow = world.publish("p@1", Slow(world.timer, 0.2))
    for _ in range(MOST_BAD):
        world.draw()
    world.timer.now += COOL_DOWN_S
    assert (world.draw().name, world.draw().name, slow.n_calls) == ("policy", "baseline", MOST_BAD + 1)


def test_a_new_snapshot_starts_with_a_clean_record(world: World) -> None:
    """What is left alone is the snapshot, not the policy."""
    world.publish("p@1", Slow(world.timer, 0.0, fails=True))
    assert [world.draw().name for _ in range(MOST_BAD + 1)] == ["baseline"] * (MOST_BAD + 1)
    world.publish("p@1", Slow(world.timer, 0.0))
    assert world.draw().name == "policy"


def test_the_fallback_policy_decides_before_the_baseline_order_does(world: World) -> None:
    """A placement may name a plain policy for when its own cannot; the rung and the policy that decided are logged."""
    world.publish("p@1", Slow(world.timer, 0.0, fails=True))
    world.publish("plain@1", Slow(world.timer, 0.0))
    rung = world.draw(fallback="plain@1")
    assert (rung.name, str(rung.loaded.ref)) == ("fallback", "plain@1")
    assert rung.probabilities == pytest.approx([1 / 3] * 3)
    assert world.draw(fallback="absent@1").name == "baseline"


def test_who_has_waited_longer_than_the_deadline_does_not_wait_for_a_policy_too(world: World) -> None:
    """No policy is asked."""
    policy = world.publish("p@1", Slow(world.timer, 0.0))
    rung = world.draw(waited_s=0.06)
    assert (rung.name, policy.n_calls) == ("baseline", 0)
    assert "waited 60 ms" in rung.faults[0]
    assert world.draw(waited_s=0.04).name == "policy"
