"""Sequences, several loggers, selection, tails, attributes, slates and bounds, each against brute force or by hand."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from offline_eval import evaluate
from offline_eval.checks import check_estimator
from offline_eval.distribution import quantile, weighted_quantile, weighted_worst_mean, worst_mean
from offline_eval.estimators import DoublyRobust, DRos, InversePropensity, SelfNormalisedIPS
from offline_eval.estimators.embedding import MarginalizedIPS, attribute_groups
from offline_eval.intervals import (
    asymptotic_confidence_sequence,
    empirical_bernstein_lower,
    hoeffding_lower,
    lower_confidence_sequence,
)
from offline_eval.loggers import balanced, weighted
from offline_eval.selection import slope
from offline_eval.sequential import Paths, evaluate_sequences
from offline_eval.sequential.estimates import sequential_dr
from offline_eval.slates import evaluate_slates
from policies.errors import InvalidInputError, UnknownNameError
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from tests.offline_eval.worlds import offer_set, tiny_log, world


def _chain(n: int, seed: int, *, horizon: int = 3) -> tuple[InteractionBatch, FloatArray, float]:
    """A two-state chain where offer 1 pays more when the state is 1 and moves there: log, candidate, its true return."""
    rng = np.random.default_rng(seed)
    candidate = np.array([[0.2, 0.8], [0.4, 0.6]])
    state = np.zeros(n, dtype=np.int64)
    rows = []
    for t in range(horizon):
        a = rng.integers(0, 2, size=n)
        p_reward = np.array([[0.2, 0.1], [0.3, 0.7]])[state, a]
        r = (rng.random(n) < p_reward).astype(np.float64)
        rows.append((np.full(n, t), np.arange(n), state.copy(), a, r))
        state = np.where(rng.random(n) < np.where(a == 1, 0.8, 0.2), 1, 0)
    step, subject, s, a, r = (np.concatenate(x) for x in zip(*rows, strict=True))
    order = rng.permutation(len(a))
    table = DecisionTable(
        offer_set(2),
        np.ones((len(a), 2), dtype=np.bool_),
        columns={"state": s[order].astype(np.str_)},
        subjects=np.char.add("u", subject[order].astype(np.str_)),
        at=np.datetime64("2026-01-01", "us") + step[order].astype("timedelta64[D]"),
    )
    log = InteractionBatch(table, a[order], np.full(len(a), 0.5), r[order])
    truth = 0.0
    value = np.zeros(2)
    for _ in range(horizon):
        paid = np.array([[0.2, 0.1], [0.3, 0.7]])
        move = np.array([0.2, 0.8])
        value = np.array(
            [
                sum(candidate[x, y] * (paid[x, y] + move[y] * value[1] + (1 - move[y]) * value[0]) for y in (0, 1))
                for x in (0, 1)
            ]
        )
    truth = float(value[0])
    return log, candidate[s[order]], truth


def test_sequential_estimates_recover_the_truth_of_a_chain() -> None:
    """On a chain solved by dynamic programming every sequential estimator is within four standard errors, FQE included."""
    log, target, truth = _chain(4000, 0)
    panel = evaluate_sequences(log, target)
    for name in ("PDIS", "self-normalised PDIS", "sequential DR", "weighted sequential DR"):
        e = panel.estimates[name]
        assert abs(e.value - truth) < 4 * e.standard_error, name
    assert panel.estimates["FQE"].value == pytest.approx(truth, abs=0.08)
    assert panel.estimates["sequential DR"].standard_error < panel.estimates["PDIS"].standard_error
    assert panel.word == "recommend"


def test_sequential_estimates_by_hand() -> None:
    """Two paths of lengths two and one, worked out on paper."""
    ratio = np.array([[2.0, 0.5], [0.5, 1.0]])
    reward = np.array([[1.0, 2.0], [3.0, 0.0]])
    q = np.array([[0.5, 1.0], [1.0, 0.0]])
    v = np.array([[1.0, 0.5], [2.0, 0.0]])
    # path 0: step 1: 0.5 + 0.5 (2 - 1) = 1; step 0: 1 + 2 (1 + 1 - 0.5) = 4. path 1: 2 + 0.5 (3 - 1) = 3
    np.testing.assert_allclose(sequential_dr(ratio, reward, q, v, discount=1.0), [4.0, 3.0])
    table = DecisionTable(offer_set(2), np.ones((3, 2), dtype=np.bool_), subjects=np.array(["a", "b", "a"]))
    log = InteractionBatch(table, np.array([0, 1, 1]), np.array([0.25, 0.5, 0.8]), np.array([1.0, 3.0, 2.0]))
    paths = Paths.of(log)
    assert paths.horizon == 2
    assert paths.step.tolist() == [0, 0, 1]
    assert paths.path[0] == paths.path[2] != paths.path[1]


def test_one_step_sequences_are_one_decision() -> None:
    """With one decision per subject, sequential forms equal IPS, SNIPS and DR."""
    w = world(n=300)
    subjects = np.array([f"s{i}" for i in range(300)])
    log = replace(w.log, table=replace(w.log.table, subjects=subjects))
    panel = evaluate_sequences(log, w.better, q_values=w.mean_reward)
    flat = evaluate(log, {"c": w.better}, reward_model=w.mean_reward)
    for ours, theirs in (
        ("PDIS", "IPS"),
        ("self-normalised PDIS", "SNIPS"),
        ("sequential DR", "DR"),
        ("FQE", "DM"),
        ("weighted sequential DR", "SNDR"),
    ):
        assert panel.estimates[ours].value == pytest.approx(flat.estimate("c", theirs).value)
        assert panel.estimates[ours].standard_error == pytest.approx(flat.estimate("c", theirs).standard_error)


def test_collapsed_weights_are_said() -> None:
    """Over many visits the weights of an unlike candidate collapse, and the answer is that the log cannot answer."""
    log, _, _ = _chain(400, 1, horizon=12)
    target = np.tile([0.98, 0.02], (len(log), 1))
    panel = evaluate_sequences(log, target)
    assert panel.word == "this log cannot answer"
    assert panel.effective_subjects[-1] < 0.05 * panel.effective_subjects[0]
    assert "THIS LOG CANNOT ANSWER" in str(panel)


def test_balanced_loggers_have_no_more_variance_and_the_same_mean() -> None:
    """Pooled over two variants, balanced weights are steadier than averages by precision, and these than each row's own."""
    rng = np.random.default_rng(2)
    n, k = 20_000, 3
    loggers = {"a": np.tile([0.9, 0.05, 0.05], (n, 1)), "b": np.tile([0.05, 0.05, 0.9], (n, 1))}
    variant = np.where(rng.random(n) < 0.5, "a", "b")
    p = np.where((variant == "a")[:, None], loggers["a"], loggers["b"])
    chosen = (np.cumsum(p, axis=1) <= rng.random(n)[:, None]).sum(axis=1)
    q = np.array([0.1, 0.3, 0.2])
    table = DecisionTable(offer_set(k), np.ones((n, k), dtype=np.bool_))
    log = InteractionBatch(
        table, chosen, p[np.arange(n), chosen], (rng.random(n) < q[chosen]).astype(np.float64), variants=variant
    )
    target = np.tile([0.4, 0.2, 0.4], (n, 1))
    naive = evaluate(log, {"c": target}, fit_reward=None).estimate("c", "IPS")
    pooled = evaluate(balanced(log, loggers), {"c": target}, fit_reward=None).estimate("c", "IPS")
    assert pooled.standard_error is not None
    assert pooled.value is not None
    assert naive.standard_error is not None
    assert pooled.standard_error < 0.8 * naive.standard_error
    assert abs(pooled.value - float(target[0] @ q)) < 4 * pooled.standard_error
    between = weighted(log, target)
    assert between.value is not None
    assert between.standard_error is not None
    assert pooled.standard_error < between.standard_error <= naive.standard_error
    assert abs(between.value - float(target[0] @ q)) < 4 * between.standard_error
    halves = [
        evaluate(log.take(variant == v), {"c": target[variant == v]}, fit_reward=None).estimate("c", "IPS")
        for v in "ab"
    ]
    sizes = [int((variant == v).sum()) for v in "ab"]
    precision = [(e.standard_error or 0.0) ** -2 * m / (m - 1) for e, m in zip(halves, sizes, strict=True)]
    by_hand = sum(p * (e.value or 0.0) for p, e in zip(precision, halves, strict=True)) / sum(precision)
    assert between.value == pytest.approx(by_hand, rel=1e-12)
    with pytest.raises(UnknownNameError):
        balanced(log, {"a": loggers["a"]})
    with pytest.raises(InvalidInputError, match="phases"):
        balanced(replace(log, phases=np.where(np.arange(n) % 2, "1", "2")), loggers)
    with pytest.raises(InvalidInputError, match="logger 'b' gives other probabilities than were logged"):
        balanced(log, {"a": loggers["a"], "b": np.full((n, k), 1 / k)})


