"""From candidate to live and back, with the real service and store."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.alerts.outbox import newest
from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.audit import read_audit
from engine.experiments.automation import tick
from engine.experiments.records import Counting, Ramp
from engine.gate.canary import CanarySettings, base_rate
from engine.gate.forecasts import forecasts_of
from engine.gate.parts import ope_part
from engine.gate.promotion import ACTOR, Promotion
from engine.gate.records import GateVerdict, Part, Word, conclude
from engine.gate.verdicts import approve, keep_verdict
from engine.gate.watch import look_after
from engine.rewards.definition import DAY_S, RewardDefinition, RewardTerm
from engine.store.changes import Change
from offline_eval import evaluate
from policies.errors import ConflictError, StateError
from policies.features import FeatureSpace
from policies.fixed import FixedOrder
from policies.linear import LinTS
from policies.records import Context, DecisionTable, SubjectId
from tests.engine.service_world import START, Clock, open_shop, shop
from tests.offline_eval.worlds import world

COUNTING = Counting(conversion_window_s=DAY_S, kept_window_s=2 * DAY_S)
SETTINGS = CanarySettings(ramp=Ramp((0.5, 1.0), hold_s=3_600.0), small_steps=(0.2,), counting=COUNTING, min_shadow_decisions=30, n_looks=1, relative_effect=1.0)  # fmt: skip
REWARD = RewardDefinition((RewardTerm("active_30d"),), window_s=2 * DAY_S)


def _verdict(
    policy: str,
    incumbent: str,
    words: Sequence[Word] = ("pass", "pass"),
    *,
    inputs: str = "i",
    at: datetime = START,
) -> GateVerdict:
    parts = [Part(f"part {i}", word, (f"because of {word}",)) for i, word in enumerate(words)]
    return conclude(parts, placement="shop", policy=policy, incumbent=incumbent, at=at, inputs=inputs)


def _world(
    folder: Path, clock: Clock, *, words: Sequence[Word] = ("pass", "pass")
) -> tuple[DecisionService, Promotion, str, str]:
    """A shop where "abc" serves and "bac" was judged."""
    service = open_shop(folder, clock=clock)
    old, new = (
        str(service.policies.register(FixedOrder(tuple(o)).to_artifact(), name=n, at=START))
        for n, o in (("old", "abc"), ("new", "bac"))
    )
    service.put_placement(shop(policy=old, reward=REWARD))
    _come(service, clock, 200, tag="before", kept={"old": 0.1}, margin={})
    clock.forward(days=3)
    promotion = Promotion(service, SETTINGS)
    promotion.enter(keep_verdict(service.database, _verdict(new, old, words)), change=Change(clock.now))
    return service, promotion, old, new


def _come(service: DecisionService, clock: Clock, n: int, *, tag: str, kept: dict[str, float], margin: dict[str, float], **features: float) -> None:  # fmt: skip
    """Visitors, of whom a share by policy stays and leaves a margin."""
    requests = [
        DecisionRequest("shop", f"{tag}{i}", dict(features), at=clock.now + timedelta(seconds=20 * i)) for i in range(n)
    ]
    clock.forward(seconds=20 * n)
    told: list[OutcomeRequest] = []
    for i, answer in enumerate(service.decide_many(requests)):
        subject, name = answer.decision.subject, answer.decision.policy.name
        if i % 100 < 100 * kept.get(name, 0.0):
            told += [OutcomeRequest(subject, kind, id=f"{subject}:{kind}") for kind in ("subscribed", "active_30d")]
        if margin:
            told.append(OutcomeRequest(subject, "margin_eur", margin.get(name, 0.0) + i % 5, id=f"{subject}:m"))
    service.outcome_many(told)


def _in_canary(service: DecisionService, promotion: Promotion, clock: Clock) -> None:
    assert any("in the shadow" in line for line in look_after(promotion, at=clock.now))
    _come(service, clock, 40, tag="s", kept={"old": 0.3}, margin={})
    done = look_after(promotion, at=clock.now)
    assert any("is a canary" in line for line in done), done


def test_the_outcomes_follow_from_the_parts() -> None:
    """A refusal decides, then what is needed and open, then pass; what need not apply leaves nothing open."""
    assert _verdict("n@1", "o@1").outcome == "pass"
    assert _verdict("n@1", "o@1", ("open", "refuse")).outcome == "refuse"
    answered = _verdict("n@1", "o@1", ("pass", "open"))
    assert answered.outcome == "log cannot answer"
    assert answered.reasons == ("part 1: because of open",)
    assert "A person may approve it" in answered.next_step
    not_needed = [Part("calibration", "open", ("it has none",), is_needed=False)]
    assert conclude(not_needed, placement="s", policy="n@1", incumbent="o@1", at=START, inputs="").outcome == "pass"


@pytest.mark.parametrize(("rows", "word"), [(6000, "recommend"), (60, "this log cannot answer")])
def test_the_gate_says_the_word_of_the_report(rows: int, word: str) -> None:
    """What the off-policy part of the gate is told begins with the report's verdict, and ends with what would settle it."""
    w = world(n=6000)
    panel = evaluate(w.log.take(np.arange(rows)), {"c": w.better[:rows]}, n_resamples=0)
    part = ope_part(panel, "c")
    assert panel.verdicts["c"].word == word
    assert part.sentences[0].startswith(f"{word.capitalize()}: {panel.verdicts['c'].reasons[0]}")
    assert part.word == ("pass" if word == "recommend" else "open")
    assert [s for s in part.sentences if s.startswith("What would settle it: ")] == [
        f"What would settle it: {data}" for data in panel.verdicts["c"].would_settle
    ]


