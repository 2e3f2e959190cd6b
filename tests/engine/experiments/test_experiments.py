"""The life of an experiment: states, revisions, phases, stickiness, and what is counted in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.experiments.records import BASELINE, OWN_POLICY, Experiment, is_version
from engine.experiments.results import experiment_results
from engine.store import tables
from engine.store.changes import Change
from policies.allocation import Split, Variant
from policies.errors import ConflictError, InvalidInputError, StateError, UnknownNameError
from tests.engine.service_world import START, Clock, open_shop, shop

TWO = (Variant("control", 3_000, "baseline"), Variant("new", 7_000, "baseline"))


@pytest.mark.parametrize(
    ("policy", "expected"), [("lints@c973ace9", True), (BASELINE, False), (OWN_POLICY, False), (None, False)]
)
def test_the_baseline_order_and_the_placements_own_policy_are_no_versions(policy: str | None, expected: bool) -> None:
    """Only what is registered can be loaded, learned, and shared by mistake."""
    assert is_version(policy) is expected


def test_variants_are_the_sticky_hash_and_are_logged_with_their_probability(tmp_path: Path) -> None:
    """Every subject of a running experiment gets the variant of its hash, again and again."""
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("e1", "shop", TWO), change=Change(START))
        assert service.decide(DecisionRequest("shop", "u0")).decision.variant is None
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        split = Split("e1", TWO)
        for i in range(30):
            decision = service.decide(DecisionRequest("shop", f"u{i % 11}")).decision
            expected = split.assign(f"u{i % 11}")
            assert expected is not None
            assert (decision.experiment, decision.phase, decision.variant) == ("e1", 1, expected.key)
            assert decision.variant_probability == expected.weight_bp / 10_000
        with service.database.reading() as connection:
            rows = connection.execute(select(tables.assignments)).all()
        assert {(r.subject, r.variant) for r in rows} == {
            (f"u{i}", v.key) for i in range(11) if (v := split.assign(f"u{i}"))
        }


def test_new_weights_open_a_phase_and_move_nobody_who_was_exposed(tmp_path: Path) -> None:
    """A subject stays in the variant and phase of its first exposure; newcomers follow the new weights."""
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("e1", "shop", TWO), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        old = {f"u{i}": service.decide(DecisionRequest("shop", f"u{i}")).decision.variant for i in range(60)}
        changed = service.experiments.reweight(
            "e1", revision=2, weights_bp={"control": 9_000, "new": 1_000}, change=Change(START)
        )
        assert [p.number for p in changed.phases] == [1, 2]
        service.refresh()
        moved = Split("e1", changed.variants)
        assert any(v.key != old[s] for s in old if (v := moved.assign(s)))
        for subject, variant in old.items():
            decision = service.decide(DecisionRequest("shop", subject)).decision
            assert (decision.variant, decision.phase) == (variant, 1)
            assert decision.variant_probability == {"control": 0.3, "new": 0.7}[variant or ""]
        fresh = [service.decide(DecisionRequest("shop", f"n{i}")).decision for i in range(60)]
        assert {d.phase for d in fresh} == {2}
        assert Counter(d.variant for d in fresh)["control"] > 40


def test_coverage_only_adds_subjects(tmp_path: Path) -> None:
    """Who takes part at a tenth takes part, on the same side, at a half; a smaller coverage is refused."""
    with open_shop(tmp_path) as service:
        service.experiments.create(Experiment("e1", "shop", TWO, coverage=0.1), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()

        def variants() -> dict[str, str | None]:
            requests = [DecisionRequest("shop", f"u{i}", dry_run=True) for i in range(200)]
            return {r.subject: a.decision.variant for r, a in zip(requests, service.decide_many(requests), strict=True)}

        few = variants()
        service.experiments.ramp("e1", revision=2, coverage=0.5, change=Change(START))
        service.refresh()
        many = variants()
        assert all(many[s] == v for s, v in few.items() if v is not None)
        assert sum(v is not None for v in many.values()) > 2 * sum(v is not None for v in few.values()) > 0
        with pytest.raises(InvalidInputError, match="it only grows"):
            service.experiments.ramp("e1", revision=3, coverage=0.4, change=Change(START))


def test_each_change_needs_the_last_revision_and_the_right_state(tmp_path: Path) -> None:
    """Two people cannot overwrite each other, a running experiment does not start again, a stopped one stays so."""
    with open_shop(tmp_path) as service:
        experiments = service.experiments
        experiments.create(Experiment("e1", "shop", TWO), change=Change(START, "ann"))
        with pytest.raises(ConflictError, match="exists already"):
            experiments.create(Experiment("e1", "shop", TWO), change=Change(START))
        with pytest.raises(StateError, match="is draft"):
            experiments.stop("e1", revision=1, change=Change(START))
        with pytest.raises(ConflictError, match="at revision 1, not 7"):
            experiments.start("e1", revision=7, change=Change(START))
        experiments.start("e1", revision=1, change=Change(START, "bob"))
        experiments.create(Experiment("e2", "shop", TWO), change=Change(START))
        with pytest.raises(StateError, match="'e1' runs at placement 'shop'"):
            experiments.start("e2", revision=1, change=Change(START))
        experiments.stop("e1", revision=2, change=Change(START, "cy"))
        with pytest.raises(StateError, match="is stopped"):
            experiments.start("e1", revision=3, change=Change(START))
        assert experiments.get("e1").stopped_at == START
        experiments.start("e2", revision=1, change=Change(START))
        service.refresh()
        assert service.decide(DecisionRequest("shop", "u")).decision.experiment == "e2"
        with service.database.reading() as connection:
            rows = connection.execute(
                select(tables.audit).where(tables.audit.c.what == "experiment e1").order_by(tables.audit.c.id)
            ).all()
        assert [(r.actor, r.action) for r in rows] == [("ann", "create"), ("bob", "start"), ("cy", "stop")]


def test_unknown_names_are_answered_with_the_nearest(tmp_path: Path) -> None:
    """A misspelt placement, policy or experiment is named, with what there is."""
    with open_shop(tmp_path) as service:
        with pytest.raises(UnknownNameError, match="did you mean 'shop'"):
            service.experiments.create(Experiment("e1", "shpo", TWO), change=Change(START))
        wrong = (TWO[0], Variant("new", 7_000, "basline"))
        with pytest.raises(UnknownNameError, match="did you mean 'baseline'"):
            service.experiments.create(Experiment("e1", "shop", wrong), change=Change(START))
        with pytest.raises(UnknownNameError, match="unknown experiment 'e9'"):
            service.experiments.get("e9")
        with pytest.raises(InvalidInputError, match="sum to"):
            Experiment("e1", "shop", (TWO[0], Variant("new", 3_000, "baseline")))


def test_time_travel_to_day_40_shows_conversion_retention_and_margin_per_subject(tmp_path: Path) -> None:
    """Outcomes count per exposed subject, inside their windows, and are unknown until the window is over."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock, placements=[shop(), shop(placement="other")]) as service:
        service.experiments.create(Experiment("e1", "shop", TWO), change=Change(clock.now))
        service.experiments.start("e1", revision=1, change=Change(clock.now))
        service.refresh()
        service.outcome(OutcomeRequest("u0", "margin_eur", 99.0))  # before exposure: not the experiment's
        clock.forward(minutes=1)
        for i in range(5):
            service.decide(DecisionRequest("shop", f"u{i}"))
            service.decide(DecisionRequest("other", f"v{i}"))
        day = {d: clock.now.timestamp() + d * 86_400 for d in range(60)}

        def at(days: float) -> object:
            return type(clock.now).fromtimestamp(day[0] + days * 86_400, tz=clock.now.tzinfo)

        for subject, kind, value, when in [
            ("u0", "subscribed", 1.0, 0.1),
            ("u0", "active_30d", 1.0, 30.1),
            ("u0", "margin_eur", 9.0, 0.1),
            ("u0", "margin_eur", -2.5, 20.0),
            ("u1", "subscribed", 1.0, 8.0),  # after the conversion window
            ("u2", "subscribed", 1.0, 6.9),
            ("u2", "margin_eur", 5.0, 39.0),  # after the margin window
            ("u3", "active_30d", 1.0, 30.0),  # kept without having subscribed in the window: not kept
            ("v0", "subscribed", 1.0, 1.0),  # never exposed here
        ]:
            service.outcome(OutcomeRequest(subject, kind, value, at=at(when)))  # type: ignore[arg-type]
        clock.forward(days=10)
        early = experiment_results(service.database, "e1", as_of=clock.now)
        assert early.is_conversion_matured.all()
        assert not early.is_kept_matured.any()
        assert not early.kept.any()
        clock.forward(days=30)
        found = experiment_results(service.database, "e1", as_of=clock.now)
        assert found.is_kept_matured.all()
        assert len(found) == 5
        order = np.argsort(found.subjects)
        assert found.subscribed[order].tolist() == [1, 0, 1, 0, 0]
        assert found.kept[order].tolist() == [1, 0, 0, 0, 0]
        assert found.margin[order].tolist() == [6.5, 0, 0, 0, 0]
        split = Split("e1", TWO)
        expected = [v.key if (v := split.assign(str(s))) else "" for s in found.subjects]
        assert found.variants.tolist() == expected
        assert set(found.phases.tolist()) == {1}
