"""The compiled form lives the same lives as the plain one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from policies.eligibility import Condition, EligibilityRule
from policies.errors import InvalidInputError
from simulator.env import CarSubscriptionVectorEnv
from simulator.kernel import VisitKernel
from simulator.population import Population
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.scenarios.named import changing, everything, lapsed, retention, trial
from simulator.site import LiveSite
from simulator.spaces import reference_space


def _with_vectors() -> Scenario:
    people = Population.synthetic(size=211, seed=5)
    rng = np.random.default_rng(1)
    return reference(population=replace(people, vectors={"sequence": rng.normal(size=(211, 3)).astype(np.float32)}))


def _dependent() -> Scenario:
    site = retention()
    return replace(site, parameters=site.parameters.with_assumed(cancel_per_fatigue=0.1))


def _only_trials_end() -> Scenario:
    """Nobody ever leaves but on the day on which a trial ends."""
    site = trial()
    return replace(site, parameters=site.parameters.with_assumed(cancel_per_day=0.0, convert_base=-3.0))


@pytest.mark.parametrize(
    ("make", "visit_days"),
    [
        (_with_vectors, 1),
        (_dependent, 1),
        (trial, 1),
        (_only_trials_end, 1),
        (lapsed, 1),
        (changing, 50),
        (everything, 50),
    ],
    ids=["reference", "retention", "trial", "only trials end", "lapsed", "changing", "everything"],
)
def test_compiled_visitors_meet_the_fate_of_plain_ones(make: Callable[[], Scenario], visit_days: int) -> None:
    """Offer by offer, the same visitors see the same pages, click, sign, stay and earn the same in both forms.

    float32 against float64 can tip a draw that falls within 1e-6 of its threshold: one visitor in a thousand is allowed to.
    """
    scenario, n, seed = make(), 4_000, 12
    space = reference_space(scenario, n_subjects=300)
    k = len(scenario.offers)
    kernel = VisitKernel(scenario, space, n=n, seed=seed, visit_days=visit_days)
    kernel.renew(np.arange(n), np.arange(n, dtype=np.int64))
    totals = {name: np.zeros(n) for name in ("clicked", "subscribed", "kept_30d", "margin_eur")}
    seen: dict[tuple[int, int], np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
    alive, n_visits = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    for step in range(40):
        if not alive.any():
            break
        for row in np.flatnonzero(alive)[:300]:
            seen[int(row), int(kernel.day[row])] = kernel.observation[row].copy()
        parts = kernel.step((kernel.ids + step * 3) % k)
        for name in totals:
            totals[name] += np.where(alive, getattr(parts, name), 0.0)
        n_visits += alive
        alive &= ~parts.is_over
    assert not alive.any()

    site = LiveSite(scenario, n_subjects=n, visit_days=visit_days, seed=seed)
    clicks, n_compared = np.zeros(n), 0
    for day in range(59 + visit_days):
        visits = site.visits(day)
        if len(visits):
            features = space.encode_contexts(visits.table)
            for i, row in enumerate(visits.rows):
                age = day - int(site.arrival_day[row])
                if (int(row), age) in seen:
                    known = seen[int(row), age]
                    np.testing.assert_array_equal(known[:k], visits.table.eligible[i])
                    np.testing.assert_allclose(known[k:], features[i], atol=2e-5)
                    n_compared += 1
            wanted = (site.ids[visits.rows] + visits.visit_number * 3) % k
            may = visits.table.eligible[np.arange(len(visits)), wanted]
            shown = np.where(may, wanted, np.argmax(visits.table.eligible, axis=1))
            over = site.is_kept[visits.rows]  # an episode ends when the visitor is kept; the plain form lives on
            answer = site.respond(visits, np.where(over, 0, shown))
            clicks[visits.rows] += answer.clicked & ~over
        site.end_of_day(day)
    assert n_compared > 900
    pairs = {
        "clicked": clicks,
        "subscribed": site.signed_day >= 0,
        "kept_30d": site.is_kept,
        "margin_eur": site.margin_eur,
    }
    assert (site.signed_day >= 0).sum() > 50
    assert (site.cancelled_day >= 0).sum() > 10
    for name, plain in pairs.items():
        differs = np.abs(totals[name] - np.asarray(plain, dtype=np.float64)) > 1e-3
        assert differs.mean() <= 1e-3, name


def test_slots_do_not_share_luck() -> None:
    """A visitor lives the same life alone and among others, whatever slot it gets."""
    scenario = reference()
    space = reference_space(scenario, n_subjects=200)
    lives = []
    for ids in (np.asarray([7, 8, 9, 10, 11]), np.asarray([11, 3, 7])):
        kernel = VisitKernel(scenario, space, n=len(ids), seed=2)
        kernel.renew(np.arange(len(ids)), ids)
        slots = [int(np.flatnonzero(ids == wanted)[0]) for wanted in (7, 11)]
        life = []
        for step in range(6):
            kernel.step(np.full(len(ids), step % 7))
            life.append((kernel.day[slots].tolist(), kernel.observation[slots].tolist()))
        lives.append(life)
    assert lives[0] == lives[1]


def test_one_vector_seed_one_life() -> None:
    """A seed determines what a vector environment does, over renewals as well."""
    space = reference_space(reference(), n_subjects=200)
    envs = [CarSubscriptionVectorEnv(33, space=space) for _ in range(2)]
    for env in envs:
        env.reset(seed=8)
    for step in range(25):
        one, two = (env.step(np.full(33, step % 8)) for env in envs)
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def test_answers_are_copies_unless_asked_otherwise() -> None:
    """What a caller keeps of one step is not changed by the next."""
    space = reference_space(reference(), n_subjects=200)
    env = CarSubscriptionVectorEnv(5, space=space)
    first, _ = env.reset(seed=1)
    kept = first.copy()
    env.step(np.zeros(5, dtype=np.int64))
    np.testing.assert_array_equal(first, kept)
    assert env.metadata["autoreset_mode"] is gymnasium.vector.AutoresetMode.NEXT_STEP


def test_rules_on_more_than_the_stage_are_refused() -> None:
    """Where eligibility is not a table by stage the fast form says so and names the way out."""
    rule = EligibilityRule("desktop only", requires=(Condition("device", "==", "desktop"),))
    with pytest.raises(InvalidInputError, match="let a rollout choose"):
        CarSubscriptionVectorEnv(2, scenario=replace(reference(), rules=(rule,)))