def test_a_guardrail_that_crosses_takes_the_canary_back(tmp_path: Path) -> None:
    """The canary that loses margin is stopped and retired by itself, its visitors get the old policy, and the log says why."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock)
    with service:
        _in_canary(service, promotion, clock)
        assert [f.kind for f in forecasts_of(service.database)] == ["days to finish"]
        _come(service, clock, 500, tag="c", kept={"old": 0.3, "new": 0.3}, margin={"old": 30.0, "new": 2.0})
        clock.forward(days=3)
        (line,) = [x for x in look_after(promotion, at=clock.now) if "taken back" in x]
        assert "guardrail margin per visitor is worse" in line
        standing = promotion.states.get("shop", new)
        assert standing.state == "retired"
        assert standing.experiment is not None
        assert service.experiments.get(standing.experiment).state == "stopped"
        assert {service.decide(DecisionRequest("shop", f"c{i}")).decision.policy.name for i in range(40)} == {"old"}
        row = next(r for r in read_audit(service.database, what=f"policy {new}") if r.action == "rollback")
        assert (row.actor, row.document["before"], row.document["after"]) == (
            "promotion", {"state": "canary"}, {"state": "retired"},
        )  # fmt: skip
        assert "worse" in row.reason
        assert look_after(promotion, at=clock.now) == []
        assert promotion.live_at("shop") == old


@pytest.mark.slow
def test_a_log_that_is_not_what_happened_takes_the_canary_back(tmp_path: Path) -> None:
    """Where a page shows other offers than were chosen, the canary goes back whatever its figures say."""
    clock = Clock()
    service, promotion, _, new = _world(tmp_path, clock)
    with service:
        _in_canary(service, promotion, clock)
        _come(service, clock, 500, tag="c", kept={"new": 0.9}, margin={})
        assert not any("taken back" in x for x in look_after(promotion, at=clock.now))
        for i in range(40):  # a page that shows another offer than the one that was chosen for it
            decision = service.decide(DecisionRequest("shop", f"d{i}", is_activated=False)).decision
            service.activate(decision.id, shown="c" if i % 2 else decision.offer)
        (line,) = [x for x in look_after(promotion, at=clock.now) if "taken back" in x]
        assert "integrity fails" in line
        assert promotion.states.get("shop", new).state == "retired"


@pytest.mark.slow
def test_a_canary_that_wins_goes_live_and_comes_back_in_one_call(tmp_path: Path) -> None:
    """A shipped canary decides for everybody, its forecast is settled, and one call brings back what was live before."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock)
    with service:
        _in_canary(service, promotion, clock)
        clock.forward(hours=2)
        tick(service.database, at=clock.now)
        service.refresh()
        _come(service, clock, 900, tag="c", kept={"old": 0.1, "new": 0.5}, margin={"old": 1.0, "new": 4.0})
        clock.forward(days=3)
        done = look_after(promotion, at=clock.now)
        assert f"{new} is live at shop" in done, done
        assert service.decide(DecisionRequest("shop", "x1")).decision.policy.name == "new"
        live = promotion.states.get("shop", new)
        assert (live.state, live.previous) == ("live", old)
        assert forecasts_of(service.database, is_open=False)
        assert look_after(promotion, at=clock.now) == []
        gone = promotion.rollback("shop", change=Change(clock.now, "ann", "complaints"))
        assert (gone.policy, gone.state) == (new, "retired")
        assert service.decide(DecisionRequest("shop", "x2")).decision.policy.name == "old"
        assert promotion.states.get("shop", old).state == "live"
        with pytest.raises(StateError, match="the first that was promoted"):
            promotion.rollback("shop", change=Change(clock.now, reason="again"))


