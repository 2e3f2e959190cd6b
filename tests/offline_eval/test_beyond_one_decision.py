"""Sequences, several loggers, selection, tails, attributes, slates and bounds, each against brute force or by hand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from offline_eval import evaluate
from offline_eval.any_time import any_time_bounds
from offline_eval.checks import check_estimator
from offline_eval.distribution import _quantile, _worst_mean, quantile, worst_mean
from offline_eval.estimators import (
    ClippedIPS,
    DoublyRobust,
    DRos,
    Estimator,
    InversePropensity,
    Rows,
    SelfNormalisedIPS,
    SubGaussianDoublyRobust,
    SubGaussianIPS,
)
from offline_eval.estimators.embedding import MarginalizedIPS, attribute_groups
from offline_eval.intervals import (
    asymptotic_confidence_sequence,
    empirical_bernstein_lower,
    hoeffding_lower,
    lower_confidence_sequence,
    z_value,
)
from offline_eval.loggers import balanced, weighted
from offline_eval.selection import slope
from offline_eval.sequential import Paths, evaluate_sequences, fitted_q
from offline_eval.sequential.estimates import sequential_dr
from offline_eval.slates import evaluate_slates
from policies.errors import InvalidInputError, SchemaError, UnknownNameError
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


def _by_definition(log: InteractionBatch, target: FloatArray, q: FloatArray, discount: float) -> dict[str, float]:
    """Sequential estimates subject by subject and step by step, as the papers write them; a path that ended earns nothing."""
    assert log.table.subjects is not None
    assert log.table.at is not None
    paths = [np.flatnonzero(log.table.subjects == s) for s in np.unique(log.table.subjects)]
    paths = [p[np.argsort(log.table.at[p])] for p in paths]
    n, horizon = len(paths), max(map(len, paths))

    def rho(path: np.ndarray, t: int) -> float:
        done = path[: t + 1]
        return float(np.prod(target[done, log.chosen[done]] / log.propensity[done]))

    found = dict.fromkeys(("PDIS", "self-normalised PDIS", "sequential DR", "weighted sequential DR"), 0.0)
    for t in range(horizon):
        total, before = sum(rho(p, t) for p in paths), sum(rho(p, t - 1) if t else 1.0 for p in paths)
        for path in paths:
            if t < len(path):
                i, paid = path[t], discount**t
                off = log.reward[i] - q[i, log.chosen[i]]
                found["PDIS"] += paid * rho(path, t) * log.reward[i] / n
                found["self-normalised PDIS"] += paid * rho(path, t) * log.reward[i] / total
                v, w = float(target[i] @ q[i]), rho(path, t - 1) if t else 1.0
                found["weighted sequential DR"] += paid * (rho(path, t) * off / total + w * v / before)
    for path in paths:
        to_go = 0.0
        for i in path[::-1]:
            a = log.chosen[i]
            w = target[i, a] / log.propensity[i]
            to_go = float(target[i] @ q[i]) + w * (log.reward[i] + discount * to_go - q[i, a])
        found["sequential DR"] += to_go / n
    found["returns"] = float(np.mean([sum(discount**t * log.reward[i] for t, i in enumerate(p)) for p in paths]))
    return found


def _ragged(seed: int) -> tuple[InteractionBatch, FloatArray, FloatArray]:
    """Paths of unequal lengths in any order, with eligible sets and zero chances: log, candidate, values."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 5, size=int(rng.integers(3, 12)))
    n, k = int(lengths.sum()), int(rng.integers(1, 5))
    eligible = rng.random((n, k)) < 0.7
    chosen = rng.integers(0, k, size=n)
    eligible[np.arange(n), chosen] = True
    logged, target = (
        x / x.sum(axis=1, keepdims=True) for x in rng.gamma(0.7, size=(2, n, k)) * eligible + 1e-9 * eligible
    )
    order = rng.permutation(n)
    table = DecisionTable(
        offer_set(k),
        eligible,
        subjects=np.repeat([f"s{i}" for i in range(len(lengths))], lengths)[order],
        at=np.datetime64("2026-01-01", "us") + np.arange(n)[order].astype("timedelta64[h]"),
    )
    target[0] = np.eye(k)[chosen[0]] if seed % 2 else target[0]
    log = InteractionBatch(table, chosen, logged[np.arange(n), chosen], rng.normal(2.0, 1.0, size=n))
    return log, target, rng.normal(size=(n, k))


