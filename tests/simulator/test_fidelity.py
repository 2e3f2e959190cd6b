"""Two logs of one world cannot be told apart; logs of different worlds can."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import InvalidInputError
from simulator.fidelity import fidelity
from simulator.habit import HabitScenario
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from tests.simulator.test_site import Uniform


def test_one_world_looks_like_itself() -> None:
    """Other visitors of the same world differ by chance only: no comparison beyond four errors, a classifier at a coin's accuracy."""
    runs = [rollout(reference(), Uniform(), n_subjects=n, seed=s) for s, n in ((1, 3_000), (2, 2_500))]
    report = fidelity(*runs)
    for distance in report.distances:
        assert abs(distance.first - distance.second) <= 4 * distance.error, distance.name
    assert abs(report.accuracy - 0.5) < 4 * report.accuracy_error


def test_other_laws_are_found_out() -> None:
    """The second family is told from the first, and so is a world with another return rate in the figure that it changes."""
    here = rollout(reference(), Uniform(), n_subjects=2_500, seed=1)
    there = fidelity(here, rollout(HabitScenario(), Uniform(), n_subjects=2_500, seed=1))
    assert there.accuracy > 0.5 + 5 * there.accuracy_error
    site = reference()
    slow = reference(parameters=site.parameters.with_assumed(return_rate_per_day=0.2))
    visits = fidelity(here, rollout(slow, Uniform(), n_subjects=2_500, seed=2)).distances[0]
    assert visits.first - visits.second > 5 * visits.error
    assert visits.p_value < 1e-6


def test_survival_by_hand() -> None:
    """Shares active after signing fall with the days and end at the share kept."""
    run = rollout(reference(), Uniform(), n_subjects=2_000, seed=3)
    report = fidelity(run, run)
    active = [d.first for d in report.distances if d.name.startswith("active")]
    assert active == sorted(active, reverse=True)
    signed = run.subjects.signed_day >= 0
    np.testing.assert_allclose(active[-1], run.subjects.kept_30d[signed].mean())
    assert all(d.p_value == 1.0 for d in report.distances)


def test_too_little_to_compare_is_refused() -> None:
    """A log of a few visitors is refused with their number."""
    few = rollout(reference(), Uniform(), n_subjects=20, seed=1)
    with pytest.raises(InvalidInputError, match="20 visitors"):
        fidelity(few, few)