def test_what_the_log_cannot_answer_waits_for_a_person_and_stays_small(tmp_path: Path) -> None:
    """Nothing moves before an approval with a name; then the canary has the small steps only. A refusal cannot be approved."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock, words=("pass", "open"))
    with service:
        assert look_after(promotion, at=clock.now) == []
        with pytest.raises(StateError, match="nobody has approved it"):
            promotion.to_shadow("shop", new, change=Change(clock.now))
        verdict = _verdict(new, old, ("pass", "open"))
        approve(service.database, verdict.id, change=Change(clock.now, "ann", "the simulator speaks for it"))
        _in_canary(service, promotion, clock)
        experiment = service.experiments.get(promotion.states.get("shop", new).experiment or "")
        assert experiment.ramp is not None
        assert (experiment.coverage, experiment.ramp.steps) == (0.2, (0.2,))
        refused = keep_verdict(service.database, _verdict(old, new, ("refuse",), inputs="j"))
        assert promotion.enter(refused, change=Change(clock.now)).state == "retired"
        with pytest.raises(StateError, match="the gate said 'refuse'"):
            approve(service.database, refused.id, change=Change(clock.now, "ann", "I like it"))


def test_what_moved_by_itself_is_told_in_real_time_and_once(tmp_path: Path) -> None:
    """News carries the wall clock's time, whatever time the placements live in; a round that was cut off is made good."""
    clock = Clock()
    service, promotion, _, new = _world(tmp_path, clock)
    with service:
        promotion.to_live("shop", new, change=Change(clock.now, "ann", "it is urgent"))
        promotion.rollback("shop", change=Change(clock.now, ACTOR, "integrity fails"))
        before = datetime.now(UTC)
        for _ in range(2):
            clock.forward(hours=1)
            look_after(promotion, at=clock.now, in_simulation=True)
        ((message, _),) = newest(service.database)
        assert message.kind == "policy.taken_back"
        assert message.text("en").body == "integrity fails"
        assert message.at >= before - timedelta(seconds=1)


