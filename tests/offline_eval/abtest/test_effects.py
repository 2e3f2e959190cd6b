"""Effects against other people's arithmetic and against worked examples."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tea_tasting as tt
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from offline_eval.abtest import Metric, Moments
from offline_eval.abtest.effects import compare, newcombe, wilson
from policies.errors import InvalidInputError


def one_phase(groups: list[np.ndarray], others: list[np.ndarray] | None = None, *, cap: float | None = None) -> Moments:
    """Moments of a list of groups in one phase."""
    cell = np.concatenate([np.full(len(g), i) for i, g in enumerate(groups)])
    x = None if others is None else np.concatenate(others)
    return Moments.of(np.concatenate(groups), cell=cell, shape=(1, len(groups)), x=x, cap=cap)


def samples(seed: int, *sizes: int) -> list[np.ndarray]:
    """Skewed positive values, a different mean per group."""
    rng = np.random.default_rng(seed)
    return [rng.gamma(1.5, 3 + i, n) for i, n in enumerate(sizes)]


def test_welch_agrees_with_scipy() -> None:
    """In one phase the difference, its degrees of freedom, p-value and interval are Welch's."""
    a, b = samples(1, 40, 71)
    effect = compare(one_phase([a, b]), Metric("m", "mean"), treatment=1, control=0)
    expected = stats.ttest_ind(b, a, equal_var=False)
    low, high = expected.confidence_interval(0.95)
    assert effect.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert effect.df == pytest.approx(expected.df)
    assert (effect.interval.low, effect.interval.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    ("x_t", "n_t", "x_c", "n_c"), [(56, 70, 48, 80), (9, 10, 3, 10), (0, 20, 3, 35), (12, 9000, 5, 8800)]
)
def test_newcombe_agrees_with_statsmodels(x_t: int, n_t: int, x_c: int, n_c: int) -> None:
    """The interval of a difference of proportions is Newcombe's method 10, rare events included."""
    low, high = confint_proportions_2indep(x_t, n_t, x_c, n_c, compare="diff", method="newcomb")
    made = newcombe(x_t, n_t, x_c, n_c)
    assert (made.low, made.high) == pytest.approx((low, high), abs=1e-10)
    assert wilson(x_t, n_t) == pytest.approx(proportion_confint(x_t, n_t, method="wilson"), abs=1e-12)


def test_newcombe_published_example() -> None:
    """Newcombe (1998), example (a): 56/70 against 48/80 gives 0.0524 to 0.3339."""
    made = newcombe(56, 70, 48, 80)
    assert made.low == pytest.approx(0.0524, abs=5e-5)
    assert made.high == pytest.approx(0.3339, abs=5e-5)


def test_lift_agrees_with_tea_tasting() -> None:
    """The relative change and its interval are the delta method's on the log scale, as in tea-tasting."""
    a, b = samples(2, 300, 410)
    effect = compare(one_phase([a, b]), Metric("m", "mean"), treatment=1, control=0)
    expected = _tea(tt.Mean("y"), a, b)
    assert effect.lift is not None
    assert effect.lift.estimate == pytest.approx(expected.rel_effect_size)
    assert (effect.lift.low, effect.lift.high) == pytest.approx(
        (expected.rel_effect_size_ci_lower, expected.rel_effect_size_ci_upper)
    )


def test_ratio_agrees_with_tea_tasting() -> None:
    """A ratio metric has the delta method's standard error: same difference, p-value and limits as tea-tasting."""
    rng = np.random.default_rng(3)
    x = [rng.poisson(3, n) + 1.0 for n in (220, 310)]
    y = [rng.binomial(d.astype(int), 0.2 + 0.05 * i).astype(float) for i, d in enumerate(x)]
    effect = compare(one_phase(y, x), Metric("r", "ratio", denominator="d"), treatment=1, control=0)
    expected = _tea(tt.RatioOfMeans("y", "x"), y[0], y[1], x[0], x[1])
    assert effect.estimate == pytest.approx(expected.effect_size)
    assert effect.p_value == pytest.approx(expected.pvalue, rel=1e-3)
    assert (effect.interval.low, effect.interval.high) == pytest.approx(
        (expected.effect_size_ci_lower, expected.effect_size_ci_upper), rel=1e-3
    )


def test_cuped_agrees_with_regression_and_tea_tasting() -> None:
    """CUPED removes what the covariate explains: the estimate is close to tea-tasting's, the error about sqrt(1 - r²) of the plain one."""
    rng = np.random.default_rng(4)
    x = [rng.normal(10, 2, n) for n in (1500, 2300)]
    y = [v * 1.2 + 0.3 * i + rng.normal(0, 1.5, len(v)) for i, v in enumerate(x)]
    moments = one_phase(y, x)
    plain = compare(moments, Metric("m", "mean"), treatment=1, control=0)
    adjusted = compare(moments, Metric("m", "mean", covariate="x"), treatment=1, control=0)
    expected = _tea(tt.Mean("y", covariate="x"), y[0], y[1], x[0], x[1])
    r = float(np.corrcoef(np.concatenate(x), np.concatenate(y))[0, 1])
    assert adjusted.estimate == pytest.approx(expected.effect_size, abs=0.02 * adjusted.standard_error)
    assert adjusted.standard_error / plain.standard_error == pytest.approx(np.sqrt(1 - r * r), rel=0.01)
    design = np.column_stack([np.ones(3800), np.repeat([0.0, 1.0], [1500, 2300]), np.concatenate(x)])
    slope = np.linalg.lstsq(design, np.concatenate(y), rcond=None)[0]
    assert adjusted.estimate == pytest.approx(slope[1], abs=1e-9)


