"""The verdict: which reasons it gives, and whether the data that it asks for would settle it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from offline_eval import Panel, evaluate
from offline_eval.candidates import Candidate
from offline_eval.reward_models import fit_logistic
from policies.features import FeatureSpace
from policies.fixed import FixedOrder
from policies.greedy import greedy
from policies.linear import LinTS
from policies.records import DecisionTable, FloatArray, InteractionBatch
from tests.offline_eval.worlds import offer_set, world

RATES = np.asarray([0.05, 0.05, 0.07])


def drawn(logging: FloatArray, *, seed: int, reward: FloatArray = RATES) -> InteractionBatch:
    """Ten days of a log in which each offer earns 1 at its own rate."""
    n, k = logging.shape
    rng = np.random.default_rng(seed)
    chosen = np.minimum((logging.cumsum(axis=1) <= rng.random((n, 1))).sum(axis=1), k - 1)
    since = np.sort(rng.random(n) * 10 * 86_400e6).astype("timedelta64[us]")
    at = np.datetime64("2026-03-01", "us") + since
    table = DecisionTable(offer_set(k), np.ones((n, k), dtype=np.bool_), at=at)
    taken = np.asarray(rng.random(n) < np.asarray(reward)[chosen]).astype(np.float64)
    return InteractionBatch(table, chosen, logging[np.arange(n), chosen], taken, probabilities=logging)


def share_of(p: float, n: int) -> FloatArray:
    """A candidate that shows the last offer with probability p, else the first."""
    return np.tile([1 - p, 0.0, p], (n, 1))


@pytest.mark.parametrize("p", [0.3, 1.0])
def test_the_data_that_is_asked_for_settles_it(p: float) -> None:
    """Explore the named offer for the named number of decisions, and the interval is as narrow as the effect that matters."""
    n = 12_000
    panel = evaluate(drawn(np.tile([0.5, 0.5, 0.0], (n, 1)), seed=1), {"c": share_of(p, n)}, n_resamples=0)
    verdict = panel.verdicts["c"]
    assert verdict.word == "this log cannot answer"
    asked = re.fullmatch(
        r"5% uniform exploration over offer 2; about ([\d,]+) decisions, ([\d,]+) days at this log's pace.",
        verdict.would_settle[0],
    )
    assert asked is not None, verdict.would_settle
    rows, days = (int(number.replace(",", "")) for number in asked.groups())
    assert days == pytest.approx(rows / n * 10, rel=0.02, abs=1)
    explored = evaluate(
        drawn(np.tile([0.475, 0.475, 0.05], (rows, 1)), seed=2), {"c": share_of(p, rows)}, n_resamples=0
    )
    told = explored.differences["c"][explored.headline].bounds
    value = explored.estimates[explored.incumbent][explored.headline].value
    assert told is not None
    assert value is not None
    assert told.half_width < 1.3 * 0.1 * value
    assert told.half_width > 0.5 * 0.1 * value
    assert not [c for c in explored.checks["c"] if c.status == "fail"]


def test_only_what_the_log_lacks_is_to_be_explored() -> None:
    """A supported offer that the candidate shows more often than the log did needs no exploration."""
    n = 12_000
    panel = evaluate(drawn(np.tile([0.5, 0.5, 0.0], (n, 1)), seed=3), {"c": share_of(0.3, n)}, n_resamples=0)
    assert "over offer 2;" in panel.verdicts["c"].would_settle[0]


def test_many_offers_are_no_reason_to_refuse() -> None:
    """On a uniform log of 100 offers what always shows one of them is judged by its rows, not by the number of offers."""
    k, n = 100, 30_000
    rates = np.full(k, 0.3)
    rates[7] = 0.6
    log = drawn(np.full((n, k), 1 / k), seed=4, reward=rates)
    panel = evaluate(log, {"c": FixedOrder(("offer 7",))}, explore_share=0.05, n_resamples=0)
    assert panel.verdicts["c"].word == "recommend", panel.verdicts["c"]
    (check,) = (c for c in panel.checks["c"] if c.name == "weight of the top 1 %")
    assert check.status == "pass"


def _without_distributions(log: InteractionBatch, factor: float) -> Panel:
    told = replace(log, propensity=np.clip(factor * log.propensity, 0.0, 1.0), probabilities=None)
    return evaluate(told, {"c": share_of(0.3, len(log))}, n_resamples=0)


def test_propensities_that_are_too_large_are_not_taken_for_offers_never_shown() -> None:
    """A mean weight below 1 has two causes; which, whole distributions tell, and they are asked for."""
    log = drawn(np.tile([0.4, 0.3, 0.3], (8000, 1)), seed=5)
    verdict = _without_distributions(log, 1.8).verdicts["c"]
    assert verdict.word == "this log cannot answer"
    assert "or the logged propensities are larger" in verdict.reasons[0]
    assert verdict.would_settle[0].startswith("The whole distribution of every decision")
    verdict = _without_distributions(log, 0.6).verdicts["c"]
    assert "The logged propensities are smaller" in " ".join(verdict.reasons)
    assert verdict.would_settle == (
        "Mend the log first: no amount of it helps while its propensities or rows are not what happened.",
    )


def test_what_fails_for_the_incumbent_is_said_of_it() -> None:
    """Where the log cannot tell what the incumbent would earn, the reason names the incumbent and the offers it lacks."""
    n = 8000
    log = drawn(np.tile([0.5, 0.5, 0.0], (n, 1)), seed=6)
    given: dict[str, Candidate] = {"c": np.tile([1.0, 0.0, 0.0], (n, 1)), "old": share_of(1.0, n)}
    verdict = evaluate(log, given, incumbent="old", n_resamples=0).verdicts["c"]
    assert verdict.word == "this log cannot answer"
    assert all("of the incumbent old: " in reason for reason in verdict.reasons)
    assert len(verdict.would_settle) == 1
    assert "over offer 2;" in verdict.would_settle[0]


def test_rewards_below_nothing_do_not_hide_how_few_there_are() -> None:
    """One refund does not make every row without a reward a positive one."""
    w = world(n=4000, rate=-7.5)
    reward = w.log.reward.copy()
    n_positive = int(reward.sum())
    assert n_positive < 50
    reward[np.flatnonzero(reward == 0)[0]] = -3.0
    panel = evaluate(w.log.with_reward(reward), {"c": w.uniform}, n_resamples=0)
    (check,) = (c for c in panel.log_checks if c.name == "positives in the log")
    assert check.value == n_positive + 1
    assert "have a reward other than 0" in check.sentence
    (weighed,) = (c for c in panel.checks["c"] if c.name == "positives behind the estimate")
    assert f"{n_positive + 1} rewards other than 0 count" in weighed.sentence


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_rewards_that_are_all_alike_are_called_so(reward: float) -> None:
    """No number of rows of one reward tells offers apart, and none is asked for."""
    w = world(n=500)
    verdict = evaluate(w.log.with_reward(np.full(500, reward)), {"c": w.uniform}, n_resamples=0).verdicts["c"]
    assert f"All 500 rows have the reward {reward:g}" in " ".join(verdict.reasons)
    assert verdict.would_settle == (
        f"Rewards that differ: all 500 are {reward:g}, so no number of such rows tells offers apart.",
    )


def test_a_policy_that_looks_at_what_the_log_lacks_is_not_recommended() -> None:
    """What would serve sees a feature that the log does not hold, so another policy was judged: the best word is caution."""
    w = world(n=6000, n_subjects=2500)
    rng = np.random.default_rng(7)
    seen = replace(w.log, table=replace(w.log.table, columns={**w.log.table.columns, "tenure": rng.normal(size=6000)}))
    policy = LinTS(FeatureSpace.fit(seen.table))
    policy.learn(seen)
    greedy_one = greedy(fit_logistic(seen))
    for candidate in (policy, greedy_one):
        whole = evaluate(seen, {"c": candidate}, explore_share=0.05, n_resamples=0)
        lacking = evaluate(w.log, {"c": candidate}, explore_share=0.05, n_resamples=0)
        assert whole.verdicts["c"].word == "recommend"
        assert lacking.verdicts["c"].word == "caution"
        assert any("looks at tenure, which the log does not hold" in r for r in lacking.verdicts["c"].reasons)


def test_identifiers_among_the_context_are_left_out_of_the_model_and_named() -> None:
    """A column of ids that nobody named does not cost the reward model; the panel says which columns it did not use."""
    w = world(n=2000)
    ids = np.asarray([f"row {i}" for i in range(2000)])
    log = replace(w.log, table=replace(w.log.table, columns={**w.log.table.columns, "id": ids}))
    panel = evaluate(log, {"c": w.better}, n_resamples=0)
    assert panel.headline == "SNDR"
    assert panel.notes == ("Left out of the reward model, for they have more than 256 values: id.",)
    plain = evaluate(w.log, {"c": w.better}, n_resamples=0)
    assert panel.estimate("c").value == plain.estimate("c").value
