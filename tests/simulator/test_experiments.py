"""Experiments: cells that depend on their values alone, paired differences, scores between a baseline and a bound."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies.artifact import save_artifact
from policies.errors import InvalidInputError, UnknownNameError
from policies.fixed import FixedOrder, Uniform
from policies.records import InteractionBatch
from policies.thompson import BetaThompson
from simulator.experiments import Cell, Lives, curve, live, live_once, plan, read_lives, summarise
from simulator.habit import HabitScenario
from simulator.named_policies import policy_named
from simulator.rollouts import MAY_COME_DAYS, REWARDS, rollout
from simulator.scenarios.car_subscription import reference
from simulator.scenarios.files import save_scenario
from simulator.scenarios.suite import STUDIES, site_named, study_named


def _told(tmp_path: Path, scenario: str, policies: list[str], **sizes: int) -> dict[str, Any]:
    cells = plan(
        scenario,
        policies,
        n_subjects=sizes.get("n", 1_500),
        visit_days=3,
        seeds=range(1, 1 + sizes.get("seeds", 1)),
        settings=(0.0,) if study_named(scenario).setting else None,
    )
    for cell in cells:
        live_once(cell, tmp_path)
    return summarise(cells, read_lives(cells, tmp_path))


def test_differences_are_paired_and_the_first_has_none(tmp_path: Path) -> None:
    """The first policy differs from itself by exactly nothing, and pairing narrows the interval of the other."""
    told = _told(tmp_path, "reference", ["suv_care", "suv_deal"], n=2_500, seeds=2)
    (entry,) = told["settings"]
    first, second = entry["policies"]
    assert first["against_first"]["kept_30d"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert told["in_simulation"] is True

    def width(cell: dict[str, float]) -> float:
        return cell["high"] - cell["low"]

    unpaired = (width(first["subscribed"]) ** 2 + width(second["subscribed"]) ** 2) ** 0.5
    assert width(second["against_first"]["subscribed"]) < unpaired
    assert entry["best_possible"]["value"] > second["kept_30d"]["low"]
    assert "score" not in first  # the baseline of scores was not lived


def test_the_null_world_shows_no_difference(tmp_path: Path) -> None:
    """Where offers make no difference the table says nought, not nearly nought."""
    told = _told(tmp_path, "null", ["city_flex", "suv_deal"])
    assert told["settings"][0]["policies"][1]["against_first"]["margin_eur"]["mean"] == 0.0


def test_scores_lie_between_the_baseline_and_the_bound(tmp_path: Path) -> None:
    """The baseline scores nought, the planned policy near one: the explore share is what it lacks."""
    told = _told(tmp_path, "retention-tabular", ["uniform", "planned"], n=4_000)
    uniform, planned = told["settings"][0]["policies"]
    assert uniform["score"] == 0.0
    assert 0.7 < planned["score"] < 1.05
    assert told["settings"][0]["best_possible"]["is_exact"]


def test_a_cell_is_known_by_all_its_values(tmp_path: Path) -> None:
    """Cells that differ in any value have other digests; a saved policy's content is one of them."""
    cell = Cell("reference", 0.0, "uniform", 1, 100, 3)
    others = [Cell("reference", 0.0, "uniform", 1, 100, 4), Cell("reference", 0.5, "uniform", 1, 100, 3),
              Cell("null", 0.0, "uniform", 1, 100, 3)]  # fmt: skip
    assert len({c.digest for c in (cell, *others)}) == 4
    save_artifact(FixedOrder(("suv_deal",)).to_artifact(), tmp_path / "policy")
    before = plan("reference", [str(tmp_path / "policy")], n_subjects=10, visit_days=1, seeds=(1,))[0]
    shutil.rmtree(tmp_path / "policy")
    save_artifact(FixedOrder(("suv_care",)).to_artifact(), tmp_path / "policy")
    after = plan("reference", [str(tmp_path / "policy")], n_subjects=10, visit_days=1, seeds=(1,))[0]
    assert before.digest != after.digest


def test_results_of_other_laws_are_not_taken_for_these(tmp_path: Path) -> None:
    """A saved world of the same folder with one number changed has other cells; the same world saved again has the same."""

    def digest(**laws: float) -> str:
        shutil.rmtree(tmp_path / "world", ignore_errors=True)
        save_scenario(replace(reference(), parameters=reference().parameters.with_assumed(**laws)), tmp_path / "world")
        return plan(str(tmp_path / "world"), ["uniform"], n_subjects=10, visit_days=1, seeds=(1,))[0].digest

    assert digest() == digest()
    assert digest() != digest(click_base=-1.1)
    named = [plan(n, ["uniform"], n_subjects=10, visit_days=1, seeds=(1,))[0].content for n in ("habit", "habit-null")]
    assert named[0] != named[1]