def test_what_serves_wins_over_the_record(tmp_path: Path) -> None:
    """After a crash between the two, or a hand that changed the placement, the record says what serves."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock)
    with service:
        promotion.to_live("shop", new, change=Change(clock.now, "ann", "it is urgent"))
        service.put_placement(shop(policy=old, reward=REWARD))
        lines = promotion.reconcile("shop", at=clock.now + timedelta(hours=1))
        assert lines == [f"{new} retired: {old} was found in its place"]
        service.put_placement(shop(policy=new, reward=REWARD))
        promotion.reconcile("shop", at=clock.now)
        assert promotion.states.get("shop", new).state == "live"


def test_a_rollback_while_the_canary_goes_live_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken back between the look and the record, a canary does not go live, and what served before serves again."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock)
    with service:
        _in_canary(service, promotion, clock)
        put, other = service.put_placement, Promotion(service, SETTINGS)

        def put_and_taken_back(*args: Any, **given: Any) -> Any:
            monkeypatch.undo()
            made = put(*args, **given)
            other.rollback("shop", new, change=Change(clock.now, "ann", "complaints"))
            return made

        monkeypatch.setattr(service, "put_placement", put_and_taken_back)
        with pytest.raises(ConflictError, match="no longer canary: someone moved it meanwhile"):
            promotion.to_live("shop", new, change=Change(clock.now, reason="it wins"))
        assert promotion.live_at("shop") == old
        assert promotion.states.get("shop", new).state == "retired"
        assert promotion.reconcile("shop", at=clock.now) == []


def test_a_version_that_is_judged_anew_gets_another_canary(tmp_path: Path) -> None:
    """A canary that was taken back is over; the same version, judged anew on a later log, is tried in a new experiment."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock)
    with service:
        _in_canary(service, promotion, clock)
        first = promotion.states.get("shop", new).experiment
        promotion.rollback("shop", new, change=Change(clock.now, "ann", "complaints"))
        clock.forward(days=1)
        again = _verdict(new, old, inputs="j", at=clock.now)
        promotion.enter(keep_verdict(service.database, again), change=Change(clock.now))
        _in_canary(service, promotion, clock)
        second = promotion.states.get("shop", new).experiment
        assert second == f"{first}-2"
        assert service.experiments.get(second).state == "running"


def test_a_base_rate_counts_what_came_within_the_window(tmp_path: Path) -> None:
    """What a visitor did before the first decision, or after its window, is no conversion of a plan."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        for i, hours in enumerate((-5, 2, 30, None)):
            service.decide(DecisionRequest("shop", f"u{i}", at=START + timedelta(hours=10)))
            if hours is not None:
                at = START + timedelta(hours=10 + hours)
                service.outcome(OutcomeRequest(f"u{i}", "subscribed", id=f"s{i}", at=at))
        clock.forward(days=3)
        rate = base_rate(service.database, "shop", kind="subscribed", window_s=DAY_S, at=clock.now)
    assert rate == 0.25


@pytest.mark.slow
def test_a_version_that_fails_in_the_shadow_never_meets_visitors(tmp_path: Path) -> None:
    """A shadow that cannot answer live decisions is retired with the error it made."""
    clock = Clock()
    service, promotion, old, _ = _world(tmp_path, clock)
    with service:
        # It was fitted where x was a text, and the site now sends a number.
        told = [Context(SubjectId(f"u{i}"), {"x": "ab"[i % 2]}) for i in range(9)]
        table = DecisionTable.from_contexts(shop(2).offer_set, told)
        broken = str(service.policies.register(LinTS(FeatureSpace.fit(table)).to_artifact(), name="lints", at=START))
        promotion.enter(keep_verdict(service.database, _verdict(broken, old, inputs="k")), change=Change(clock.now))
        look_after(promotion, at=clock.now)
        _come(service, clock, 40, tag="s", kept={}, margin={}, x=1.0)
        lines = look_after(promotion, at=clock.now)
        assert any(broken in line and "it failed on" in line for line in lines), lines
        assert promotion.states.get("shop", broken).state == "retired"


def test_the_shadow_keeps_to_the_budget_of_its_verdict(tmp_path: Path) -> None:
    """What the gate granted decides: a shadow slower than its own budget is taken back, however the default would have it."""
    clock = Clock()
    service, promotion, old, new = _world(tmp_path, clock)
    with service:
        granted = Part("latency", "pass", ("It is fast.",), {"budget_ms": 1e-6})
        verdict = conclude([granted], placement="shop", policy=new, incumbent=old, at=clock.now, inputs="tight")
        keep_verdict(service.database, verdict)
        look_after(promotion, at=clock.now)
        _come(service, clock, 40, tag="s", kept={}, margin={})
        (line,) = look_after(promotion, at=clock.now)
        assert "was taken back at shop: in the shadow it answered" in line
