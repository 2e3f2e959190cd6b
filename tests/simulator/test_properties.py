"""What holds in every world, whatever its parameters and with everything on: worlds drawn at random, odd sizes on every axis."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from policies.errors import InvalidInputError
from policies.fixed import Uniform
from simulator.habit import AnyWorld
from simulator.kernel import VisitKernel
from simulator.rollouts import REWARDS, Rollout, rollout
from simulator.scenarios.car_subscription import OFFERS, Scenario
from simulator.spaces import reference_space
from simulator.truth import truth_of
from tests.simulator.test_site import Always
from tests.simulator.worlds import drawn_habit, drawn_world, numbers

few = settings(max_examples=4, deadline=None, derandomize=True)
PARTS = ("clicked", "subscribed", "kept_30d", "margin_eur", "discount_cost_eur")


def _lives(site: Scenario, ids: NDArray[np.int64], *, seed: int, visit_days: int) -> NDArray[np.float64]:
    """What became of each visitor in the compiled form, shape ``(n, 6)``: parts of the reward, and the number of visits."""
    kernel = VisitKernel(site, reference_space(site, n_subjects=60), n=len(ids), seed=seed, visit_days=visit_days)
    kernel.renew(np.arange(len(ids)), ids)
    out, alive = np.zeros((len(ids), len(PARTS) + 1)), np.ones(len(ids), dtype=np.bool_)
    for step in range(80):
        made = kernel.step((ids * 5 + step * 3) % len(site.offers))
        assert np.abs(kernel.observation).max() <= 10.0
        for i, part in enumerate(PARTS):
            out[:, i] += np.where(alive, getattr(made, part), 0.0)
        out[:, -1] += alive
        alive &= ~made.is_over
    assert not alive.any()
    return out


@few
@given(number=numbers, size=st.integers(1, 17))
def test_a_fate_is_the_same_in_any_company(number: int, size: int) -> None:
    """In another order, and among any number of others, a visitor lives the very same life to the last bit."""
    site, rng = drawn_world(number), np.random.default_rng(number)
    visit_days = 1 if site.calendar is None else 1 + number % 50
    ids = np.arange(203)
    whole = _lives(site, ids, seed=number, visit_days=visit_days)
    order = rng.permutation(203)
    np.testing.assert_array_equal(_lives(site, ids[order], seed=number, visit_days=visit_days), whole[order])
    some = rng.choice(203, size, replace=False)
    np.testing.assert_array_equal(_lives(site, ids[some], seed=number, visit_days=visit_days), whole[some])


def _drawn(family: str, number: int) -> AnyWorld:
    return drawn_world(number) if family == "first" else drawn_habit(number)


@pytest.mark.parametrize("family", ["first", "habit"])
@few
@given(number=numbers, cut=st.integers(1, 150))
def test_a_cohort_is_its_parts(family: str, number: int, cut: int) -> None:
    """Cut anywhere, a cohort's parts have its decisions, draws, propensities and fates."""
    site, n = _drawn(family, number), 151
    whole = rollout(site, Uniform(), n_subjects=n, visit_days=9, seed=number)
    parts = [
        rollout(site, Uniform(), n_subjects=m, visit_days=9, seed=number, first_subject=f)
        for f, m in ((0, cut), (cut, n - cut))
    ]
    for name in ("subscribed", "kept_30d", "margin_eur", "n_visits", "signed_day", "cancelled_day"):
        joined = np.concatenate([getattr(p.subjects, name) for p in parts])
        np.testing.assert_array_equal(getattr(whole.subjects, name), joined)
    assert _decisions(whole) == sorted(_decisions(parts[0]) + _decisions(parts[1]))


def _decisions(run: Rollout) -> list[tuple[str, str, int, float, float]]:
    assert run.table.subjects is not None
    assert run.table.at is not None
    propensity = run.probabilities[np.arange(len(run.chosen)), run.chosen]
    kept = run.rewards["kept_30d"]
    return sorted(zip(run.table.subjects.tolist(), run.table.at.astype(str).tolist(), run.chosen.tolist(),
                      propensity.tolist(), kept.tolist(), strict=True))  # fmt: skip