def test_slope_takes_shrinkage_only_while_it_agrees() -> None:
    """With a good model much shrinkage is chosen; with a bad one it stays near plain DR."""
    w = world(n=4000, sharpness=2.0)
    grid = [DRos(s) for s in (0.1, 1.0, 10.0, 1000.0)]
    names = [e.name for e in grid] + ["DR"]
    good = evaluate(w.log, {"c": w.better}, estimators=[*grid, DoublyRobust()], reward_model=w.mean_reward)
    assert slope(good, "c", names).estimator == "DRos (0.1)"
    bad_model = np.full_like(w.mean_reward, 0.9)
    bad = evaluate(w.log, {"c": w.better}, estimators=[*grid, DoublyRobust()], reward_model=bad_model)
    chosen = slope(bad, "c", names)
    assert chosen.estimator not in ("DRos (0.1)", "DRos (1)")
    assert chosen.value == pytest.approx(w.truth(w.better), abs=0.1)


def test_bias_aware_intervals_cover_where_normal_ones_do_not() -> None:
    """A shrunk estimator with a bad model is far off its normal interval, and inside the bias-aware one."""
    w = world(n=4000, sharpness=2.0)
    bad_model = np.full_like(w.mean_reward, 0.9)
    e = evaluate(w.log, {"c": w.better}, estimators=[DRos(0.5)], reward_model=bad_model).estimate("c", "DRos (0.5)")
    truth = w.truth(w.better)
    assert e.bounds is not None
    assert e.bias_aware is not None
    assert not e.bounds.low <= truth <= e.bounds.high
    assert e.bias_aware.low <= truth <= e.bias_aware.high


