"""Plans, subjects, maturity, phases and folding decisions into subjects."""

from __future__ import annotations

import re

import numpy as np
import pytest

from offline_eval.abtest import ExperimentPlan, Metric, Phase, SubjectOutcomes, by_subject, standard_metrics
from policies.errors import InvalidInputError, SchemaError, UnknownNameError


def make_plan(
    *metrics: Metric, phases: tuple[Phase, ...] = (), variants: tuple[str, ...] = ("A", "B")
) -> ExperimentPlan:
    """A plan with a control A."""
    return ExperimentPlan(
        "test",
        "A",
        variants,
        metrics or (Metric("y", "mean", "primary"),),
        planned_subjects=1000,
        effect=0.1,
        phases=phases,
    )


def test_only_matured_subjects_count_whatever_they_did() -> None:
    """A subject younger than the window is left out though good news of it is already known."""
    data = SubjectOutcomes(
        np.array(["A", "A", "B", "B", "B"]),
        {"y": np.array([1.0, 5.0, 2.0, np.nan, 9.0])},
        exposed_day=np.array([0.0, 1.0, 2.0, 6.0, 5.5]),
        as_of_day=10.0,
    )
    rollup = data.rollup(make_plan(Metric("y", "mean", "primary", window_days=5)))
    assert rollup.moments["y"].n.tolist() == [[2, 1]]
    assert rollup.moments["y"].sum_y.tolist() == [[6, 2]]
    assert rollup.exposed.tolist() == [[2, 3]]


def test_subjects_outside_the_plan_are_leaks() -> None:
    """A variant of weight zero in its phase, an unknown variant and an unknown phase are counted as leaks, not analysed."""
    phases = (Phase("1", {"A": 10_000, "B": 0}), Phase("2", {"A": 4000, "B": 6000}))
    data = SubjectOutcomes(
        np.array(["A", "B", "A", "B", "Z", "B"]),
        {"y": np.arange(6.0)},
        phases=np.array(["1", "1", "2", "2", "2", "9"]),
    )
    rollup = data.rollup(make_plan(phases=phases))
    assert rollup.n_leaked == 3
    assert rollup.moments["y"].n.tolist() == [[1, 0], [1, 1]]


def test_decisions_fold_into_subjects() -> None:
    """Values are summed per subject, first exposure gives phase and day, and subjects in two variants are left out and counted."""
    data = by_subject(
        subjects=np.array(["u", "v", "u", "w", "w", "v"]),
        variants=np.array(["A", "B", "A", "A", "B", "B"]),
        values={"y": np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])},
        phases=np.array(["2", "1", "1", "1", "1", "2"]),
        day=np.array([3.0, 1.0, 2.0, 1.0, 2.0, 5.0]),
        as_of_day=9.0,
    )
    assert data.variants.tolist() == ["A", "B"]
    assert data.values["y"].tolist() == [5.0, 34.0]
    assert data.values["decisions"].tolist() == [2.0, 2.0]
    assert data.phases is not None
    assert data.phases.tolist() == ["1", "1"]
    assert data.exposed_day is not None
    assert data.exposed_day.tolist() == [2.0, 1.0]
    assert data.n_multiple_exposed == 1


@pytest.mark.parametrize(
    ("metric", "values", "message"),
    [
        (Metric("y", "mean", "primary"), {"x": [1.0, 2.0]}, "metric 'y' needs column 'y'; the data have ['x']"),
        (Metric("y", "mean", "primary"), {"y": [1.0, np.nan]}, "not finite for 1 matured subjects"),
        (Metric("y", "proportion", "primary"), {"y": [1.0, 2.0]}, "holds other values than 0 and 1"),
    ],
)
def test_bad_columns_are_named(metric: Metric, values: dict[str, list[float]], message: str) -> None:
    """A missing, unfinished or wrong column is refused with its name."""
    data = SubjectOutcomes(np.array(["A", "B"]), {k: np.array(v) for k, v in values.items()})
    with pytest.raises((InvalidInputError, SchemaError), match=re.escape(message)):
        data.rollup(make_plan(metric))


def test_plans_refuse_what_cannot_be_judged() -> None:
    """No primary, an unknown control, weights that do not sum, a phase without a variant: each is refused at construction."""
    with pytest.raises(InvalidInputError, match="have 0 primaries"):
        make_plan(Metric("y", "mean"))
    with pytest.raises(UnknownNameError, match="unknown control variant 'C'"):
        ExperimentPlan("t", "C", ("A", "B"), (Metric("y", "mean", "primary"),), planned_subjects=100, effect=0.1)
    with pytest.raises(InvalidInputError, match="sum to 9000"):
        Phase("1", {"A": 5000, "B": 4000})
    with pytest.raises(InvalidInputError, match="give weight 0"):
        make_plan(phases=(Phase("1", {"A": 10_000}),))
    with pytest.raises(InvalidInputError, match="a ratio names the column"):
        Metric("r", "ratio")
    with pytest.raises(SchemaError, match="come together"):
        SubjectOutcomes(np.array(["A"]), {}, exposed_day=np.zeros(1))
    with pytest.raises(SchemaError, match=re.escape("'y' has shape (3,); expected (2,)")):
        SubjectOutcomes(np.array(["A", "B"]), {"y": np.zeros(3)})


def test_standard_metrics_are_the_products_definitions() -> None:
    """Margin is always a guardrail, kept per visitor needs 30 days, retention only describes."""
    by_name = {m.name: m for m in standard_metrics(currency="₽")}
    assert by_name["margin"].role == "guardrail"
    assert by_name["kept"].role == "primary"
    assert by_name["kept"].window_days == 30
    assert by_name["retention"].role == "descriptive"
    assert by_name["margin"].unit.symbol == "₽"