@pytest.mark.parametrize("seed", range(8))
def test_sequences_agree_with_the_papers_step_by_step(seed: int) -> None:
    """Per-decision, self-normalised, doubly robust and weighted forms are the definitions to 1e-9, with unequal lengths and churn."""
    log, target, q = _ragged(seed)
    panel = evaluate_sequences(log, target, q_values=q, discount=0.8, n_resamples=5)
    expected = _by_definition(log, target, q, 0.8)
    assert panel.mean_return == pytest.approx(expected.pop("returns"), rel=1e-9)
    for name, value in expected.items():
        assert panel.estimates[name].value == pytest.approx(value, rel=1e-9, abs=1e-12), name


@dataclass(frozen=True)
class Tabular:
    """Mean reward of each offer by step and state; 0 where nothing was seen."""

    means: dict[tuple[float, str, int], float]

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        """From the table."""
        cells = zip(table.columns["step"], table.columns["state"], strict=True)
        return np.asarray([[self.means.get((t, s, a), 0.0) for a in range(table.n_offers)] for t, s in cells])


def _fit_table(batch: InteractionBatch) -> Tabular:
    keys = list(zip(batch.table.columns["step"], batch.table.columns["state"], batch.chosen.tolist(), strict=True))
    sums: dict[tuple[float, str, int], list[float]] = {}
    for key, r in zip(keys, batch.reward, strict=True):
        sums.setdefault(key, []).append(float(r))
    return Tabular({key: float(np.mean(rewards)) for key, rewards in sums.items()})


LEAVING = np.array([0.1, 0.6])  # offer 1 pays more now and drives people away
PAID = np.array([[0.4, 0.5], [0.6, 0.8]])


def _leavers(n: int, seed: int) -> tuple[InteractionBatch, FloatArray, float]:
    """Up to four visits that end by chance, sooner after offer 1: log, candidate, what a subject earns under it."""
    rng = np.random.default_rng(seed)
    logging, candidate = np.array([[0.5, 0.5], [0.3, 0.7]]), np.array([[0.8, 0.2], [0.9, 0.1]])
    who, state, rows = np.arange(n), rng.integers(0, 2, size=n), []
    for t in range(4):
        a = (rng.random(len(who)) < logging[state, 1]).astype(np.int64)
        rows.append((np.full(len(who), t), who, state, a, (rng.random(len(who)) < PAID[state, a]).astype(np.float64)))
        stays = rng.random(len(who)) >= LEAVING[a]
        who, state = who[stays], rng.integers(0, 2, size=int(stays.sum()))
    step, subject, s, a, r = (np.concatenate(x) for x in zip(*rows, strict=True))
    table = DecisionTable(
        offer_set(2),
        np.ones((len(a), 2), dtype=np.bool_),
        columns={"state": s.astype(np.str_)},
        subjects=np.char.add("u", subject.astype(np.str_)),
        at=np.datetime64("2026-01-01", "us") + step.astype("timedelta64[D]"),
    )
    value = np.zeros(2)
    for _ in range(4):
        value = (candidate * (PAID + (1 - LEAVING) * value.mean())).sum(axis=1)
    return InteractionBatch(table, a, logging[s, a], r), candidate[s], float(value.mean())


def test_paths_that_end_sooner_under_some_offers_are_judged_right() -> None:
    """Where an offer drives people away, every sequential form is within four standard errors of dynamic programming."""
    log, target, truth = _leavers(6000, 1)
    panel = evaluate_sequences(log, target, fit_q=_fit_table, n_resamples=5)
    assert panel.mean_return < truth - 0.1
    of_fqe = panel.estimates[
        "sequential DR"
    ].standard_error  # its own error knows contexts only, not what the table learned from
    for name, e in panel.estimates.items():
        assert abs(e.value - truth) < 4 * (of_fqe if name == "FQE" else e.standard_error), name


