"""From hourly sums to what a page says: the cost of other weights, segments, margin as what decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.reading import cost_of_weights, read_experiment, read_segments
from engine.experiments.records import Experiment, Plan
from engine.experiments.results import experiment_results
from offline_eval.abtest import SubjectOutcomes, analyse
from offline_eval.abtest.confidence_sequence import sequence_interval
from policies.allocation import Variant
from tests.engine.service_world import START, Clock, open_shop

TWO = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
PLAN = Plan(planned_subjects=1_000, effect=0.05, n_looks=1, visitors_per_day=50.0)


def _filled(service: DecisionService, clock: Clock, n: int = 400) -> None:
    """Visitors with a device, of whom three in ten subscribe (four in ten of the new variant)."""
    service.experiments.create(Experiment("e1", "shop", TWO, plan=PLAN, segments=("device",)), at=START)
    service.experiments.start("e1", revision=1, at=START)
    service.refresh()
    rng = np.random.default_rng(3)
    for i in range(n):
        features = {"device": ("phone", "desk")[i % 2]}
        decision = service.decide(DecisionRequest("shop", f"u{i}", features)).decision
        if rng.random() < (0.4 if decision.variant == "new" else 0.3):
            service.outcome(OutcomeRequest(f"u{i}", "subscribed", id=f"s{i}"))
            service.outcome(OutcomeRequest(f"u{i}", "margin_eur", float(rng.normal(20, 4)), id=f"m{i}"))
        clock.forward(minutes=7)


@pytest.mark.slow
def test_the_reading_from_sums_is_the_reading_of_the_rows(tmp_path: Path) -> None:
    """Effects, errors and the split that a page shows are those that the rows of its subjects give."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        _filled(service, clock)
        as_of = clock.forward(days=50)
        experiment = service.experiments.get("e1")
        reading = read_experiment(service.database, experiment, as_of=as_of, in_simulation=False)
        rows = experiment_results(service.database, "e1", as_of=as_of)
        assert reading.found is not None
        data = SubjectOutcomes(
            rows.variants,
            {"subscribed": rows.subscribed, "kept": rows.kept, "margin": rows.margin},
            phases=rows.phases.astype(str),
        )
        direct = analyse(data, reading.found.now.plan)
        for mine, other in zip(reading.found.now.metrics, direct.metrics, strict=True):
            assert mine.effect.estimate == pytest.approx(other.effect.estimate, abs=1e-12)
            assert mine.effect.standard_error == pytest.approx(other.effect.standard_error, rel=1e-9)
        assert reading.found.now.split.observed == direct.split.observed


def test_the_cost_of_weights_by_hand(tmp_path: Path) -> None:
    """At 80/20 information comes at 0.16 in the place of 0.25 a subject: what is left takes 0.25 / 0.16 as long."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        _filled(service, clock)
        experiment = service.experiments.get("e1")
        reading = read_experiment(service.database, experiment, as_of=clock.forward(days=50), in_simulation=False)
        assert reading.found is not None
        left_days = (1 - reading.found.now.power.fraction) * 1_000 / 50
        uneven = cost_of_weights(reading, {"control": 8_000, "new": 2_000})
        assert uneven == pytest.approx(left_days * (0.25 / 0.16 - 1))
        assert cost_of_weights(reading, {"control": 5_000, "new": 5_000}) == pytest.approx(0)
        # From 80/20 back to halves the same days are saved.
        skewed = replace(experiment, variants=(replace(TWO[0], weight_bp=8_000), replace(TWO[1], weight_bp=2_000)))
        back = cost_of_weights(replace(reading, experiment=skewed), {"control": 5_000, "new": 5_000})
        assert back == pytest.approx(-left_days * (0.25 / 0.16 - 1))
        assert cost_of_weights(replace(reading, is_planned=False), {"control": 8_000, "new": 2_000}) is None


def test_segments_share_the_error(tmp_path: Path) -> None:
    """Two segments are shown with intervals at half the error each; together they have all subjects."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        _filled(service, clock)
        experiment = service.experiments.get("e1")
        reading = read_experiment(service.database, experiment, as_of=clock.forward(days=50), in_simulation=False)
        found = read_segments(reading)
        assert {(s.name, s.value) for s in found} == {("device", "phone"), ("device", "desk")}
        assert sum(s.n_subjects for s in found) == 400
        for s in found:
            by_hand = sequence_interval(
                s.effect.estimate, s.effect.standard_error, n=s.n_subjects, planned=1_000, alpha=0.05 / 2
            )
            assert (s.interval.low, s.interval.high) == pytest.approx((by_hand.low, by_hand.high))


def test_margin_may_decide(tmp_path: Path) -> None:
    """An experiment planned on margin per visitor is judged by it, in money, and has a verdict."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        plan = Plan(planned_subjects=380, effect=5.0, primary="margin", n_looks=1)
        service.experiments.create(Experiment("e1", "shop", TWO, plan=plan), at=START)
        service.experiments.start("e1", revision=1, at=START)
        service.refresh()
        for i in range(400):
            variant = service.decide(DecisionRequest("shop", f"u{i}")).decision.variant
            value = (12.0 if variant == "new" else 4.0) + i % 5
            service.outcome(OutcomeRequest(f"u{i}", "margin_eur", value, id=f"m{i}"))
        as_of = clock.now + timedelta(days=60)
        reading = read_experiment(service.database, service.experiments.get("e1"), as_of=as_of, in_simulation=False)
        assert reading.found is not None
        verdict = reading.found.now.verdict
        assert (verdict.decision, verdict.variant) == ("ship", "new")
        assert "more margin" in verdict.sentence
