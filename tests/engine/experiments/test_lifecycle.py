"""States beyond running, switches over all experiments, ramps, and the log of every change."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.audit import read_audit
from engine.experiments.automation import next_step, tick
from engine.experiments.checklist import checklist
from engine.experiments.controls import set_controls
from engine.experiments.records import Experiment, Plan, Ramp
from engine.experiments.results import experiment_results
from engine.store.changes import Change
from policies.allocation import Variant
from policies.eligibility import Condition
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError
from policies.fixed import Uniform
from tests.engine.service_world import START, Clock, open_shop, shop

TWO = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
PLAN = Plan(planned_subjects=2_000, effect=0.02)


def _done(service: DecisionService, at: datetime) -> list[str]:
    """Kinds of what happened by itself."""
    return [h.kind for h in tick(service.database, at=at)]


def test_an_approval_is_of_the_draft_as_it_stood(tmp_path: Path) -> None:
    """A plan that is fixed afterwards was not approved, so the draft does not start by the old word."""
    with open_shop(tmp_path) as service:
        experiments = service.experiments
        set_controls(service.database, change=Change(START, "root"), needs_approval=True)
        experiments.create(Experiment("e1", "shop", TWO), change=Change(START, "ann"))
        experiments.approve("e1", revision=1, change=Change(START, "bob"))
        assert experiments.fix_plan("e1", PLAN, revision=2, change=Change(START, "ann")).approved_by == ""
        with pytest.raises(StateError, match="has not been approved as it stands"):
            experiments.start("e1", revision=3, change=Change(START, "ann"))


def test_a_variant_and_the_placement_share_no_learner_unnoticed(tmp_path: Path) -> None:
    """The placement's own policy beside the version it runs is one learner under two names, refused unless sharing is meant."""
    with open_shop(tmp_path) as service:
        ref = str(service.policies.register(Uniform().to_artifact(), name="even", at=START))
        service.put_placement(shop(policy=ref))
        variants = (Variant("now", 5_000, "placement"), Variant("new", 5_000, ref))
        draft = Experiment("e1", "shop", variants)
        with pytest.raises(
            InvalidInputError, match=r"'now' and 'new' are both decided by .* \(which placement 'shop' runs\)"
        ):
            service.experiments.create(draft, change=Change(START))
        service.experiments.create(replace(draft, data_scope="shared"), change=Change(START))
        assert service.experiments.get("e1").data_scope == "shared"


def _variants(
    service: DecisionService, n: int = 300, *, placement: str = "shop", **features: float
) -> dict[str, str | None]:
    requests = [DecisionRequest(placement, f"u{i}", dict(features), dry_run=True) for i in range(n)]
    return {r.subject: a.decision.variant for r, a in zip(requests, service.decide_many(requests), strict=True)}


def test_a_draft_is_edited_approved_scheduled_and_starts_by_itself(tmp_path: Path) -> None:
    """Approval is of the draft as it stands, a schedule starts it, and each change tells before, after, who and why."""
    with open_shop(tmp_path) as service:
        experiments = service.experiments
        set_controls(service.database, change=Change(START, "root"), needs_approval=True)
        experiments.create(Experiment("e1", "shop", TWO, hypothesis="more"), change=Change(START, "ann"))
        with pytest.raises(StateError, match="has not been approved"):
            experiments.start("e1", revision=1, change=Change(START))
        with pytest.raises(StateError, match="ann made the draft of 'e1' and cannot approve it"):
            experiments.approve("e1", revision=1, change=Change(START, "ann"))
        experiments.approve("e1", revision=1, change=Change(START, "bob"))
        edited = experiments.edit("e1", {"coverage": 0.5}, revision=2, change=Change(START, "ann", "half is enough"))
        assert (edited.coverage, edited.approved_by) == (0.5, "")
        with pytest.raises(UnknownNameError, match="did you mean 'coverage'"):
            experiments.edit("e1", {"covrage": 0.5}, revision=3, change=Change(START))
        experiments.approve("e1", revision=3, change=Change(START, "bob"))
        with pytest.raises(InvalidInputError, match="is not after now"):
            experiments.schedule("e1", revision=4, starts_at=START, change=Change(START))
        experiments.schedule("e1", revision=4, starts_at=START + timedelta(hours=2), change=Change(START))
        assert _done(service, START + timedelta(hours=1)) == []
        assert _done(service, START + timedelta(hours=3)) == ["started"]
        assert experiments.get("e1").state == "running"
        rows = read_audit(service.database, what="experiment e1")
        assert [r.action for r in rows] == ["start", "schedule", "approve", "edit", "approve", "create"]
        change = rows[3].document
        assert change["before"]["coverage"] == 1.0
        assert change["after"]["coverage"] == 0.5
        assert (rows[3].actor, rows[3].reason) == ("ann", "half is enough")
        stopped = experiments.stop("e1", revision=6, change=Change(START))
        assert experiments.archive("e1", revision=stopped.revision, change=Change(START)).state == "archived"