def test_arrival_is_the_first_decision() -> None:
    """The day a visitor arrived is the day of its first decision, and nobody signs before it."""
    table = live(Cell("reference", 0.0, "uniform", 3, 400, 10)).to_pydict()
    arrived, signed = np.asarray(table["arrived"]), np.asarray(table["signed_day"])
    assert arrived.min() == 0
    assert arrived.max() == 9
    assert (signed[signed >= 0] >= arrived[signed >= 0]).all()


def test_curves_by_hand() -> None:
    """Two visitors, one of whom signs on day 2 and is kept: half a contract from day 2, half kept from day 32 on."""
    lives = Lives(
        seed=np.asarray([1.0, 1.0]), arrived=np.asarray([0.0, 0.0]), signed_day=np.asarray([2.0, -1.0]),
        outcomes={"subscribed": np.asarray([1.0, 0.0]), "kept_30d": np.asarray([1.0, 0.0]), "margin_eur": np.asarray([8.0, 0.0])},
    )  # fmt: skip
    assert curve(lives, "subscribed", n_days=40).mean.tolist() == [0.0] * 2 + [0.5] * 38
    assert curve(lives, "kept_30d", n_days=40).mean.tolist() == [0.0] * 32 + [0.5] * 8
    assert curve(lives, "margin_eur", n_days=40, minus=lives).mean.tolist() == [0.0] * 40


def test_bands_of_curves_are_those_of_the_visitors_or_of_the_seeds() -> None:
    """Few seeds: the standard error of visitors on each day, pairs kept together. Many: Student's interval over the seeds."""
    rng = np.random.default_rng(3)

    def lives(n_seeds: int) -> Lives:
        n, share = 60 * n_seeds, rng.random()
        signed = np.where(rng.random(n) < share, rng.integers(0, 9, n), -1).astype(np.float64)
        values = {
            o: np.where(signed >= 0, rng.normal(5.0, 2.0, n), 0.0) for o in ("subscribed", "kept_30d", "margin_eur")
        }
        return Lives(np.repeat(np.arange(n_seeds), 60).astype(np.float64), np.zeros(n), signed, values)

    one, two = lives(2), lives(2)
    made = curve(one, "margin_eur", n_days=12, minus=two)
    day = 6
    by_hand = [np.where((x.signed_day >= 0) & (x.signed_day <= day), x.outcomes["margin_eur"], 0.0) for x in (one, two)]
    gap = by_hand[1] - by_hand[0]
    assert not made.is_over_seeds
    assert made.mean[day] == pytest.approx(gap.mean())
    assert made.high[day] - made.mean[day] == pytest.approx(1.959964 * gap.std() / np.sqrt(len(gap)))
    many = lives(6)
    over = curve(many, "margin_eur", n_days=12)
    means = np.asarray([many.outcomes["margin_eur"][many.seed == s].mean() for s in range(6)])
    assert over.is_over_seeds
    assert over.high[-1] - over.mean[-1] == pytest.approx(2.5706 * means.std(ddof=1) / np.sqrt(6), rel=1e-3)


