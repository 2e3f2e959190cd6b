"""Logs on disk: read back whole, valid for off-policy evaluation, and cut as of any day."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from api.cli.simulate import simulate
from api.cli.simulated_logs import log, raw
from api.cli.simulated_sites import _by_site, calibrate, fidelity
from offline_eval.censoring import RewardWindow
from offline_eval.interop.arrow import read_parquet
from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import Uniform
from policies.thompson import BetaThompson
from simulator.logs import load_log, save_log
from simulator.population import Population
from simulator.rollouts import REWARDS, RewardName, rollout
from simulator.scenarios.car_subscription import OFFERS, Scenario, reference
from simulator.scenarios.files import load_scenario
from simulator.scenarios.named import world_named
from simulator.truth import Oracle


def test_a_log_is_read_back_whole(tmp_path: Path) -> None:
    """Every array of the rollout comes back, vectors and gaps included."""
    people = Population.synthetic(size=60, seed=5)
    vectors = {"sequence": np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)}
    run = rollout(reference(population=replace(people, vectors=vectors)), Uniform(), n_subjects=150, seed=2)
    again = load_log(save_log(run, tmp_path / "log"), OFFERS)
    for name in ("chosen", "probabilities", "row", "day"):
        np.testing.assert_array_equal(getattr(again, name), getattr(run, name))
    np.testing.assert_array_equal(again.table.eligible, run.table.eligible)
    for name, column in run.table.columns.items():
        np.testing.assert_array_equal(again.table.columns[name], column)
    np.testing.assert_array_equal(again.table.vectors["sequence"], run.table.vectors["sequence"])
    np.testing.assert_array_equal(again.subjects.cancelled_day, run.subjects.cancelled_day)
    assert (again.last_day, again.policy) == (run.last_day, run.policy)


def test_a_log_is_an_input_of_off_policy_evaluation(tmp_path: Path) -> None:
    """The estimators' own reader takes the file: the same offers, propensities and rewards, open windows left out."""
    run = rollout(reference(), Uniform(), n_subjects=400, visit_days=20, as_of=40, seed=2)
    save_log(run, tmp_path / "log", reward="subscribed")
    batch = read_parquet(tmp_path / "log" / "decisions.parquet", offers=OFFERS)
    closed = run.is_known("subscribed")
    assert 0 < closed.sum() < len(closed)
    assert closed.sum() > run.subjects.is_matured[run.row].sum()  # who signs is known sooner than who stays
    np.testing.assert_array_equal(batch.chosen, run.chosen[closed])
    np.testing.assert_allclose(batch.propensity, run.probabilities[np.arange(len(closed)), run.chosen][closed])
    assert batch.reward.sum() == run.rewards["subscribed"][closed].sum()
    np.testing.assert_array_equal(batch.table.eligible, run.table.eligible[closed])


@pytest.mark.parametrize("name", REWARDS)
def test_what_has_not_come_is_missing_and_not_zero(name: RewardName, tmp_path: Path) -> None:
    """In a log that was cut, a reward is missing where it may still come, there where it came, zero where none can come any more."""
    site, as_of = world_named("habit"), 25
    whole = rollout(site, Uniform(), n_subjects=600, visit_days=30, seed=2)
    cut = rollout(site, Uniform(), n_subjects=600, visit_days=30, seed=2, as_of=as_of)
    rows = pq.read_table(save_log(cut, tmp_path / "log", reward=name) / "decisions.parquet").to_pydict()
    final = whole.rewards[name][: len(cut.chosen)]
    for i, told in enumerate(rows["reward"]):
        if told is None:
            assert not rows["is_matured"][i]
        elif name != "margin_eur":  # what a contract brings is final only with its month
            assert told == final[i]
        at, came = rows["at"][i], rows["rewarded_at"][i]
        assert (came is not None) == bool(told)
        assert came is None or (at <= came and came.date() <= date(2026, 3, 2) + timedelta(days=as_of))
    missing = [final[i] for i, told in enumerate(rows["reward"]) if told is None]
    if name == "clicked":
        assert not missing
    else:
        assert 0 < np.count_nonzero(missing) < len(missing)
    again = load_log(tmp_path / "log", OFFERS)
    for reward in REWARDS:
        np.testing.assert_array_equal(again.rewards[reward], cut.rewards[reward])


