"""The fault test: a real service over several days, one fault at a time; the right alarm rings, and only that one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from engine.monitoring.faults import FAULTS, Known
from engine.monitoring.rehearsal import Rehearsal

SEEDS = (11, 12, 13)
HEALTHY_DAYS = 5
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, Path], Rehearsal]:
    """Copies of a site with five healthy days behind it, by seed."""
    made: dict[int, Rehearsal] = {}

    def copy(seed: int, to: Path) -> Rehearsal:
        if seed not in made:
            made[seed] = Rehearsal(tmp_path_factory.mktemp("healthy") / "home", seed=seed)
            made[seed].live(HEALTHY_DAYS)
            made[seed].close()
        return made[seed].copy(to)

    return copy


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_rings_on_a_healthy_site(site: Callable[[int, Path], Rehearsal], tmp_path: Path, seed: int) -> None:
    """Without a fault no alarm rings, whenever it is looked at."""
    here = site(seed, tmp_path / "home")
    looks = here.live(look_every_h=6)
    here.close()
    assert [[c.alarm for c in report.ringing] for report in looks] == [[]] * 4
    assert {c.state for c in looks[-1].checks} <= {"ok", "off"}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_the_right_alarm_rings_and_only_that_one(
    site: Callable[[int, Path], Rehearsal], tmp_path: Path, fault: Known, seed: int
) -> None:
    """A day with a fault ends with its alarm; on the way no other one has rung."""
    here = site(seed, tmp_path / "home")
    looks = here.live(fault=fault.make(), look_every_h=12)
    here.close()
    assert [c.alarm for c in looks[-1].ringing] == [fault.alarm], looks[-1].to_json()["checks"]
    assert {c.alarm for report in looks for c in report.ringing} == {fault.alarm}
