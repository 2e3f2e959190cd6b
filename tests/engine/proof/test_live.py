"""The light pipeline is the service's: same split, same draws, same judge, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.demo.live import CONTROL, EXPERIMENT, TREATMENT
from engine.demo.reading import counting
from engine.proof.committed import sealed
from engine.proof.config import ProofConfig
from engine.proof.headline import _through_the_service, compared
from engine.proof.learning import collect, learn
from engine.proof.live import choices, live, read, sample_size, statistics_plan
from engine.proof.one_world import CANNOT_SAY, LIFT, answer_in
from engine.proof.rivals import peeking
from engine.simulation.people import People
from engine.simulation.trial import judge_trial, prepare
from offline_eval.abtest import required_subjects
from policies.fixed import FixedOrder, Uniform
from policies.protocols import SaveablePolicy
from simulator.habit import HabitScenario

CONFIG = ProofConfig.quick(Path("nowhere"))


def test_sample_follows_the_power_plan() -> None:
    """The planned sample is the textbook's for the worthwhile lift, looks included."""
    size = sample_size(0.1, CONFIG)
    assert size.effect == pytest.approx(0.1 * (1.12 * 1.08 - 1))
    by_hand = required_subjects(standard_deviation=0.3, effect=size.effect, power=0.9, n_looks=5)
    assert size.planned == pytest.approx(by_hand, abs=1)
    assert size.comes > size.planned


def test_live_experiment_finds_what_is_there() -> None:
    """Every visitor has one variant, and a policy that sells far more than the other ships."""
    policies = {CONTROL: FixedOrder(("city_deal", "loyal_care")), TREATMENT: FixedOrder(("suv_care", "loyal_care"))}
    run = live(HabitScenario(), policies, n_subjects=1_500, config=CONFIG, seed=5)
    assert len(run.outcomes) == 1_500
    assert 0.4 < run.variant.mean() < 0.6
    plan = statistics_plan(sample_size(0.05, CONFIG), CONFIG)
    small = statistics_plan(sample_size(0.5, CONFIG), CONFIG)
    assert read(run, plan).now.verdict.decision == "keep running"  # so few visitors reach no planned end
    assert read(run, small).now.verdict.decision == "ship"
    assert peeking(read(run, small, n_points=20), "kept").answer == "lift"


@pytest.mark.slow
@pytest.mark.parametrize("n_http", [12, 0])
def test_service_and_light_pipeline_make_the_same_decisions(tmp_path: Path, n_http: int) -> None:
    """A learned policy against a rule: the service, over HTTP and in-process, and the light pipeline agree to the last bit."""
    world = HabitScenario()
    log = collect(world, CONFIG, seed=3, n_subjects=900)
    learned = learn(log, np.arange(len(log.rewards["kept_30d"])))["worth"]
    policies: dict[str, SaveablePolicy] = {CONTROL: log.incumbent, TREATMENT: learned}
    size, n = sample_size(0.5, CONFIG), 150
    run = live(world, {**policies}, n_subjects=n, config=CONFIG, seed=9)
    home = tmp_path / "home"
    people = People.without_history(world.population)
    prepare(
        home, scenario=world, people=people, encoder=None, experiment=EXPERIMENT, policies=policies, seed=9,
        explore_share=CONFIG.serve_explore_share, counting=counting(), plan=choices(size, CONFIG),
    )  # fmt: skip
    config = ProofConfig(Path("nowhere"), n_http_subjects=n_http)
    _, n_decisions = _through_the_service(home, world, people, n, config, 9, None)
    told = compared(home, run, n_over_http=n_http)
    assert told["decisions_compared"] == n_decisions > 300
    assert told["decisions_that_differ"] == 0
    assert (told["http_decisions_compared"] > 0) == (n_http > 0)
    reading, _ = judge_trial(home, EXPERIMENT)
    light = read(run, statistics_plan(size, CONFIG)).now
    assert light.of("kept", TREATMENT).effect == reading.of("kept", TREATMENT).effect
    assert light.verdict == reading.verdict
    # A draw by another number would not have been the same.
    other = live(world, {CONTROL: Uniform(), TREATMENT: learned}, n_subjects=n, config=CONFIG, seed=9)
    assert compared(home, other, n_over_http=0)["decisions_that_differ"] > 0


@pytest.mark.slow
def test_six_sealed_worlds() -> None:
    """Null worlds get no lift by luck of this seed, answers are words, and what is claimed is beside what is true."""
    config = ProofConfig(Path("nowhere"), n_sealed=6, n_log_subjects=4_000, n_truth_subjects=6_000, seed=5)
    for world in sealed(config):
        told = answer_in(world.world, config, number=world.number, confounding=world.confounding)
        ours = told["answers"]["ours"]
        assert (LIFT if ours else CANNOT_SAY) in ("lift", "cannot say")
        assert told["plan"]["planned"] > 1_000
        truth = told["truth"][told["challenger"]]
        if world.kind == "null":
            assert truth["kept_30d"]["difference"] == 0.0
            assert ours is None
        claimed = told["live"]["kept"]
        assert claimed["low"] <= claimed["estimate"] <= claimed["high"]