def test_a_whole_log_is_cut_by_the_estimators_own_window(tmp_path: Path) -> None:
    """Cut by ``rewarded_at`` on any day, a whole log gives the rows and rewards of decisions that old, and nothing that came later."""
    run = rollout(reference(), Uniform(), n_subjects=800, visit_days=20, seed=2)
    save_log(run, tmp_path / "log", reward="subscribed")
    at = run.table.at
    assert at is not None
    for day in (17, 30):
        window = RewardWindow(15, as_of=datetime(2026, 3, 2, tzinfo=UTC) + timedelta(days=day))
        batch = read_parquet(tmp_path / "log" / "decisions.parquet", offers=OFFERS, window=window)
        end = np.datetime64("2026-03-02") + np.timedelta64(day - 15, "D")
        old = np.flatnonzero(at <= end)
        np.testing.assert_array_equal(batch.chosen, run.chosen[old])
        np.testing.assert_array_equal(batch.reward, run.rewards["subscribed"][old])


@pytest.mark.parametrize("day", [0, 9, 40])
def test_a_cut_is_the_beginning_of_the_whole(day: int) -> None:
    """As of any day the log holds the decisions, contracts and cancellations of the whole up to that day, and nothing later."""
    whole = rollout(reference(), Uniform(), n_subjects=300, seed=4)
    cut = rollout(reference(), Uniform(), n_subjects=300, seed=4, as_of=day)
    n = int((whole.day <= day).sum())
    np.testing.assert_array_equal(cut.chosen, whole.chosen[:n])
    for name in ("signed_day", "cancelled_day"):
        known = getattr(whole.subjects, name)
        np.testing.assert_array_equal(getattr(cut.subjects, name), np.where(known <= day, known, -1))
    assert cut.last_day == day
    with pytest.raises(InvalidInputError, match="at least one of both"):
        rollout(reference(), Uniform(), n_subjects=0, seed=4)
    with pytest.raises(InvalidInputError, match="came by day 0"):
        rollout(reference(), Uniform(), n_subjects=1, visit_days=60, seed=4, as_of=0)
    with pytest.raises(InvalidInputError, match="0 or later"):
        rollout(reference(), Uniform(), n_subjects=3, seed=4, as_of=-1)


def test_other_offers_and_other_folders_are_refused(tmp_path: Path) -> None:
    """A folder without a log, and a log of other offers, are named."""
    with pytest.raises(InvalidInputError, match=r"no log\.json"):
        load_log(tmp_path, OFFERS)
    save_log(rollout(reference(), Uniform(), n_subjects=50, seed=2), tmp_path / "log")
    told = json.loads((tmp_path / "log" / "log.json").read_text())
    told["offers"][0] = "something"
    (tmp_path / "log" / "log.json").write_text(json.dumps(told))
    with pytest.raises(InvalidInputError, match="name the site it came from"):
        load_log(tmp_path / "log", OFFERS)


def test_a_log_is_written_over_an_earlier_one(tmp_path: Path) -> None:
    """The same command again replaces the log and the site beside it, whatever site was there; other laws leave none."""
    for scenario in ("trial", "reference", "habit"):
        assert log(out=tmp_path / "log", scenario=scenario, subjects=60) == 0
        if scenario != "habit":
            assert load_scenario(tmp_path / "log" / "site").rules == world_named(scenario).rules
    assert not (tmp_path / "log" / "site").exists()


def test_a_learner_learns_while_its_log_is_lived(tmp_path: Path) -> None:
    """Decisions of a log and of raw files are those of a learner that learns every evening, by default from what the scenario scores."""
    common = {"n_subjects": 150, "visit_days": 50, "seed": 1}
    for asked, learned in (("clicked", "clicked"), (None, "kept_30d")):
        assert log(out=tmp_path / "log", policy="beta_thompson", subjects=150, days=50, learn_from=asked) == 0
        told = load_log(tmp_path / "log", OFFERS)
        lived, idle = (
            rollout(reference(), BetaThompson(), **common, learn_from=name)  # type: ignore[arg-type]  # plain numbers
            for name in (learned, None)
        )
        np.testing.assert_array_equal(told.chosen, lived.chosen)
        assert not np.array_equal(lived.chosen, idle.chosen)
    assert raw(out=tmp_path / "raw", policy="beta_thompson", subjects=150, days=50, learn_from="clicked") == 0
    clicked = rollout(reference(), BetaThompson(), **common, learn_from="clicked")  # type: ignore[arg-type]
    rows = pq.read_table(tmp_path / "raw" / "truth" / "decisions.parquet")
    assert sorted(rows["offer"].to_pylist()) == sorted(np.asarray(OFFERS.ids)[clicked.chosen].tolist())
    with pytest.raises(UnknownNameError, match="reward"):
        log(out=tmp_path / "log", policy="beta_thompson", subjects=60, learn_from="clicks")