def test_fitted_q_is_backward_induction_on_the_other_folds() -> None:
    """With a table for a model, FQE is the mean reward plus the mean value-to-go of those who stayed, step by step from the end."""
    log, target, _ = _leavers(40, 2)
    paths = Paths.of(log)
    found = fitted_q(paths, target, fit=_fit_table, discount=0.9, n_folds=2, seed=3)
    state, step = log.table.columns["state"], paths.step
    following = {(paths.path[i], step[i]): i for i in range(len(log))}
    for fold in (0, 1):
        value: dict[tuple[int, str, int], float] = {}
        for t in range(paths.horizon - 1, -1, -1):
            for s, a in itertools.product("01", (0, 1)):
                rows = [
                    i
                    for i in np.flatnonzero((found.folds != fold) & (step == t))
                    if (state[i], log.chosen[i]) == (s, a)
                ]
                goals = []
                for i in rows:
                    j = following.get((paths.path[i], t + 1))
                    ahead = 0.0 if j is None else sum(target[j, b] * value[t + 1, str(state[j]), b] for b in (0, 1))
                    goals.append(log.reward[i] + 0.9 * ahead)
                value[t, s, a] = float(np.mean(goals)) if goals else 0.0
        for i in np.flatnonzero(found.folds == fold):
            expected = [value[int(step[i]), str(state[i]), a] for a in (0, 1)]
            np.testing.assert_allclose(found.values[i], expected, rtol=1e-9)


def test_returns_of_the_candidate_are_recovered_with_their_worst_tenth() -> None:
    """A candidate with the same mean and a wider spread of returns shows it: quantiles and worst tenth are those of its own traffic."""
    rng = np.random.default_rng(3)
    n = 20_000
    risky = rng.integers(0, 2, size=(n, 2))
    reward = rng.normal(1.0, np.where(risky == 1, 3.0, 0.5))
    table = DecisionTable(
        offer_set(2), np.ones((2 * n, 2), dtype=np.bool_), subjects=np.repeat(np.arange(n), 2).astype(np.str_)
    )
    log = InteractionBatch(table, risky.ravel(), np.full(2 * n, 0.5), reward.ravel())
    panel = evaluate_sequences(log, np.tile([0.0, 1.0], (2 * n, 1)), q_values=np.zeros((2 * n, 2)), n_resamples=60)
    assert panel.distribution is not None
    assert panel.logged_distribution is not None
    spread = 3.0 * np.sqrt(2.0)
    for tail, deviates in zip(panel.distribution.quantiles, (-1.645, -0.674, 0.0, 0.674, 1.645), strict=True):
        assert tail.bounds.low - 0.15 < 2.0 + spread * deviates < tail.bounds.high + 0.15
    assert panel.distribution.worst.value == pytest.approx(2.0 - spread * 1.755, abs=0.3)
    assert panel.logged_distribution.worst.value > panel.distribution.worst.value + 1.0
    assert "mean of the worst tenth" in str(panel)
    # Worked out: two subjects, the second shown what the candidate never shows.
    table = DecisionTable(offer_set(2), np.ones((4, 2), dtype=np.bool_), subjects=np.array(["a", "a", "b", "c"]))
    log = InteractionBatch(table, np.array([0, 0, 1, 0]), np.full(4, 0.5), np.array([1.0, 2.0, 9.0, 5.0]))
    told = evaluate_sequences(log, np.tile([1.0, 0.0], (4, 1)), q_values=np.zeros((4, 2)), n_resamples=5).distribution
    assert told is not None  # weights 4, 0 and 2: two thirds of the returns are 3, one third 5
    assert [t.value for t in told.quantiles] == [3.0, 3.0, 3.0, 5.0, 5.0]
    assert told.worst.value == 3.0