def test_phases_are_compared_within_themselves() -> None:
    """Two phases worked by hand: weights 4·2/6 and 2·4/6 are equal, so the effect is the plain mean of 2 and 4."""
    phase_1 = ([1.0, 3.0, 1.0, 3.0], [3.0, 5.0])
    phase_2 = ([10.0, 12.0], [14.0, 16.0, 14.0, 16.0])
    y = np.concatenate([*phase_1, *phase_2])
    cell = np.repeat([0, 1, 2, 3], [4, 2, 2, 4])
    effect = compare(Moments.of(y, cell=cell, shape=(2, 2)), Metric("m", "mean"), treatment=1, control=0)
    # Variances of a mean: 4/3/4, 2/2, 2/2, 4/3/4; each phase has weight 1/2.
    assert effect.estimate == pytest.approx((2.0 + 4.0) / 2)
    assert effect.standard_error == pytest.approx(np.sqrt(0.25 * (1 / 3 + 1 + 1 + 1 / 3)))
    assert (effect.control, effect.treatment) == pytest.approx(((2 + 11) / 2, (4 + 15) / 2))
    assert effect.information == pytest.approx(4 * 2 / 6 * 2)


def test_pooling_over_a_change_of_weights_would_invent_an_effect() -> None:
    """With a base rate that drifts and weights that change, the stratified difference stays zero where the pooled one does not."""
    means, n = np.array([[0.10, 0.10], [0.20, 0.20]]), np.array([[900, 100], [100, 900]])
    sums = means * n
    zero = np.zeros((2, 2))
    effect = compare(Moments(n * 1.0, sums, sums, zero, zero, zero), Metric("m", "mean"), treatment=1, control=0)
    pooled = sums.sum(axis=0) / n.sum(axis=0)
    assert effect.estimate == pytest.approx(0.0)
    assert pooled[1] - pooled[0] == pytest.approx(0.08)


def test_a_phase_without_one_variant_adds_nothing() -> None:
    """A phase in which the treatment had no traffic carries no information on the difference."""
    a, b = samples(5, 30, 45)
    lone = np.full(20, 100.0)
    y = np.concatenate([a, b, lone])
    cell = np.concatenate([np.zeros(30, int), np.ones(45, int), np.full(20, 2)])
    both = compare(Moments.of(y, cell=cell, shape=(2, 2)), Metric("m", "mean"), treatment=1, control=0)
    alone = compare(one_phase([a, b]), Metric("m", "mean"), treatment=1, control=0)
    assert both.estimate == pytest.approx(alone.estimate)
    assert both.standard_error == pytest.approx(alone.standard_error)


def test_caps_count_as_the_cap() -> None:
    """Winsorised moments are those of the capped values."""
    a, b = samples(6, 50, 64)
    capped = compare(one_phase([a, b], cap=6.0), Metric("m", "mean", cap=6.0), treatment=1, control=0)
    assert capped.estimate == pytest.approx(np.minimum(b, 6).mean() - np.minimum(a, 6).mean())


def test_moments_add_up() -> None:
    """Rollups of two days added are the rollup of both days."""
    a, b = samples(7, 33, 57)
    total = one_phase([a[:10], b[:20]], [b[:10], a[:20]]) + one_phase([a[10:], b[20:]], [b[10:33], np.arange(37.0)])
    whole = one_phase([a, b], [np.concatenate([b[:10], b[10:33]]), np.concatenate([a[:20], np.arange(37.0)])])
    for name in ("n", "sum_y", "sum_yy", "sum_x", "sum_xx", "sum_xy"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name))


def test_too_few_subjects_is_an_error_with_advice() -> None:
    """One matured subject in a variant cannot be compared, and the text says what to do."""
    with pytest.raises(InvalidInputError, match=re.escape("wait until more subjects have matured")):
        compare(one_phase([np.ones(1), np.ones(9)]), Metric("m", "mean"), treatment=1, control=0)


def _tea(metric: Any, *columns: np.ndarray) -> Any:
    """Let tea-tasting analyse control and treatment columns (y, then x)."""
    import pyarrow as pa

    y_c, y_t, *rest = columns
    table = {"variant": np.repeat([0, 1], [len(y_c), len(y_t)]), "y": np.concatenate([y_c, y_t])}
    if rest:
        table["x"] = np.concatenate(rest)
    return tt.Experiment({"m": metric}).analyze(pa.table(table))["m"]