def test_tails_by_brute_force() -> None:
    """Weighted quantiles and worst means equal those of the sample with each value repeated by its weight."""
    rng = np.random.default_rng(1)
    values = np.sort(rng.normal(size=9))
    weights = rng.integers(0, 5, size=9).astype(np.float64)
    repeated = np.repeat(values, weights.astype(np.int64))
    for share in (0.1, 0.37, 0.5, 0.9):
        expected = repeated[int(np.ceil(share * len(repeated) - 1e-9)) - 1]
        assert weighted_quantile(values, weights, share) == pytest.approx(expected)
        fine = np.repeat(repeated, 100)
        m = round(share * len(fine))
        assert weighted_worst_mean(values, weights, share) == pytest.approx(fine[:m].mean(), rel=1e-9)


def test_tails_of_the_candidate_are_recovered() -> None:
    """Median and worst fifth under the candidate are those of its own traffic."""
    rng = np.random.default_rng(4)
    n = 20_000
    chosen = rng.integers(0, 2, size=n)
    reward = rng.normal(np.where(chosen == 1, 2.0, 0.0), np.where(chosen == 1, 3.0, 1.0))
    log = InteractionBatch(
        DecisionTable(offer_set(2), np.ones((n, 2), dtype=np.bool_)), chosen, np.full(n, 0.5), reward
    )
    always = np.tile([0.0, 1.0], (n, 1))
    median = quantile(log, always, share=0.5)
    assert median.value == pytest.approx(2.0, abs=0.15)
    assert median.bounds.low < 2.0 < median.bounds.high
    worst = worst_mean(log, always, share=0.2)
    assert worst.value == pytest.approx(2.0 - 3.0 * 1.3998, abs=0.2)
    assert worst.bounds.low < worst.value < worst.bounds.high
    with pytest.raises(InvalidInputError, match="share"):
        quantile(log, always, share=1.0)