@pytest.mark.parametrize("family", ["first", "habit"])
@few
@given(number=numbers, rise=st.floats(0.5, 400.0), place=st.integers(0, 6))
def test_a_dearer_offer_is_never_taken_by_more(family: str, number: int, rise: float, place: int) -> None:
    """With one offer dearer and all luck the same, nobody clicks or signs it at a first visit who did not before."""
    site, name = _drawn(family, number), OFFERS.ids[place]
    dearer = site.repriced({name: float(OFFERS[place].features["monthly_price_eur"] or 0.0) + rise})
    n, at = 400, np.full(400, place)
    taken = []
    for one in (site, dearer):
        live = one.open(n_subjects=n, visit_days=1, seed=number)
        visits = live.visits(0)
        clicked = live.respond(visits, at).clicked
        signed = live.signing_day >= 0
        taken.append((clicked, signed))
    assert (taken[1][0] <= taken[0][0]).all()
    assert (taken[1][1] <= taken[0][1]).all()
    if place:  # no offer has no price
        assert taken[0][0].any()


@pytest.mark.parametrize("family", ["first", "habit"])
@few
@given(number=numbers)
def test_two_policies_meet_the_same_people_and_luck(family: str, number: int) -> None:
    """Under two policies the same visitors arrive on the same days looking the same, and who is shown the same answers the same."""
    site, n = _drawn(family, number), 150
    one, two = (
        rollout(site, Always(o), n_subjects=n, visit_days=5, seed=number, explore_share=0.5)
        for o in ("suv_care", "suv_deal")
    )
    first = [np.flatnonzero(run.table.columns["n_visits"] == 0) for run in (one, two)]
    order = [f[np.argsort(run.row[f])] for f, run in zip(first, (one, two), strict=True)]
    np.testing.assert_array_equal(one.row[order[0]], two.row[order[1]])
    np.testing.assert_array_equal(one.day[order[0]], two.day[order[1]])
    for name, column in one.table.columns.items():
        np.testing.assert_array_equal(column[order[0]], two.table.columns[name][order[1]])
    same = one.chosen[order[0]] == two.chosen[order[1]]
    assert 0 < same.sum() < n
    clicked = [run.rewards["clicked"][o][same] for run, o in zip((one, two), order, strict=True)]
    np.testing.assert_array_equal(clicked[0], clicked[1])


_DIGEST = """
import hashlib, sys
from pathlib import Path
from policies.errors import InvalidInputError
from policies.fixed import Uniform
from simulator.logs import save_log
from simulator.rollouts import rollout
from simulator.scenarios.named import world_named
save_log(rollout(world_named(sys.argv[1]), Uniform(), n_subjects=200, visit_days=20, seed=7), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["everything", "habit"])
def test_one_seed_one_log_in_every_process(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two processes with other hash seeds and numbers of threads write the same files to the last byte."""
    digests = []
    for hash_seed, threads in (("1", "1"), ("2", "2")):
        folder = tmp_path_factory.mktemp("log")
        environment = {
            **os.environ,
            "PYTHONHASHSEED": hash_seed,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
        }
        subprocess.run([sys.executable, "-c", _DIGEST, name, str(folder)], check=True, env=environment)
        files = sorted(folder.iterdir())
        assert len(files) == 4
        digests.append([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
    assert digests[0] == digests[1]


@pytest.mark.parametrize("family", ["first", "habit"])
@few
@given(number=numbers, as_of=st.integers(0, 90))
def test_a_log_as_of_a_day_is_the_full_log_up_to_it(family: str, number: int, as_of: int) -> None:
    """Cut on any evening, a log has the decisions, clicks and dates of the full one until then, and what it calls final is final."""
    site, n = _drawn(family, number), 120
    whole = rollout(site, Uniform(), n_subjects=n, visit_days=40, seed=number)
    cut = rollout(site, Uniform(), n_subjects=n, visit_days=40, seed=number, as_of=as_of)
    m = len(cut.chosen)
    assert cut.last_day == as_of
    assert (whole.day[:m] <= as_of).all()
    assert (whole.day[m:] > as_of).all()
    np.testing.assert_array_equal(cut.chosen, whole.chosen[:m])
    np.testing.assert_array_equal(cut.rewards["clicked"], whole.rewards["clicked"][:m])
    for name in ("signed_day", "cancelled_day"):
        full = getattr(whole.subjects, name)
        np.testing.assert_array_equal(getattr(cut.subjects, name), np.where(full <= as_of, full, -1))
    for reward in REWARDS:
        known = cut.is_known(reward)
        np.testing.assert_array_equal(cut.rewards[reward][known], whole.rewards[reward][:m][known])
        if known.any():
            np.testing.assert_array_equal(cut.interactions(reward).reward, cut.rewards[reward][known])
    done = cut.subjects.is_matured
    for name in ("subscribed", "kept_30d", "margin_eur"):
        np.testing.assert_array_equal(getattr(cut.subjects, name)[done], getattr(whole.subjects, name)[done])
    if not done.all():
        with pytest.raises(InvalidInputError, match="open windows"):
            truth_of(cut)
