"""Late truth in exported files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from engine.decisions.requests import DecisionRequest, IdentifyRequest, OutcomeRequest, RewardRequest
from engine.rewards.corrections import correct_files
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.rewards.files import export_files
from offline_eval.interop.arrow import read_parquet
from tests.engine.service_world import Clock, exported, open_shop, shop

REWARD = RewardDefinition((RewardTerm("subscribed"), RewardTerm("refund", -0.5)), window_s=5 * DAY_S)


def test_corrected_files_equal_a_fresh_export_and_say_what_changed(tmp_path: Path) -> None:
    """Late rewards, outcomes, logins, sightings and erasures: the files become what an export of today gives, row by row."""
    clock = Clock()
    folder = tmp_path / "log"
    with open_shop(tmp_path / "home", clock=clock, placements=[shop(reward=REWARD)]) as service:
        for i in range(60):
            service.decide(DecisionRequest("shop", f"u{i}", id=f"d{i}", is_activated=i != 7))
            if i % 6 == 0:
                service.outcome(OutcomeRequest(f"u{i}", "subscribed", id=f"s{i}"))
            clock.forward(hours=3)
        clock.forward(days=6)
        export_files(service.database, "shop", folder, definition=REWARD, as_of=clock.now)
        before = correct_files(service.database, folder, as_of=clock.now)
        assert (before.n_rows, before.is_any, before.n_files) == (59, False, 0)
        then = clock.now - timedelta(days=8)
        service.reward(RewardRequest("d3", "refund", 1.0, id="r1", at=then))
        service.outcome(OutcomeRequest("u50", "subscribed", id="late", at=then))
        service.outcome(OutcomeRequest("login", "subscribed", id="later", at=then))
        service.identify(IdentifyRequest("u51", "login"))
        service.activate("d7", at=then)
        service.erase("u12")
        after = correct_files(service.database, folder, as_of=clock.now)
        fresh = exported(service.database, "shop", as_of=clock.now)
    found = read_parquet(folder)
    assert found.decision_ids is not None
    assert fresh.decision_ids is not None
    assert dict(zip(found.decision_ids, found.reward, strict=True)) == dict(
        zip(fresh.decision_ids, fresh.reward, strict=True)
    )
    assert after.is_any
    assert after.n_rows == 59
    assert after.mean_now == fresh.reward.mean()
    assert after.mean_before == 10 / 59
    assert "have another reward now" in after.sentence()


def test_only_touched_files_are_written_again(tmp_path: Path) -> None:
    """One late reward rewrites the file of its day and no other; a second look finds nothing."""
    clock = Clock()
    folder = tmp_path / "log"
    with open_shop(tmp_path / "home", clock=clock, placements=[shop(reward=REWARD)]) as service:
        for i in range(40):
            service.decide(DecisionRequest("shop", f"u{i}", id=f"d{i}"))
            clock.forward(hours=3)
        clock.forward(days=6)
        export_files(service.database, "shop", folder, definition=REWARD, as_of=clock.now)
        stamps = {p: p.stat().st_mtime_ns for p in folder.rglob("*.parquet")}
        service.reward(RewardRequest("d3", "refund", 1.0, id="r1", at=clock.now - timedelta(days=10)))
        assert correct_files(service.database, folder, as_of=clock.now).n_changed == 1
        assert len(stamps) > 3
        assert [p.parent.name for p, at in stamps.items() if p.stat().st_mtime_ns != at] == ["day=2026-03-01"]
        assert not correct_files(service.database, folder, as_of=clock.now).is_any