def test_intervals_of_a_learner_are_over_seeds(tmp_path: Path) -> None:
    """With five seeds a learner's interval is Student's over them; that of a policy that does not learn stays over visitors."""
    cells = plan(
        "null", ["beta_thompson", "suv_deal"], n_subjects=60, visit_days=2, seeds=range(5), learn_from="clicked"
    )
    for cell in cells:
        live_once(cell, tmp_path)
    lives = read_lives(cells, tmp_path)
    learner, plain = summarise(cells, lives)["settings"][0]["policies"]
    for row, name in ((learner, "beta_thompson"), (plain, "suv_deal")):
        got = lives[0.0, name]
        values = got.outcomes["margin_eur"]
        means = np.asarray([values[got.seed == s].mean() for s in range(5)])
        over_seeds, over_visitors = 2.7764 * means.std(ddof=1) / 5**0.5, 1.96 * values.std(ddof=1) / len(values) ** 0.5
        half = row["margin_eur"]["high"] - row["margin_eur"]["mean"]
        assert half == pytest.approx(over_seeds if name == "beta_thompson" else over_visitors, rel=1e-3)
        assert over_seeds != pytest.approx(over_visitors, rel=1e-2)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_study_has_its_worlds(name: str) -> None:
    """Each setting of each study makes a world with its baseline, and no two studies share a name with other content."""
    study = study_named(name)
    assert study.about
    assert study.name == name
    for setting in study.settings:
        site = study.make(setting)
        policy_named(study.baseline, site, seed=1)
    assert (len(study.settings) > 1) == bool(study.setting)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    """Cells not yet lived, policies given twice, and names nobody knows are refused with the way out."""
    cells = plan("reference", ["uniform"], n_subjects=10, visit_days=1, seeds=(1,))
    with pytest.raises(InvalidInputError, match="run the same command again"):
        read_lives(cells, tmp_path)
    with pytest.raises(InvalidInputError, match="given twice"):
        plan("reference", ["uniform", "uniform"], n_subjects=10, visit_days=1, seeds=(1,))
    with pytest.raises(InvalidInputError, match=r"no setting.*retention-tabular"):
        plan("reference", ["uniform"], n_subjects=10, visit_days=1, seeds=(1,), settings=(3.0,))
    with pytest.raises(InvalidInputError, match="finite"):
        plan("retention", ["uniform"], n_subjects=10, visit_days=1, seeds=(1,), settings=(float("nan"),))
    with pytest.raises(InvalidInputError, match="at least one policy"):
        plan("reference", [], n_subjects=10, visit_days=1, seeds=(1,))
    with pytest.raises(UnknownNameError, match="suv_deal"):
        policy_named("suv_deel", reference(), seed=1)
    with pytest.raises(UnknownNameError, match="retention"):
        study_named("retenton")
    with pytest.raises(InvalidInputError, match="leave it out"):
        policy_named("oracle", HabitScenario(), seed=1)
    with pytest.raises(InvalidInputError, match="taste_spread"):
        policy_named("planned", reference(), seed=1)


def test_a_name_means_the_world_and_a_setting_the_family() -> None:
    """``retention`` is the world with its own coefficient, not the family's first one, where discounts do nothing."""
    assert site_named("retention").parameters.values()["cancel_per_dependence"] == 0.9
    assert site_named("retention", 0.3).parameters.values()["cancel_per_dependence"] == 0.3
    assert isinstance(site_named("habit"), HabitScenario)
    with pytest.raises(InvalidInputError, match="no setting"):
        site_named("habit", 1.0)


def test_a_learner_learns_only_what_is_final_and_in_time() -> None:
    """Each evening it is given the decisions of one day, with the rewards that the whole log gives them in the end; none twice."""

    class Watcher(BetaThompson):
        def __init__(self) -> None:
            super().__init__()
            self.batches: list[InteractionBatch] = []

        def learn(self, batch: InteractionBatch) -> None:
            self.batches.append(batch)

    for reward in REWARDS:
        watcher = Watcher()
        run = rollout(reference(), watcher, n_subjects=300, visit_days=20, seed=3, learn_from=reward)
        n = run.last_day + 1 - MAY_COME_DAYS[reward]
        final = run.day < n
        np.testing.assert_array_equal(np.concatenate([b.chosen for b in watcher.batches]), run.chosen[final])
        told = np.concatenate([b.reward for b in watcher.batches])
        np.testing.assert_array_equal(told, run.rewards[reward][final])
        assert told.sum() > 0
    with pytest.raises(InvalidInputError, match="does not learn"):
        rollout(reference(), Uniform(), n_subjects=10, seed=3, learn_from="clicked")


@pytest.mark.slow
def test_a_learner_earns_more_in_time_and_the_same_in_every_process(tmp_path: Path) -> None:
    """Learning from clicks, the learner clicks more than uniform over its later visitors; lived twice, a cell is the same."""
    cells = plan("reference", ["lints", "uniform"], n_subjects=5_000, visit_days=40, seeds=(1,), learn_from="clicked")
    assert [c.learn_from for c in cells] == ["clicked", ""]
    assert live(cells[0]).equals(live(cells[0]))
    assert cells[0].digest != replace(cells[0], learn_from="subscribed").digest
    for cell in cells:
        live_once(cell, tmp_path)
    assert summarise(cells, read_lives(cells, tmp_path))["learners"] == {"policies": ["lints"], "learn_from": "clicked"}
    lints, uniform = (read_lives(cells, tmp_path)[0.0, name] for name in ("lints", "uniform"))
    late = lints.arrived >= 15
    gain = (lints.outcomes["subscribed"] - uniform.outcomes["subscribed"])[late]
    assert gain.mean() > 3 * gain.std() / np.sqrt(late.sum())
    with pytest.raises(UnknownNameError, match="clicked"):
        plan("reference", ["lints"], n_subjects=10, visit_days=1, seeds=(1,), learn_from="click")  # type: ignore[arg-type]