def test_values_to_go_that_are_no_numbers_are_refused() -> None:
    """A value-to-go of another shape or not finite is named, for slates as for sequences; half a model is none."""
    log, target, q = _ragged(0)
    q[1, 0] = np.nan
    with pytest.raises(InvalidInputError, match="not finite in 1 rows, the first at 1"):
        evaluate_sequences(log, target, q_values=q)
    with pytest.raises(InvalidInputError, match="returned shape"):
        evaluate_sequences(log, target, q_values=q[:-1])
    half = np.full((3, 2), 0.5)
    with pytest.raises(InvalidInputError, match="one of q_chosen and v is missing"):
        evaluate_slates(half, half, half, v=half)
    with pytest.raises(InvalidInputError, match="v is not finite in 1 slots"):
        evaluate_slates(half, half, half, q_chosen=half, v=np.where(np.arange(6).reshape(3, 2) == 1, np.inf, half))
    with pytest.raises(SchemaError, match="q_chosen has shape"):
        evaluate_slates(half, half, half, q_chosen=half[:1], v=half)
    with pytest.raises(InvalidInputError, match="one slate or one subject"):
        evaluate_slates(half, half, half, subjects=np.array(["a", "a", "a"]))


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
    model = np.tile(q + 0.05, (n, 1))
    model += rng.normal(0.0, 0.1, size=(n, 1))  # of the context
    direct = model @ target[0]
    correction = (target[0] / p)[np.arange(n), chosen] * (log.reward - model[np.arange(n), chosen])
    strata = [variant == v for v in "ab"]
    trust = np.array([m.sum() / (direct + correction)[m].var() for m in strata])
    trust /= trust.sum()
    doubly = direct.mean() + sum(t * correction[m].mean() for t, m in zip(trust, strata, strict=True))
    robust = weighted(log, target, estimator=DoublyRobust(), reward_model=model)
    assert robust.value == pytest.approx(doubly, rel=1e-9)
    spread = [
        (direct[m] * m.mean() + t * correction[m]).var(ddof=1) / m.sum() for t, m in zip(trust, strata, strict=True)
    ]
    assert robust.standard_error == pytest.approx(np.sqrt(sum(spread)), rel=1e-9)
    with pytest.raises(InvalidInputError, match="DR needs reward_model="):
        weighted(log, target, estimator=DoublyRobust())
    with pytest.raises(UnknownNameError):
        balanced(log, {"a": loggers["a"]})
    with pytest.raises(UnknownNameError):
        balanced(log, loggers, shares={"a": 0.4, "b": 0.4, "c": 0.2})
    with pytest.raises(InvalidInputError, match="variant 'b' has rows and no share"):
        balanced(log, loggers, shares={"a": 1.0})
    with pytest.raises(InvalidInputError, match="none below 0"):
        balanced(log, loggers, shares={"a": 0.7, "b": 0.7})
    with pytest.raises(InvalidInputError, match="phases"):
        balanced(replace(log, phases=np.where(np.arange(n) % 2, "1", "2")), loggers)
    with pytest.raises(InvalidInputError, match="logger 'b' gives other probabilities than were logged"):
        balanced(log, {"a": loggers["a"], "b": np.full((n, k), 1 / k)})


@pytest.mark.parametrize("is_true", [True, False])
def test_a_balanced_log_is_tested_against_what_its_rows_were_drawn_from(is_true: bool) -> None:
    """Unlike loggers, and visitors who come often, are no fault of a mixture; offers that a logger did not draw as it says are."""
    rng = np.random.default_rng(9)
    n, n_subjects = 12_000, 1500
    subject = rng.integers(0, n_subjects, size=n)
    variant = np.where(rng.random(n_subjects) < 0.5, "a", "b")[subject]
    loggers = {"a": np.tile([0.9, 0.05, 0.05], (n, 1)), "b": np.tile([0.05, 0.05, 0.9], (n, 1))}
    p = np.where((variant == "a")[:, None], loggers["a"], loggers["b"])
    drawn = p.copy()
    if not is_true:
        drawn[variant == "a"] = [0.8, 0.15, 0.05]
    chosen = (np.cumsum(drawn, axis=1) <= rng.random((n, 1))).sum(axis=1)
    table = DecisionTable(offer_set(3), np.ones((n, 3), dtype=np.bool_), subjects=subject.astype(np.str_))
    reward = (rng.random(n) < np.array([0.1, 0.3, 0.2])[chosen]).astype(np.float64)
    log = InteractionBatch(
        table, chosen, p[np.arange(n), chosen], reward, probabilities=p, variants=variant, policies=variant
    )
    panel = evaluate(balanced(log, loggers), {"c": np.tile([0.2, 0.6, 0.2], (n, 1))}, n_resamples=0)
    by_name = {c.name: c for c in panel.log_checks}
    assert len(by_name) == len(panel.log_checks)
    assert by_name["A/A"].status == by_name["propensities against shown offers"].status == "not known"
    check = by_name["shown offers against logged distributions"]
    if is_true:
        assert check.status == "pass"
        assert panel.verdicts["c"].word == "recommend"
    else:
        assert check.status == "fail"
        assert "where variant is 'a'" in check.sentence
        assert panel.verdicts["c"].word == "this log cannot answer"


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