def test_a_plan_is_fixed_once(tmp_path: Path) -> None:
    """A second plan is refused; one fixed after the start is marked as late; one that makes no sense is refused."""
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("e1", "shop", TWO), change=Change(START))
        with pytest.raises(InvalidInputError, match="expected a few subjects a variant"):
            service.experiments.fix_plan("e1", Plan(1, 0.02), revision=1, change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        late = service.experiments.fix_plan("e1", PLAN, revision=2, change=Change(START))
        assert late.plan is not None
        assert late.plan.is_late
        with pytest.raises(ConflictError, match="has a plan already"):
            service.experiments.fix_plan("e1", PLAN, revision=3, change=Change(START))
        assert service.experiments.get("e1").plan == late.plan


def test_pause_takes_everyone_out_and_back_to_the_same_side(tmp_path: Path) -> None:
    """While everything is paused nobody is in an experiment; afterwards everybody is where they were."""
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("e1", "shop", TWO), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        before = _variants(service)
        set_controls(service.database, change=Change(START, "ann", "the price page is wrong"), is_paused=True)
        service.refresh()
        assert set(_variants(service).values()) == {None}
        assert read_audit(service.database)[0].action == "pause"
        set_controls(service.database, change=Change(START), is_paused=False)
        service.refresh()
        assert _variants(service) == before


def test_the_holdout_sees_no_experiment(tmp_path: Path) -> None:
    """Who is held out is in no experiment at any placement, and the same tenth is held out everywhere."""
    with open_shop(tmp_path, placements=[shop(), shop(placement="other")]) as service:
        set_controls(service.database, change=Change(START), holdout_bp=1_000)
        for name, placement in (("e1", "shop"), ("e2", "other")):
            service.experiments.create(Experiment(name, placement, TWO), change=Change(START))
            service.experiments.start(name, revision=1, change=Change(START))
        service.refresh()
        out = {s for s, v in _variants(service, 1_000).items() if v is None}
        assert 60 < len(out) < 145  # 100 expected, five standard deviations either side
        assert out == {s for s, v in _variants(service, 1_000, placement="other").items() if v is None}


def test_one_layer_gives_a_subject_to_one_experiment(tmp_path: Path) -> None:
    """Two experiments run at one placement in separate slots of a layer; overlapping slots and no layer are refused."""
    with open_shop(tmp_path) as service:
        experiments = service.experiments
        halves = {"e1": (0, 5_000), "e2": (5_000, 10_000), "e3": (4_000, 6_000)}
        for name, slots in halves.items():
            experiments.create(Experiment(name, "shop", TWO, layer="prices", slots=slots), change=Change(START))
        experiments.create(Experiment("e4", "shop", TWO), change=Change(START))
        experiments.start("e1", revision=1, change=Change(START))
        experiments.start("e2", revision=1, change=Change(START))
        with pytest.raises(StateError, match="separate slots"):
            experiments.start("e3", revision=1, change=Change(START))
        with pytest.raises(StateError, match="runs at placement"):
            experiments.start("e4", revision=1, change=Change(START))
        service.refresh()
        requests = [DecisionRequest("shop", f"u{i}", dry_run=True) for i in range(400)]
        taken = [a.decision.experiment for a in service.decide_many(requests)]
        assert set(taken) == {"e1", "e2"}
        assert 150 < taken.count("e1") < 250


def test_targeting_looks_at_first_exposure_and_moves_nobody(tmp_path: Path) -> None:
    """Only visitors that match take part; one that no longer matches stays in its variant."""
    with open_shop(tmp_path) as service:
        only = (Condition("age", ">=", 30.0),)
        service.experiments.create(Experiment("e1", "shop", TWO, targeting=only), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        assert set(_variants(service, age=20.0).values()) == {None}
        first = service.decide(DecisionRequest("shop", "u", {"age": 40.0})).decision.variant
        assert first is not None
        assert service.decide(DecisionRequest("shop", "u", {"age": 20.0})).decision.variant == first


def test_who_is_made_to_look_is_not_counted(tmp_path: Path) -> None:
    """A forced subject gets its variant's policy, belongs to no experiment, and is in no result."""
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("e1", "shop", TWO, forced={"tester": "new"}), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        answer = service.decide(DecisionRequest("shop", "tester", explain=True))
        assert (answer.decision.experiment, answer.decision.variant) == (None, None)
        assert answer.explanation is not None
        assert any("made to look at e1: new" in step for step in answer.explanation.steps)
        service.decide(DecisionRequest("shop", "visitor"))
        assert experiment_results(service.database, "e1", as_of=START).subjects.tolist() == ["visitor"]
        with pytest.raises(UnknownNameError, match="unknown variant"):
            service.experiments.force("e1", {"tester": "newer"}, revision=2, change=Change(START))


@pytest.mark.slow
def test_a_ramp_holds_looks_and_goes_on(tmp_path: Path) -> None:
    """Each step lasts its time; while nobody came or a guardrail is worse the ramp stays, and says why once."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        ramp = Ramp((0.1, 0.5, 1.0), hold_s=3_600.0)
        service.experiments.create(Experiment("e1", "shop", TWO, ramp=ramp, plan=PLAN), change=Change(clock.now))
        assert service.experiments.start("e1", revision=1, change=Change(clock.now)).phases[0].coverage == 0.1
        assert _done(service, clock.forward(minutes=30)) == []
        assert _done(service, clock.forward(hours=1)) == ["held"]
        assert "nobody has been exposed" in read_audit(service.database)[0].reason
        n_rows = len(read_audit(service.database))
        assert _done(service, clock.forward(hours=1)) == ["held"]
        assert len(read_audit(service.database)) == n_rows
        service.refresh()
        for i in range(60):
            service.decide(DecisionRequest("shop", f"u{i}"))
        assert _done(service, clock.forward(hours=1)) == ["ramped"]
        assert next_step(service.experiments.get("e1")) == 1.0
        service.refresh()
        for i in range(600):
            decision = service.decide(DecisionRequest("shop", f"v{i}")).decision
            if decision.variant is not None and i % (10 if decision.variant == "control" else 2):
                service.outcome(OutcomeRequest(f"v{i}", "subscribed", id=f"s{i}"))
                service.outcome(OutcomeRequest(f"v{i}", "margin_eur", 30.0 + i % 7, id=f"m{i}"))
        assert _done(service, clock.forward(days=60)) == ["held"]
        assert "is worse with new" in read_audit(service.database)[0].reason


def test_a_planned_end_stops_it(tmp_path: Path) -> None:
    """An experiment with an end stops by itself."""
    with open_shop(tmp_path) as service:
        end = START + timedelta(days=10)
        service.experiments.create(Experiment("e1", "shop", TWO, ends_at=end), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        assert _done(service, end - timedelta(seconds=1)) == []
        assert _done(service, end) == ["stopped"]


def test_the_checklist_says_what_would_go_wrong(tmp_path: Path) -> None:
    """An A/A split, a missing plan and a taken placement are points of the list; only the last blocks."""
    with open_shop(tmp_path) as service:
        same = (Variant("a", 5_000, "baseline"), Variant("b", 5_000, "baseline"))
        service.experiments.create(Experiment("e1", "shop", TWO), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        draft = service.experiments.create(Experiment("e2", "shop", same), change=Change(START))
        open_points = {c.name: c for c in checklist(service.database, draft, at=START) if not c.is_done}
        assert set(open_points) == {"plan", "room", "difference"}
        assert [c.name for c in open_points.values() if c.is_blocking] == ["room"]
