"""Who learns a version: one process at a time, another one after it, and all versions of a store in one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest, RewardRequest
from engine.experiments.records import BASELINE, OWN_POLICY, Experiment
from engine.learner.learner import Learner
from engine.learner.shards import Learners, all_jobs
from engine.learner.snapshots import check_snapshot, prune
from engine.learner.ticks import learned_in, read_ticks
from engine.registry.versions import snapshot_folder
from engine.rewards.definition import RewardDefinition, RewardTerm
from engine.store.changes import Change
from policies.allocation import Variant
from policies.errors import ConflictError, NextofferError
from policies.fixed import Uniform
from policies.records import DecisionTable
from policies.registry import load_policy
from policies.vw import VowpalWabbit
from tests.engine.learner.test_learner import HOUR, Lab, untaught
from tests.engine.plug_in import Diary, installed
from tests.engine.service_world import START, Clock, open_shop, shop


def test_two_learners_never_learn_one_tick_twice(tmp_path: Path) -> None:
    """The store is the fence: of two learners that both believe to own a version, the second to tick is refused."""
    lab = Lab(tmp_path)
    lab.traffic(70)
    one, two = lab.learner(), lab.learner()
    assert one.tick() > 0
    with pytest.raises(ConflictError, match="another learner"):
        two.tick()
    assert two.n_learned == 0
    lab.service.close()


@pytest.mark.slow
def test_all_versions_that_decide_anywhere_are_learned_in_one_process(tmp_path: Path) -> None:
    """Two placements and their versions; what does not learn is left alone; a second process learns nothing meanwhile."""
    lab = Lab(tmp_path)
    service = lab.service
    twin = service.policies.register(untaught().to_artifact(), name="twin", at=START)
    even = service.policies.register(Uniform().to_artifact(), name="even", at=START)
    service.put_placement(shop(placement="second", policy=str(twin), reward=HOUR))
    service.put_placement(shop(placement="third", policy=str(even), reward=HOUR))

    def learners() -> Learners:
        return Learners(service.database, service.policies, jobs=lambda: all_jobs(service.database), clock=lab.clock)

    one, two = learners(), learners()
    lab.traffic(30)
    for i in range(30):
        lab.clock.forward(minutes=1)
        service.decide(DecisionRequest("second", f"u{i}", {"x": 1.0}, id=f"s{i}"))
    lab.clock.forward(hours=2)
    assert one.step() == 57
    assert one.owned == (str(lab.ref), str(twin))
    assert (two.step(), len(two.owned)) == (0, 0)
    one.close()
    two._looked_at = 0.0
    assert (two.step(), len(two.owned)) == (0, 2)
    two.close()
    service.close()


def test_every_experiment_of_a_placement_is_learned_for(tmp_path: Path) -> None:
    """Experiments in separate slots of a layer run beside each other, and each one's variants learn; names that are no version do not."""
    lab = Lab(tmp_path)
    service = lab.service
    refs = [str(service.policies.register(untaught().to_artifact(), name=n, at=START)) for n in ("one", "two")]
    for ref, slots, control in zip(refs, ((0, 5_000), (5_000, 10_000)), (OWN_POLICY, BASELINE), strict=True):
        name = f"e-{ref[:3]}"
        two = (Variant("now", 5_000, control), Variant("new", 5_000, ref))
        service.experiments.create(Experiment(name, "shop", two, layer="page", slots=slots), change=Change(START))
        service.experiments.start(name, revision=1, change=Change(START))
    assert sorted(all_jobs(service.database)) == sorted([str(lab.ref), *refs])
    service.close()


def test_a_version_that_raises_anything_does_not_stop_the_others(tmp_path: Path) -> None:
    """A plug-in that cannot be loaded for a while is tried again later; what others learn is learned meanwhile."""
    with installed(tmp_path / "site") as faults:
        lab = Lab(tmp_path, Diary())
        service = lab.service
        other = service.policies.register(untaught().to_artifact(), name="lints", at=START)
        service.put_placement(shop(placement="second", policy=str(other), reward=HOUR))
        lab.traffic(6)
        service.decide(DecisionRequest("second", "u1", {"x": 1.0}))
        lab.clock.forward(hours=2)
        learners = Learners(
            service.database, service.policies, jobs=lambda: all_jobs(service.database), clock=lab.clock
        )
        faults.loading = ValueError("a file of mine is gone")
        assert (learners.step(), learners.owned) == (1, (str(other),))
        faults.loading = None
        learners._retry_at[str(lab.ref)] = learners._looked_at = 0.0
        assert learners.step() == 5
        assert learners.owned == (str(lab.ref), str(other))
        learners.close()
        service.close()