def test_what_cannot_be_done_is_refused_before_the_fit(tmp_path: Path) -> None:
    """A learner that has learned nothing, and a place that cannot be written to, are named before a log is read or fitted."""
    assert log(out=tmp_path / "log", subjects=60) == 0
    for name in ("lints", "beta_thompson"):
        with pytest.raises(InvalidInputError, match=f"{name!r} begins with nothing"):
            calibrate(log=tmp_path / "log", out=tmp_path / "fit", policy=("suv_care", name))
        with pytest.raises(InvalidInputError, match=f"{name!r} begins with nothing"):
            fidelity(log=tmp_path / "log", against="reference", policy=name)
    assert not (tmp_path / "fit").exists()
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInputError, match="cannot write to"):
        calibrate(log=tmp_path / "log", out=tmp_path / "taken" / "fit")


def test_the_oracle_of_a_fit_is_the_oracle_of_each_site() -> None:
    """What knows the laws of a site is made for the site it is asked about; a single offer is the same everywhere."""
    there = world_named("bargain-trap")
    assert isinstance(there, Scenario)
    table = rollout(there, Uniform(), n_subjects=200, seed=1).table
    made, own, here = _by_site("oracle", reference(), seed=1)(there), Oracle(there, seed=1), Oracle(reference(), seed=1)
    np.testing.assert_array_equal(made.probabilities(table), own.probabilities(table))
    assert not np.array_equal(own.probabilities(table), here.probabilities(table))
    offer = _by_site("suv_care", reference(), seed=1)
    assert offer(there) is offer(reference())


def test_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table on stdout and the file hold the same policies in the same order."""
    path = tmp_path / "figures.json"
    assert simulate(scenario="habit", policy=("uniform", "city_deal"), subjects=400, seeds=2, json=path) == 0
    told = json.loads(path.read_text())
    assert [row["policy"] for row in told["settings"][0]["policies"]] == ["uniform", "city_deal"]
    assert told["seeds"] == [1, 2]
    out = capsys.readouterr().out
    assert "in simulation" in out
    assert "city_deal" in out


@pytest.mark.slow
def test_from_a_log_to_a_fitted_world_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands in order: a log, a fit of it with what it does not identify, the fit as a world, and how near it is."""
    assert log(out=tmp_path / "log", subjects=1_200) == 0
    assert calibrate(log=tmp_path / "log", out=tmp_path / "fit", policy=("suv_care",), members=2, subjects=200) == 0
    told = json.loads((tmp_path / "fit" / "calibration.json").read_text())
    assert set(told["identified"]) & {"click_base", "return_rate_per_day"}
    assert "price_sensitivity_spread" in told["unidentified"]
    assert {row["parameter"] for row in told["grid"]["suv_care"]} >= {"price_sensitivity_spread"}
    page = (tmp_path / "fit" / "report.html").read_text()
    assert f"left open: {', '.join(told['unidentified'])}" in page
    assert "a site that follows" in page
    assert simulate(scenario=str(tmp_path / "fit" / "world"), policy=("suv_care",), subjects=300, seeds=1) == 0
    assert fidelity(log=tmp_path / "log", against=str(tmp_path / "fit" / "world"), json=tmp_path / "f.json") == 0
    far = json.loads((tmp_path / "f.json").read_text())
    assert far["differing"] == []
    assert far["classifier"]["low"] < 0.5 < far["classifier"]["high"]
    assert "not identified" in capsys.readouterr().out
    assert fidelity(log=tmp_path / "log", against="habit") == 1
    assert "it tells them apart" in capsys.readouterr().out
    with pytest.raises(InvalidInputError, match="other laws"):
        calibrate(log=tmp_path / "log", out=tmp_path / "no", scenario="habit")
