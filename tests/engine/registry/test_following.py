"""What serves follows what is published: whatever one snapshot does, whoever looks, and however often."""

from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest
from engine.learner.learner import Learner
from engine.registry.versions import MAX_RETRY_S, RETRY_S, Registry, snapshot_folder
from policies.artifact import Artifact, load_artifact
from policies.errors import ArtifactError
from policies.protocols import Policy
from tests.engine.learner.test_learner import HOUR, Lab, untaught
from tests.engine.plug_in import Diary, installed
from tests.engine.service_world import START, shop


class Timer:
    """A monotonic clock that stands still until it is moved."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Shelf:
    """A registry of a lab's store with a clock of its own, followed by hand."""

    def __init__(self, lab: Lab) -> None:
        self.lab, self.ref, self.timer = lab, str(lab.ref), Timer()
        self.registry = Registry(lab.service.database, lab.service.policies.folder, monotonic=self.timer)
        self.registry.is_followed = True
        self.registry.load(self.ref)
        self._learner = lab.learner()

    def publish(self) -> int:
        """Learn from some more visitors, and publish."""
        self.lab.traffic(5)
        self.lab.clock.forward(hours=1)
        assert self._learner.tick() > 0
        number = self._learner.publish()
        assert number is not None
        return number

    @property
    def serving(self) -> int:
        """Number of the snapshot that serves."""
        return self.registry.load(self.ref).number


def test_a_snapshot_that_could_not_be_read_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that fails once costs a second, not the snapshot: each try waits twice as long as the last, up to a minute."""
    lab = Lab(tmp_path)
    shelf = Shelf(lab)
    folder = snapshot_folder(shelf.registry.folder, shelf.ref, shelf.publish())
    away = folder.with_name("away")
    folder.rename(away)
    tries = []
    for _ in range(200):
        n = len(caplog.records)
        shelf.registry.follow()
        if len(caplog.records) > n:
            tries.append(shelf.timer.now)
        shelf.timer.now += RETRY_S
    waits = [b - a for a, b in pairwise(tries)]
    assert waits[:5] == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert max(waits) == MAX_RETRY_S
    assert shelf.serving == 0
    away.rename(folder)
    shelf.timer.now += MAX_RETRY_S
    shelf.registry.follow()
    assert shelf.serving == 1
    lab.service.close()


def test_a_newer_snapshot_does_not_wait_for_one_that_failed(tmp_path: Path) -> None:
    """The wait between tries is that of one number."""
    lab = Lab(tmp_path)
    shelf = Shelf(lab)
    folder = snapshot_folder(shelf.registry.folder, shelf.ref, shelf.publish())
    folder.rename(folder.with_name("away"))
    shelf.registry.follow()
    assert shelf.serving == 0
    number = shelf.publish()
    shelf.registry.follow()
    assert shelf.serving == number
    lab.service.close()


@pytest.mark.slow
def test_a_plug_in_that_raises_anything_holds_up_no_other_version(tmp_path: Path) -> None:
    """The versions after it in the same round are swapped in; its own old state goes on serving, and a server starts all the same."""
    with installed(tmp_path / "site") as faults:
        lab = Lab(tmp_path, Diary())
        service = lab.service
        other = str(service.policies.register(untaught().to_artifact(), name="lints", at=START))
        service.put_placement(shop(placement="z", policy=other, reward=HOUR))
        shelf = Shelf(lab)
        shelf.registry.load(other)
        lab.traffic(70)
        service.decide(DecisionRequest("z", "u1", {"x": 1.0}))
        lab.clock.forward(hours=2)
        second = Learner(service.database, service.policies, placement="z", definition=HOUR, ref=other, clock=lab.clock)
        shelf.publish()
        assert second.tick() == 1
        assert second.publish() == 1
        faults.loading = ValueError("a file of mine is gone")
        shelf.registry.follow()
        assert (shelf.serving, shelf.registry.load(other).number) == (0, 1)
        service.policies.forget(shelf.ref)
        service.follow()
        assert service.policies._loaded.keys() == {other}
        service.close()


def test_of_two_threads_the_newer_snapshot_wins(tmp_path: Path) -> None:
    """A thread that was held up with an older snapshot does not put it in the place of a newer one."""
    lab = Lab(tmp_path)
    shelf = Shelf(lab)
    older = shelf.publish()
    is_held, may_go_on = threading.Event(), threading.Event()

    def holds_the_first(ref: str, policy: Policy) -> None:
        if not is_held.is_set():
            is_held.set()
            assert may_go_on.wait(30)

    shelf.registry.warm = holds_the_first
    slow = threading.Thread(target=shelf.registry.follow)
    slow.start()
    assert is_held.wait(30)
    newer = shelf.publish()
    shelf.registry.follow()
    assert shelf.serving == newer > older
    may_go_on.set()
    slow.join()
    assert shelf.serving == newer
    lab.service.close()


def test_a_version_that_is_forgotten_while_its_snapshot_is_read_stays_forgotten(tmp_path: Path) -> None:
    """Whoever removes a version does not find it loaded again."""
    lab = Lab(tmp_path)
    shelf = Shelf(lab)
    shelf.publish()
    shelf.registry.warm = lambda ref, policy: shelf.registry.forget(ref)
    shelf.registry.follow()
    assert not shelf.registry._loaded
    lab.service.close()


def test_an_artefact_that_cannot_be_read_is_not_read_for_each_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged files are read again after one second, two, four, with the same sentence in between; mended ones serve."""
    lab = Lab(tmp_path)
    timer, reads = Timer(), []
    registry = Registry(lab.service.database, lab.service.policies.folder, monotonic=timer)
    registry.is_followed = True
    folder = registry.folder / registry.find(str(lab.ref)).location
    away = folder.with_name("away")
    folder.rename(away)

    def noted(path: Path) -> Artifact:
        reads.append(timer.now)
        return load_artifact(path)

    monkeypatch.setattr("engine.registry.versions.load_artifact", noted)
    said = set()
    for _ in range(80):
        with pytest.raises(ArtifactError) as refused:
            registry.load(str(lab.ref))
        said.add(str(refused.value))
        timer.now += RETRY_S / 10
    assert len(said) == 1
    assert [b - a for a, b in pairwise(reads)] == pytest.approx([1.0, 2.0, 4.0])
    away.rename(folder)
    timer.now += MAX_RETRY_S
    assert registry.load(str(lab.ref)).number == 0
