"""The gymnasium environments keep gymnasium's contract and the simulator's."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import check_env

from policies.errors import InvalidInputError, UnknownNameError
from simulator.env import ENV_ID, CarSubscriptionEnv, CarSubscriptionVectorEnv, RewardWeights
from simulator.scenarios.car_subscription import Scenario, reference
from simulator.scenarios.named import world_named
from simulator.site import LiveSite
from simulator.spaces import reference_space


def test_passes_gymnasiums_checker() -> None:
    """The checker of gymnasium itself finds nothing."""
    check_env(gymnasium.make(ENV_ID, render_mode="ansi").unwrapped)
    assert gymnasium.make(ENV_ID).action_space.n == len(reference().offers)  # type: ignore[attr-defined]


def test_a_visit_is_told_in_words() -> None:
    """``ansi`` names the visit, what may be shown and what came of the one before; masks are those of the observation."""
    env = CarSubscriptionEnv(space=reference_space(reference(), n_subjects=200), render_mode="ansi")
    with pytest.raises(InvalidInputError, match="call reset first"):
        env.action_masks()
    _, info = env.reset(seed=1)
    assert env.render() == (
        "visit 1 on day 0, visitor; may be shown: no_offer, city_flex, city_deal, compact_year, compact_deal, suv_care, suv_deal"
    )
    np.testing.assert_array_equal(env.action_masks(), info["action_mask"].astype(bool))
    terminated = truncated = False
    while not (terminated or truncated):
        *_, terminated, truncated, info = env.step(np.int64(4))
        told = env.render()
        assert told is not None
        assert "before: compact_deal, " in told or info["shown"] != 4
        assert ("clicked" in told) == bool(info["clicked"])
    assert told is not None
    assert told.endswith("the episode is over")
    with pytest.raises(UnknownNameError, match="ansi"):
        CarSubscriptionEnv(render_mode="human")
    assert CarSubscriptionEnv(space=env.space).render() is None


def test_two_copies_with_one_seed_live_one_life() -> None:
    """A seed determines the trajectory."""
    a, b = CarSubscriptionEnv(), CarSubscriptionEnv()
    first, second = a.reset(seed=3)[0], b.reset(seed=3)[0]
    np.testing.assert_array_equal(first, second)
    for action in (1, 4, 6, 2, 0, 3):
        one, two = a.step(np.int64(action)), b.step(np.int64(action))
        np.testing.assert_array_equal(one[0], two[0])
        assert one[1:4] == two[1:4]
        if one[2] or one[3]:
            break


def test_an_ended_episode_says_so() -> None:
    """A step before reset or after the end is refused; the mask of the observation is the mask in the info."""
    env = CarSubscriptionEnv(space=reference_space(reference(), n_subjects=200))
    with pytest.raises(InvalidInputError, match="call reset first"):
        env.step(np.int64(0))
    obs, info = env.reset(seed=1)
    k = len(reference().offers)
    np.testing.assert_array_equal(obs[:k].astype(np.int8), info["action_mask"])
    for _ in range(100):
        obs, _, terminated, truncated, info = env.step(np.int64(0))
        np.testing.assert_array_equal(obs[:k].astype(np.int8), info["action_mask"])
        if terminated or truncated:
            break
    with pytest.raises(InvalidInputError, match="call reset first"):
        env.step(np.int64(0))


def test_vector_episodes_end_and_renew() -> None:
    """Finished slots get new visitors; rewards of the renewing step are zero; kept visitors earn the stated reward."""
    env = gymnasium.make_vec(ENV_ID, num_envs=64)
    env.reset(seed=5)
    ended_before = np.zeros(64, dtype=np.bool_)
    n_ended, total = 0, 0.0
    for _ in range(60):
        obs, reward, terminated, truncated, info = env.step(np.full(64, 4))
        assert (np.asarray(reward)[ended_before] == 0).all()
        parts = 0.3 * info["subscribed"] + 1.0 * info["kept_30d"]
        live = ~ended_before
        np.testing.assert_allclose(np.asarray(reward)[live], parts[live], atol=1e-6)
        ended_before = np.asarray(terminated | truncated)
        n_ended += int(ended_before.sum())
        total += float(np.asarray(reward).sum())
        assert env.observation_space.contains(obs)
    assert n_ended > 64
    assert total > 0


def test_vector_visitors_live_like_single_ones() -> None:
    """The mean reward per episode of the vector form equals that of a rollout of the same rule within four standard errors."""
    env = CarSubscriptionVectorEnv(2_000)
    env.reset(seed=11)
    total, finished = np.zeros(2_000), np.zeros(2_000, dtype=np.bool_)
    for _ in range(80):
        _, reward, terminated, truncated, _ = env.step(np.full(2_000, 6))
        total += np.where(finished, 0.0, reward)
        finished |= np.asarray(terminated | truncated)
        if finished.all():
            break
    from simulator.rollouts import rollout
    from tests.simulator.test_site import Always

    run = rollout(reference(), Always("suv_deal"), n_subjects=20_000, visit_days=1, seed=77, explore_share=0.0)
    expected = 0.3 * run.subjects.subscribed + run.subjects.kept_30d
    error = np.sqrt(expected.var() / 2_000 + expected.var() / 20_000)
    assert abs(total.mean() - expected.mean()) < 4 * error


def test_the_end_of_an_experiment_cuts_stories_short() -> None:
    """Nobody acts on or after the last day; who would is truncated, not terminated, and gets a successor."""
    env = CarSubscriptionVectorEnv(300, space=reference_space(reference(), n_subjects=200), experiment_days=6)
    env.reset(seed=2)
    n_truncated = 0
    for _ in range(15):
        assert env.kernel is not None
        days = env.kernel.calendar_day()
        assert (days[~env._done] < 6).all()
        _, _, terminated, truncated, _ = env.step(np.full(300, 4))
        assert not (terminated & truncated).any()
        n_truncated += int(truncated.sum())
    assert n_truncated > 100


def test_the_cost_of_discounts_is_told() -> None:
    """Who signs the compact deal costs a quarter of 349 EUR a month, and a reward may weigh it."""
    env = CarSubscriptionVectorEnv(
        2_000, space=reference_space(reference(), n_subjects=200), weights=RewardWeights(0.0, 0.0, 0.0, 1.0, -0.5)
    )
    env.reset(seed=2)
    n_signed = 0
    for _ in range(5):
        _, reward, _, _, info = env.step(np.full(2_000, 4))
        signed = info["subscribed"] > 0
        n_signed += int(signed.sum())
        np.testing.assert_allclose(info["discount_cost_eur"], np.where(signed, 349 * 0.25, 0.0), rtol=1e-6)
        np.testing.assert_allclose(reward, info["margin_eur"] - 0.5 * info["discount_cost_eur"], atol=1e-4)
    assert n_signed > 20


def test_actions_that_are_no_offers_are_refused() -> None:
    """A position outside the offers, a number that is no integer and a wrong count are refused before anything happens."""
    env = CarSubscriptionVectorEnv(3, space=reference_space(reference(), n_subjects=200))
    env.reset(seed=1)
    for bad, told in (([0, 8, 0], "0..8"), ([0, -1, 0], "-1..0"), ([0, 0], r"\(2,\)"), ([0.0, 0.5, 1.0], "float64")):
        with pytest.raises(InvalidInputError, match=told):
            env.step(np.asarray(bad))


def test_what_is_told_of_a_step_does_not_change_with_the_callers_array() -> None:
    """``shown`` is a copy, and -1 where a slot only got its new visitor: nothing was shown there."""
    env = CarSubscriptionVectorEnv(200, space=reference_space(reference(), n_subjects=200))
    env.reset(seed=1)
    actions, ended = np.full(200, 3), np.zeros(200, dtype=np.bool_)
    for _ in range(6):
        actions[:] = 3
        _, _, terminated, truncated, info = env.step(actions)
        actions[:] = 0
        np.testing.assert_array_equal(info["shown"] == -1, ended)
        assert (info["shown"] == 3).any()
        ended = np.asarray(terminated | truncated)
    assert ended.any()


def test_every_number_of_a_list_of_seeds_counts() -> None:
    """Equal lists give equal lives, lists that differ in one number others; a list of another length is refused."""
    env = CarSubscriptionVectorEnv(3, space=reference_space(reference(), n_subjects=200))
    first, again, other = (env.reset(seed=list(s))[0] for s in ((1, 2, 3), (1, 2, 3), (1, 2, 4)))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    with pytest.raises(InvalidInputError, match="2 seeds for 3 slots"):
        env.reset(seed=[1, 2])
    with pytest.raises(InvalidInputError, match="all or none"):
        env.reset(seed=[1, None, 2])
    with pytest.raises(InvalidInputError, match="'day'"):
        env.reset(options={"day": 3})


def test_a_scenario_goes_by_its_name() -> None:
    """A name makes the site of that name; a misspelt one, and one of other laws, are refused with the way out."""
    by_name = gymnasium.make_vec(f"simulator.env:{ENV_ID}", num_envs=2, scenario="trial")
    assert by_name.unwrapped.scenario.name == "trial"
    with pytest.raises(UnknownNameError, match="did you mean 'trial'"):
        CarSubscriptionEnv(scenario="trail")
    with pytest.raises(InvalidInputError, match="let a rollout choose"):
        CarSubscriptionEnv(scenario="habit")


@pytest.mark.parametrize(("name", "visit_days", "end"), [("everything", 20, 40), ("trial", 1, 25)])
def test_nothing_is_seen_of_what_happens_after_the_end(name: str, visit_days: int, end: int) -> None:
    """Contracts, margins and stays of an experiment that ends are those of the plain site lived up to the evening before."""
    site = world_named(name)
    assert isinstance(site, Scenario)
    site = replace(site, parameters=site.parameters.with_assumed(convert_base=-1.5))
    n, k = 2_000, len(site.offers)
    env = CarSubscriptionVectorEnv(
        n, scenario=site, space=reference_space(site, n_subjects=200), visit_days=visit_days, experiment_days=end
    )
    env.reset(seed=5)
    assert env.kernel is not None
    totals = {part: np.zeros(n) for part in ("subscribed", "kept_30d", "margin_eur")}
    alive, was_cut = np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_)
    while alive.any():
        visit = env.kernel.n_visits
        _, _, terminated, truncated, info = env.step((np.arange(n) + 3 * visit) % k)
        for part in totals:
            totals[part] += np.where(alive, info[part], 0.0)
        was_cut |= alive & truncated
        alive &= ~(terminated | truncated)
    plain = LiveSite(site, n_subjects=n, visit_days=visit_days, seed=env.kernel.seed)
    for day in range(end):
        visits = plain.visits(day)
        wanted = (plain.ids[visits.rows] + visits.visit_number * 3) % k
        may = visits.table.eligible[np.arange(len(visits)), wanted]
        shown = np.where(may, wanted, np.argmax(visits.table.eligible, axis=1))
        plain.respond(visits, np.where(plain.is_kept[visits.rows], 0, shown))
        plain.end_of_day(day)
    pairs = {"subscribed": plain.signed_day >= 0, "kept_30d": plain.is_kept, "margin_eur": plain.margin_eur}
    for part, known in pairs.items():
        differs = np.abs(totals[part] - np.asarray(known, dtype=np.float64)) > 1e-3
        assert differs.mean() <= 1e-3, part
    is_open = (plain.signed_day >= 0) & (plain.cancelled_day < 0) & ~plain.is_kept
    assert is_open.sum() > 50
    assert was_cut[is_open].mean() > 0.999


def test_visitors_do_not_arrive_after_the_end() -> None:
    """Arrivals last no longer than the experiment unless asked for, and asking for it is refused."""
    site = world_named("changing")
    assert isinstance(site, Scenario)
    space = reference_space(site, n_subjects=200)
    env = CarSubscriptionVectorEnv(500, scenario=site, space=space, experiment_days=10)
    env.reset(seed=1)
    assert env.kernel is not None
    assert env.kernel.calendar_day().max() == 9
    with pytest.raises(InvalidInputError, match="no arrivals after the end"):
        CarSubscriptionVectorEnv(5, scenario=site, space=space, visit_days=11, experiment_days=10)


def test_a_copy_lives_on_as_the_original() -> None:
    """Pickled in mid-episode, as workers and checkpoints do, an environment goes on to the same end."""
    env = CarSubscriptionVectorEnv(50, scenario="everything")
    env.reset(seed=4)
    for step in range(12):
        if step == 5:
            copy = pickle.loads(pickle.dumps(env))
        one = env.step(np.full(50, step % 8))
        if step >= 5:
            two = copy.step(np.full(50, step % 8))
            np.testing.assert_array_equal(one[0], two[0])
            np.testing.assert_array_equal(one[1], two[1])


def test_common_wrappers_take_it() -> None:
    """Episode statistics, stacked and normalised observations and time limits work on one visitor and on many."""
    space = reference_space(reference(), n_subjects=200)
    single: gymnasium.Env[Any, Any] = wrappers.RecordEpisodeStatistics(
        wrappers.TimeLimit(wrappers.FrameStackObservation(gymnasium.make(ENV_ID, space=space), 3), 2)
    )
    single.reset(seed=1)
    single.step(np.int64(0))
    _, _, terminated, truncated, info = single.step(np.int64(0))
    assert truncated or terminated
    assert info["episode"]["l"] <= 2
    many = wrappers.vector.RecordEpisodeStatistics(
        wrappers.vector.NormalizeObservation(gymnasium.make_vec(ENV_ID, num_envs=64, space=space))
    )
    many.reset(seed=1)
    totals, total = [], np.zeros(64)
    ended = np.zeros(64, dtype=np.bool_)
    for _ in range(20):
        _, reward, terminated, truncated, info = many.step(np.full(64, 4))
        total = np.where(ended, 0.0, total + reward)
        ended = np.asarray(terminated | truncated)
        if ended.any():
            totals += np.abs(info["episode"]["r"][ended] - total[ended]).tolist()
    assert len(totals) > 64
    assert max(totals) < 1e-5