@pytest.mark.parametrize("estimator", [DRos(0.5), SubGaussianDoublyRobust(0.6), SubGaussianIPS(0.6), ClippedIPS(0.7)])
def test_bias_aware_intervals_hold_what_other_weights_can_cause(estimator: Estimator) -> None:
    """The interval is moved out by E|w - w'| times the size of reward or residual, bent weights and a model beyond the rewards too."""
    w = world(n=4000, sharpness=2.0)
    model = np.full_like(w.mean_reward, 3.0)  # rewards are 0 or 1
    e = evaluate(w.log, {"c": w.better}, estimators=[estimator], reward_model=model).estimate("c", estimator.name)
    assert e.bounds is not None
    assert e.bias_aware is not None
    truth = w.truth(w.better)
    assert not e.bounds.low <= truth <= e.bounds.high
    assert e.bias_aware.low <= truth <= e.bias_aware.high
    weight = w.better[np.arange(4000), w.log.chosen] / w.log.propensity
    used = estimator.shrunk_weight.of(Rows(weight, *[None] * 9))  # type: ignore[arg-type, attr-defined]  # weights alone are used
    change = 1.0 + used - 2 * np.minimum(used, weight)
    lost = change.mean() + z_value(0.05) * change.std(ddof=1) / np.sqrt(4000)
    size = 3.0 if estimator.needs_model else 1.0
    assert e.bias_aware.high - e.bounds.high == pytest.approx(lost * size, rel=1e-9)
    assert e.bounds.low - e.bias_aware.low == pytest.approx(lost * size, rel=1e-9)


def test_any_time_bounds_are_the_confidence_sequence_of_the_panels_influence() -> None:
    """Value and difference are bounded by the published radius at the rows so far; refused where checks say the log cannot answer."""
    w = world(n=3000)
    panel = evaluate(w.log, {"better": w.better, "uniform": w.uniform}, n_resamples=0)
    for against, e in ((None, panel.estimate("better")), ("uniform", panel.difference("better", "uniform"))):
        bounds = any_time_bounds(panel, "better", best_at=5000, against=against)
        rho2 = (-2 * np.log(0.05) + np.log(-2 * np.log(0.05) + 1)) / 5000
        grown = 3000 * rho2 + 1
        radius = (e.standard_error or 0.0) * np.sqrt(2 * grown / (3000 * rho2) * np.log(np.sqrt(grown) / 0.05))
        assert bounds.half_width == pytest.approx(radius, rel=1e-9)
        assert (bounds.low + bounds.high) / 2 == pytest.approx(e.value, rel=1e-9)
    few = evaluate(w.log.take(slice(0, 60)), {"better": w.better[:60]}, n_resamples=0)
    with pytest.raises(InvalidInputError, match="this log cannot answer for 'better'"):
        any_time_bounds(few, "better", best_at=5000)
    with pytest.raises(InvalidInputError, match="number of rows at which you plan to decide"):
        any_time_bounds(panel, "better", best_at=0)


def test_tails_by_brute_force() -> None:
    """Weighted quantiles and worst means equal those of the sample with each value repeated by its weight."""
    rng = np.random.default_rng(1)
    values = np.sort(rng.normal(size=9))
    weights = rng.integers(0, 5, size=9).astype(np.float64)
    repeated = np.repeat(values, weights.astype(np.int64))
    for share in (0.1, 0.37, 0.5, 0.9):
        expected = repeated[int(np.ceil(share * len(repeated) - 1e-9)) - 1]
        assert _quantile(values, np.cumsum(weights), share) == pytest.approx(expected)
        fine = np.repeat(repeated, 100)
        m = round(share * len(fine))
        assert _worst_mean(values, np.cumsum(weights), share) == pytest.approx(fine[:m].mean(), rel=1e-9)


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
    check_estimator(MarginalizedIPS((0, 1, 0), is_normalised=True), right="never")
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
    # One subject of two slates beside another: sums of the influences by subject, m / (m - 1) = 2
    more = [np.concatenate([x, x[:1]]) for x in (logged, target, reward)]
    rips = np.array([10.0, 2.0, 10.0])
    sums = np.array([rips[0] + rips[2] - 2 * rips.mean(), rips[1] - rips.mean()])
    clustered = evaluate_slates(more[0], more[1], more[2], subjects=np.array(["a", "b", "a"]))["RIPS"]
    assert clustered.value == pytest.approx(rips.mean())
    assert clustered.standard_error == pytest.approx(np.sqrt(2 * (sums**2).sum()) / 3)


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