def test_attribute_weights_by_hand_and_for_two_attributes() -> None:
    """MIPS weighs joint combinations: brute force over offers with equal attributes, two attributes at once."""
    features = [{"size": s, "colour": c} for s, c in itertools.product("ab", "xy")] + [{"size": "a", "colour": "x"}]
    offers = OfferSet([Offer(OfferId(f"o{i}"), f) for i, f in enumerate(features)])
    groups = attribute_groups(offers, ["size", "colour"])
    assert groups == (0, 1, 2, 3, 0)
    log, target, _ = tiny_log(8, 5)
    assert log.probabilities is not None
    value = evaluate(log, {"c": target}, estimators=[MarginalizedIPS(groups), InversePropensity()], fit_reward=None)
    expected = 0.0
    for i in range(8):
        same = [j for j in range(5) if groups[j] == groups[int(log.chosen[i])]]
        expected += target[i, same].sum() / log.probabilities[i, same].sum() * log.reward[i] / 8
    assert value.estimate("c", "MIPS").value == pytest.approx(expected)
    alone = evaluate(
        log, {"c": target}, estimators=[MarginalizedIPS((0, 1, 2, 3, 4)), SelfNormalisedIPS()], fit_reward=None
    )
    assert alone.estimate("c", "MIPS").value == pytest.approx(value.estimate("c", "IPS").value)
    check_estimator(MarginalizedIPS((0, 1, 0), is_normalised=True))
    with pytest.raises(InvalidInputError, match="attribute"):
        attribute_groups(offers, ["weight"])


def test_slates_by_hand() -> None:
    """Two slates of two slots, worked out on paper; with a zero model Cascade-DR is the cascade estimate."""
    logged, target = np.array([[0.5, 0.25], [0.5, 0.5]]), np.array([[1.0, 0.5], [0.25, 0.5]])
    reward = np.array([[1.0, 2.0], [4.0, 0.0]])
    found = evaluate_slates(logged, target, reward, q_chosen=np.zeros((2, 2)), v=np.zeros((2, 2)))
    assert found["SIPS"].value == pytest.approx((4 * 3 + 0.5 * 4) / 2)
    assert found["IIPS"].value == pytest.approx((2 * 1 + 2 * 2 + 0.5 * 4) / 2)
    assert found["RIPS"].value == pytest.approx((2 * 1 + 4 * 2 + 0.5 * 4) / 2)
    assert found["Cascade-DR"].value == pytest.approx(found["RIPS"].value)


def test_bounds_by_hand() -> None:
    """Hoeffding and empirical Bernstein bounds are their formulas; a smaller variance helps only the second."""
    assert hoeffding_lower(0.5, 200, width=1.0, alpha=0.05) == pytest.approx(0.5 - np.sqrt(np.log(20) / 400))
    assert empirical_bernstein_lower(0.5, 0.04, 200, width=1.0, alpha=0.05) == pytest.approx(
        0.5 - np.sqrt(2 * 0.04 * np.log(40) / 200) - 7 * np.log(40) / (3 * 199)
    )


@pytest.mark.slow
def test_confidence_sequences_hold_at_all_times() -> None:
    """The lower sequence misses the mean at any time in at most 5 % of heavy-tailed streams, the asymptotic one likewise."""
    rng = np.random.default_rng(0)
    n_streams, n, missed, missed_asymptotic = 400, 3000, 0, 0
    steps = np.arange(1.0, n + 1)
    for _ in range(n_streams):
        x = np.where(rng.random(n) < 0.05, 20.0 * rng.random(n), 0.0)  # mean 0.5, weights up to 20
        low = lower_confidence_sequence(x, alpha=0.05, scale=1.0, best_at=n)
        missed += bool((low > 0.5).any())
        mean = np.cumsum(x) / steps
        spread = np.sqrt(np.maximum(np.cumsum(x**2) / steps - mean**2, 0.0))
        below, above = asymptotic_confidence_sequence(mean, spread, steps, alpha=0.05, best_at=n)
        missed_asymptotic += bool(((below > 0.5) | (above < 0.5))[300:].any())
    limit = n_streams * 0.05 + 3 * np.sqrt(n_streams * 0.05 * 0.95)
    assert missed <= limit
    assert missed_asymptotic <= limit
    assert low[-1] > 0.25
