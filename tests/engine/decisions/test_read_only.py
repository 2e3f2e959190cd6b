"""A store that cannot be written: visitors get the fallback, and all is well again when it can, without a restart."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.decisions.opening import open_service
from engine.decisions.requests import DecisionRequest, RewardRequest
from policies.errors import StoreUnavailableError, UnknownDecisionError
from tests.engine.service_world import SECRET, Clock, open_shop

_NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of somebody whom file modes bind: root, as whom tests may run, may write what is read-only."""
    made = Path(tempfile.mkdtemp())
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(made, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
    try:
        yield made
    finally:
        if is_root:
            os.seteuid(0)
        made.chmod(0o755)
        shutil.rmtree(made)


def test_a_read_only_store_gives_the_fallback_until_it_can_be_written(folder: Path) -> None:
    """Decisions are answered unrecorded, facts are refused, nothing of it is in the log later; then both are taken again."""
    with open_shop(folder) as first:
        assert first.decide(DecisionRequest("shop", "u", id="before")).decision.recorded
        _set_writable(folder, is_writable=False)
        try:
            with open_service(folder, secret=SECRET, clock=Clock()) as service:  # a worker that starts now
                _meet_a_read_only_store(service.decide, service.reward)
                _set_writable(folder, is_writable=True)
                assert service.decide(DecisionRequest("shop", "u", id="after")).decision.recorded
                assert service.reward(RewardRequest("after", "subscribed")).joined
                assert service.reward(RewardRequest("during", "subscribed")).status == "ignored"
                with pytest.raises(UnknownDecisionError):
                    service.get_decision("during")
        finally:
            _set_writable(folder, is_writable=True)


def _meet_a_read_only_store(decide: Callable[..., object], reward: Callable[..., object]) -> None:
    answer = decide(DecisionRequest("shop", "u", id="during"))
    assert not answer.decision.recorded  # type: ignore[attr-defined]
    assert answer.decision.rung == "unrecorded"  # type: ignore[attr-defined]
    assert answer.decision.probabilities == (1.0, 0.0, 0.0)  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailableError, match="permissions of the data folder"):
        reward(RewardRequest("before", "subscribed"))


def _set_writable(folder: Path, *, is_writable: bool) -> None:
    for file in folder.glob("nextoffer.db*"):
        file.chmod(0o644 if is_writable else 0o444)
    folder.chmod(0o755 if is_writable else 0o555)
