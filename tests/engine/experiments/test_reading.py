"""From hourly sums to what a page says: the cost of other weights, segments, margin as what decides."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionRequest, OutcomeRequest
from engine.decisions.service import DecisionService
from engine.experiments.parts import EDGES
from engine.experiments.reading import cost_of_weights, read_segments, take_reading
from engine.experiments.records import Experiment, Plan
from engine.experiments.results import experiment_results
from engine.store.changes import Change
from offline_eval.abtest import SubjectOutcomes, analyse
from offline_eval.abtest.confidence_sequence import sequence_interval
from policies.allocation import Variant
from tests.engine.service_world import START, Clock, open_shop

TWO = (Variant("control", 5_000, "baseline"), Variant("new", 5_000, "placement"))
PLAN = Plan(planned_subjects=1_000, effect=0.05, n_looks=1, visitors_per_day=50.0)


def _filled(service: DecisionService, clock: Clock, n: int = 400) -> None:
    """Visitors with a device, of whom three in ten subscribe (four in ten of the new variant)."""
    service.experiments.create(Experiment("e1", "shop", TWO, plan=PLAN, segments=("device",)), change=Change(START))
    service.experiments.start("e1", revision=1, change=Change(START))
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
        reading = take_reading(service.database, experiment, as_of=as_of, in_simulation=False)
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
        reading = take_reading(service.database, experiment, as_of=clock.forward(days=50), in_simulation=False)
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
        reading = take_reading(service.database, experiment, as_of=clock.forward(days=50), in_simulation=False)
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
        service.experiments.create(Experiment("e1", "shop", TWO, plan=plan), change=Change(START))
        service.experiments.start("e1", revision=1, change=Change(START))
        service.refresh()
        for i in range(400):
            variant = service.decide(DecisionRequest("shop", f"u{i}")).decision.variant
            value = (12.0 if variant == "new" else 4.0) + i % 5
            service.outcome(OutcomeRequest(f"u{i}", "margin_eur", value, id=f"m{i}"))
        as_of = clock.now + timedelta(days=60)
        reading = take_reading(service.database, service.experiments.get("e1"), as_of=as_of, in_simulation=False)
        assert reading.found is not None
        verdict = reading.found.now.verdict
        assert (verdict.decision, verdict.variant) == ("ship", "new")
        assert "more margin" in verdict.sentence


def _rich(service: DecisionService, clock: Clock, plan: Plan, n: int = 500) -> Experiment:
    """Visitors whose past spending tells what they will pay, a few of whom pay enormously; some leave again."""
    service.experiments.create(Experiment("e1", "shop", TWO, plan=plan, segments=("device",)), change=Change(START))
    service.experiments.start("e1", revision=1, change=Change(START))
    service.refresh()
    rng = np.random.default_rng(8)
    for i in range(n):
        past = float(rng.gamma(2.0, 10.0))
        features = {"device": ("phone", "desk")[i % 2], **({"past": past} if i % 10 else {})}
        decision = service.decide(DecisionRequest("shop", f"u{i}", features)).decision
        if rng.random() < 0.25 + past / 100 + 0.05 * (decision.variant == "new"):
            at = clock.now
            paid = past + float(rng.normal(20, 5)) + (3_000.0 if i % 97 == 0 else 0.0)
            told = {"subscribed": 1.0, "margin_eur": paid - 10, "revenue_eur": paid}
            if rng.random() < 0.6:
                told["active_30d"] = 1.0
            else:
                service.outcome(
                    OutcomeRequest(f"u{i}", "cancelled", at=at + timedelta(hours=int(rng.integers(1, 900))))
                )
            service.outcome_many([OutcomeRequest(f"u{i}", kind, value, at=at) for kind, value in told.items()])
        clock.forward(minutes=50)
    return service.experiments.get("e1")


@pytest.mark.slow
def test_adjusting_and_capping_from_sums_is_that_of_the_rows(tmp_path: Path) -> None:
    """CUPED, its imbalance, capped money and revenue that decides: from the rollup as from the rows, and both narrow the intervals."""
    clock = Clock()
    plan = Plan(planned_subjects=400, effect=2.0, primary="revenue", n_looks=2, covariate="past", cap_quantile=0.95)
    with open_shop(tmp_path, clock=clock) as service:
        experiment = _rich(service, clock, plan)
        as_of = clock.forward(days=60)
        reading = take_reading(service.database, experiment, as_of=as_of, in_simulation=False)
        plain = take_reading(
            service.database,
            replace(experiment, plan=replace(plan, cap_quantile=None)),
            as_of=as_of,
            in_simulation=False,
        )
        rows = experiment_results(service.database, "e1", as_of=as_of)
        assert reading.found is not None
        assert plain.found is not None
        now = reading.found.now
        values = {n: getattr(rows, n) for n in ("subscribed", "kept", "margin", "revenue")} | {"past": rows.covariate}
        direct = analyse(SubjectOutcomes(rows.variants, values, phases=rows.phases.astype(str)), now.plan)
        assert [m.metric for m in now.metrics] == [m.metric for m in direct.metrics]
        for mine, other in zip(now.metrics, direct.metrics, strict=True):
            assert mine.effect.estimate == pytest.approx(other.effect.estimate, rel=1e-9, abs=1e-12)
            assert mine.effect.standard_error == pytest.approx(other.effect.standard_error, rel=1e-9)
            if other.imbalance is None:
                assert (mine.imbalance, mine.metric.name) == (None, "retention")
            else:
                assert mine.imbalance is not None
                assert mine.imbalance.low == pytest.approx(other.imbalance.low, rel=1e-9)
        cap = now.plan.metric("revenue").cap
        assert cap in EDGES
        # The cap is that of the first look's worth of visitors, whose hours are whole ones.
        assert cap is not None
        first = rows.revenue[np.argsort(rows.exposed_at, kind="stable")][:201]
        buyers = np.sort(first[first > 0])
        assert cap == EDGES[np.searchsorted(EDGES, buyers[int(np.ceil(0.95 * len(buyers))) - 1])]
        assert rows.revenue.max() > 10 * cap
        assert now.of("revenue").effect.standard_error < 0.5 * plain.found.now.of("revenue").effect.standard_error
        unadjusted = analyse(
            SubjectOutcomes(rows.variants, values, phases=rows.phases.astype(str)),
            replace(now.plan, metrics=tuple(replace(m, covariate=None) for m in now.plan.metrics)),
        )
        assert now.of("revenue").effect.standard_error < 0.97 * unadjusted.of("revenue").effect.standard_error
        assert not now.of("revenue").is_imbalanced
        parts = read_segments(reading)
        assert sum(s.effect.n_control + s.effect.n_treatment for s in parts) == len(rows)
        on_phone = np.asarray([int(s[1:]) % 2 == 0 for s in rows.subjects.tolist()])
        phones = SubjectOutcomes(rows.variants[on_phone], {n: v[on_phone] for n, v in values.items()})
        of_rows = analyse(phones, replace(now.plan, phases=())).of("revenue").effect
        phone = next(s for s in parts if s.value == "phone")
        assert phone.effect.estimate == pytest.approx(of_rows.estimate, rel=1e-9)
        assert phone.effect.standard_error == pytest.approx(of_rows.standard_error, rel=1e-9)


@pytest.mark.slow
def test_stays_from_counts_are_those_of_the_rows(tmp_path: Path) -> None:
    """The curve of a variant is Kaplan and Meier's over its subscribers, each followed for the days that are over for certain."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        experiment = _rich(service, clock, PLAN)
        day_us = 86_400_000_000
        for as_of in (clock.forward(days=3), clock.forward(days=40)):
            reading = take_reading(service.database, experiment, as_of=as_of, in_simulation=False)
            curves = reading.survival()
            rows = service.database.rows(
                "SELECT variant, subscribed_us, left_us FROM exposures WHERE subscribed_us IS NOT NULL"
            )
            for variant in ("control", "new"):
                stays = []
                for v, came, left in rows:
                    followed = int(as_of.timestamp() * 1e6) // day_us - came // day_us - 1
                    if v == variant and followed >= 0:
                        stayed = followed + 1 if left is None else (left - came) // day_us
                        stays.append((min(stayed, followed), stayed <= followed))
                curve, share = curves[variant], 1.0
                for day in range(len(curve.day)):
                    at_risk = sum(t >= day for t, _ in stays)
                    share *= 1 - sum(t == day and over for t, over in stays) / at_risk
                    assert curve.at_risk[day] == at_risk
                    assert curve.at(day) == pytest.approx(share)
                assert share < 0.9
