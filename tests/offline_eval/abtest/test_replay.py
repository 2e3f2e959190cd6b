"""Looks found again from rows are the looks that were due."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offline_eval.abtest import ExperimentPlan, Metric, Phase, SubjectOutcomes
from offline_eval.abtest.replay import look_days, replay, split_evidence
from policies.errors import InvalidInputError

PLAN = ExperimentPlan(
    "t",
    "A",
    ("A", "B"),
    (Metric("y", "proportion", "primary", window_days=7), Metric("m", "mean", "guardrail")),
    planned_subjects=4000,
    effect=0.05,
)


def rows(
    seed: int = 1, *, lift: float = 0.0, n: int = 5000, share: float = 0.5, as_of: float = 60.0
) -> SubjectOutcomes:
    """A hundred subjects a day."""
    rng = np.random.default_rng(seed)
    variants = np.where(rng.random(n) < share, "B", "A")
    y = (rng.random(n) < 0.2 + lift * (variants == "B")).astype(float)
    return SubjectOutcomes(
        variants, {"y": y, "m": rng.normal(0, 1, n)}, exposed_day=np.arange(n) / 100, as_of_day=as_of
    )


def test_looks_come_when_the_windows_of_enough_subjects_have_closed() -> None:
    """With 100 subjects a day and a window of 7 days, a fifth of 4,000 subjects has matured on day 15, and so on."""
    assert look_days(rows(), PLAN) == pytest.approx([15, 23, 31, 39, 47], abs=0.3)
    assert look_days(rows(as_of=24.0), PLAN) == pytest.approx([15, 23], abs=0.3)


def test_each_look_is_taken_once_and_reading_later_changes_none() -> None:
    """A replay on day 33 has the first three looks of a replay on day 60, figure for figure."""
    early, late = replay(rows(as_of=33.0), PLAN, n_points=4), replay(rows(), PLAN, n_points=9)
    assert [len(r.looks) for _, r in late.looks] == [1, 2, 3, 4, 5]
    assert early.now.looks == late.now.looks[:3]
    assert not early.now.is_planned_look


def test_a_winner_found_at_a_look_stays_found() -> None:
    """The verdict of the look at which the bound was crossed is the verdict of every later day."""
    found = replay(rows(lift=0.08), PLAN, n_points=6)
    first = next(i for i, (_, r) in enumerate(found.looks) if r.verdict.decision == "ship")
    assert 0 < first < 4
    assert all(r.verdict.decision == "ship" for _, r in found.looks[first:])
    assert found.now.verdict.decision == "ship"
    assert [day for day, _ in found.over_time] == pytest.approx(np.linspace(7, 60, 7)[1:])


def test_a_split_that_was_wrong_once_stays_wrong() -> None:
    """Evidence against the split is the largest of all moments, not the last."""
    bad, good = rows(2, share=0.65, n=1000), rows(3, n=9000)
    both = replace(
        good,
        variants=np.concatenate([bad.variants, good.variants]),
        values={k: np.concatenate([bad.values[k], good.values[k]]) for k in good.values},
        exposed_day=np.arange(10_000) / 100,
        as_of_day=200.0,
    )
    day, evidence = split_evidence(both, PLAN)
    found = replay(both, PLAN, n_points=2)
    assert found.now.split.largest_log_bayes_factor == pytest.approx(evidence.max())
    assert day[int(np.argmax(evidence))] < 30
    assert found.now.verdict.decision == "broken"


def test_phases_carry_their_own_information() -> None:
    """A second phase at 80/20 brings information more slowly, so later looks move away."""
    plan = replace(PLAN, phases=(Phase("1", {"A": 5000, "B": 5000}), Phase("2", {"A": 8000, "B": 2000})))
    data = rows(n=7000, as_of=100.0)
    rng = np.random.default_rng(4)
    phase = np.where(np.arange(7000) < 1600, "1", "2")
    variants = np.where(phase == "1", data.variants, np.where(rng.random(7000) < 0.2, "B", "A"))
    days = look_days(replace(data, variants=variants, phases=phase), plan)
    # 1,600 subjects at half, then 3,750 more at 0.64 of the information each, and seven days for the windows.
    assert days[:2] == pytest.approx([15, 23], abs=0.5)
    assert days[-1] == pytest.approx((1600 + 2400 / 0.64) / 100 + 7, abs=2.5)


def test_rows_without_days_cannot_be_replayed() -> None:
    """Without days of exposure there is nothing to find looks by, and the text says so."""
    data = rows()
    with pytest.raises(InvalidInputError, match="no exposed_day"):
        replay(replace(data, exposed_day=None, as_of_day=None), PLAN)