def test_a_poisonous_reward_is_left_out_and_the_rest_is_learned(tmp_path: Path) -> None:
    """One reward of a trillion changes nothing of what is learned from the others."""
    folders = tmp_path / "sound", tmp_path / "poisoned"
    digests = []
    for folder in folders:
        lab = Lab(folder)
        lab.traffic(40)
        lab.service.decide(DecisionRequest("shop", "v", {"x": 1.0}, id="odd", is_activated=folder is folders[1]))
        if folder is folders[1]:
            lab.service.reward(RewardRequest("odd", "click", 1e12))
        lab.clock.forward(hours=2)
        learner = lab.learner()
        learner.tick()
        assert learner.n_left_out == (folder is folders[1])
        assert learner.publish() == 1
        digests.append(learner._policy.to_artifact().digest)
        lab.service.close()
    assert digests[0] == digests[1]


def test_one_visitors_odd_feature_type_stops_nothing(tmp_path: Path) -> None:
    """A feature that a client sends as text once, and that the policy does not know, is missing there."""
    lab = Lab(tmp_path)
    for i, value in enumerate([1.0, "many", None, 3.0]):
        lab.service.decide(DecisionRequest("shop", f"u{i}", {"x": 1.0, "pages": value}, id=f"d{i}"))
    lab.clock.forward(hours=2)
    assert lab.learner().tick() == 4
    lab.service.close()


def vw_table() -> DecisionTable:
    """Twelve visitors of a shop."""
    offers = shop().offer_set
    return DecisionTable(offers, np.ones((12, len(offers)), dtype=np.bool_), {"x": np.linspace(-1, 1, 12)})


def test_infinite_weights_in_an_opaque_model_show_in_probe_predictions() -> None:
    """A VW model that has met an infinite cost answers with nan, or not with distributions: it is refused."""
    from policies.features import FeatureSpace

    table = vw_table()
    policy = VowpalWabbit(FeatureSpace.fit(table))
    check_snapshot(policy.to_artifact(), policy, table)
    examples = [policy._shared_example(policy.space.encode_contexts(table)[0]), *policy._action_examples(table.offers)]
    for _ in range(3):
        examples[1]._set_label(policy._vw.CBLabel(label=(float("inf"), 0.5)))
        policy._core.learn_multi_ex_one(examples)
    examples[1]._set_label(policy._no_label)
    with pytest.raises(NextofferError, match=r"not published|non-finite"):
        check_snapshot(policy.to_artifact(), load_policy(policy.to_artifact()), table)


@pytest.mark.slow
def test_ten_snapshots_and_the_last_of_each_day_are_kept(tmp_path: Path) -> None:
    """What servers may still load stays, and one state a day from which an audit can start."""
    lab = Lab(tmp_path)
    learner = lab.learner()
    for _ in range(18):
        lab.traffic(4)
        lab.clock.forward(hours=4)
        learner.tick()
        learner.publish()
    ref, database = str(lab.ref), lab.service.database
    ticks = read_ticks(database, ref)
    n = prune(database, lab.service.policies, ref, keep_newest=3)
    folder = snapshot_folder(lab.service.policies.folder, ref, 0).parent
    kept = sorted(int(p.name) for p in folder.iterdir())
    days = {t.stretch.as_of_us // 86_400_000_000: t.number for t in ticks if t.is_published}
    assert kept == sorted({*days.values(), *[t.number for t in ticks if t.is_published][-3:]})
    assert n == 18 - len(kept) > 8
    assert learned_in(database, ref, 1) == 1
    lab.service.close()


@pytest.mark.slow
def test_a_definition_that_changes_is_written_into_each_tick(tmp_path: Path) -> None:
    """An audit learns each tick by what counted then."""
    lab = Lab(tmp_path)
    learner = lab.learner()
    lab.traffic(70)
    learner.tick()
    learner.definition = RewardDefinition((RewardTerm("click", 2.0),), window_s=3_600.0)
    lab.traffic(40)
    learner.tick()
    found = [t.definition for t in read_ticks(lab.service.database, str(lab.ref))]
    assert found == [HOUR, learner.definition]
    with open_shop(tmp_path / "other", clock=Clock()) as other, pytest.raises(NextofferError):
        Learner(other.database, other.policies, placement="shop", definition=HOUR, ref="none", clock=Clock())
    lab.service.close()
