"""Bounds, estimated propensities and open windows: what holds where assumptions do, and refusals where they do not."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from offline_eval import evaluate
from offline_eval.censoring import RewardWindow, inverse_censoring, matured
from offline_eval.distribution import worst_mean
from offline_eval.estimated import choice_probabilities, estimate_propensities, fit_choice
from offline_eval.estimators import InversePropensity
from offline_eval.interop.arrow import read_parquet, write_parquet
from offline_eval.loggers import balanced
from offline_eval.lower_bounds import lower_bounds
from offline_eval.sequential import evaluate_sequences
from policies.errors import InvalidInputError
from policies.fixed import Uniform
from policies.records import DecisionTable, InteractionBatch
from policies.stacking import concatenate
from tests.offline_eval.worlds import offer_set, softmax, tiny_log, world


def test_lower_bounds_by_hand() -> None:
    """Four rows of weights 2, 0, 5 (cut at 4) and 1: Hoeffding's and Bernstein's formulas on shifted, capped rewards."""
    table = DecisionTable(offer_set(2), np.ones((4, 2), dtype=np.bool_))
    log = InteractionBatch(
        table, np.array([0, 1, 0, 1]), np.array([0.5, 0.5, 0.2, 0.5]), np.array([1.0, 0.0, 0.5, -1.0])
    )
    target = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    told = lower_bounds(log, target, reward_range=(-1.0, 1.0), weight_cap=4.0)
    values = np.array([2 * 2.0, 0 * 1.0, 4 * 1.5, 1 * 0.0])
    assert told.n_capped == 1
    assert told.hoeffding == pytest.approx(-1.0 + values.mean() - 8 * math.sqrt(math.log(20) / 8))
    spread = math.sqrt(2 * values.var(ddof=1) * math.log(40) / 4)
    assert told.empirical_bernstein == pytest.approx(-1.0 + values.mean() - spread - 7 * 8 * math.log(40) / 9)
    assert told.any_time == told.sequence[-1] >= -1.0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reward_range": (0.0, 0.5)}, "rewards lie outside the declared range"),
        ({"reward_range": (1.0, 0.0)}, "expected the least and the largest possible reward"),
        ({"weight_cap": math.inf}, "expected a number above 0, declared before the log is seen"),
        ({"n_subjects": 500}, "expected independent rows"),
    ],
)
def test_bounds_are_refused_where_their_assumptions_break(change: dict[str, object], words: str) -> None:
    """A range that rewards leave, no range, no cap, or several rows of one subject are named instead of bounded."""
    n_subjects = change.pop("n_subjects", None)
    w = world(n=1000, n_subjects=n_subjects if isinstance(n_subjects, int) else None)
    settings: dict[str, object] = {"reward_range": (0.0, 1.0), "weight_cap": 20.0, **change}
    with pytest.raises(InvalidInputError, match=re.escape(words)):
        lower_bounds(w.log, w.better, **settings)  # type: ignore[arg-type]  # wrong on purpose


def test_choice_model_recovers_its_coefficients() -> None:
    """The model of who was shown what finds the probabilities a logistic logger drew from, over eligible offers only."""
    rng = np.random.default_rng(1)
    n, k = 20_000, 4
    x = np.column_stack([np.ones(n), rng.normal(size=n), rng.normal(size=n)])
    theta = rng.normal(size=(3, k))
    eligible = rng.random((n, k)) < 0.8
    eligible[:, 0] = True
    p = choice_probabilities(theta, x, eligible)
    chosen = np.minimum((np.cumsum(p, axis=1) <= rng.random(n)[:, None]).sum(axis=1), k - 1)
    found = choice_probabilities(fit_choice(x, chosen, eligible, penalty=1.0), x, eligible)
    assert (found[~eligible] == 0).all()
    assert np.abs(found - p).mean() < 0.01


def test_estimated_propensities_balance_what_the_context_explains() -> None:
    """On a log drawn by a logistic policy the estimates pass the balance check, come close, and cap the verdict at caution."""
    rng = np.random.default_rng(3)
    n = 6000
    x = rng.normal(size=n)
    slope = np.array([0.8, 0.0, -0.8])
    true = softmax(-np.outer(x, slope))
    chosen = np.minimum((np.cumsum(true, axis=1) <= rng.random(n)[:, None]).sum(axis=1), 2)
    q = 1 / (1 + np.exp(-(-1.0 + np.outer(x, slope))))
    reward = (rng.random(n) < q[np.arange(n), chosen]).astype(np.float64)
    table = DecisionTable(offer_set(3), np.ones((n, 3), dtype=np.bool_), columns={"x": x})
    log = InteractionBatch(table, chosen, np.ones(n), reward)
    estimated = estimate_propensities(log)
    assert np.abs(np.asarray(estimated.batch.probabilities) - true).mean() < 0.02
    target = softmax(2 * np.outer(x, slope))
    panel = evaluate(estimated, {"better": target})
    assert panel.verdicts["better"].word == "caution"
    dr = panel.estimate("better", "DR")
    assert dr.value == pytest.approx(float((target * q).sum(axis=1).mean()), abs=4 * (dr.standard_error or 0))
    status = {c.name: c.status for c in panel.log_checks}
    assert status["balance under estimated propensities"] == "pass"
    assert status["A/A"] == status["shown offers against logged distributions"] == "not known"


def test_a_choice_the_model_cannot_express_fails_the_balance_check() -> None:
    """A logger with a floor of exploration is no logistic one: weighted rows stay unbalanced, and the log cannot answer."""
    w = world(n=8000)
    log = replace(w.log, probabilities=None, propensity=np.ones(8000))
    panel = evaluate(estimate_propensities(log), {"better": w.better})
    assert panel.verdicts["better"].word == "this log cannot answer"
    assert "in x for offer" in panel.verdicts["better"].reasons[0]
    assert "Log the probability of each shown offer" in panel.verdicts["better"].would_settle[0]


def test_rare_offers_are_named_where_propensities_are_estimated() -> None:
    """An offer in fewer than ten rows is refused by name: its propensity cannot be estimated."""
    log, _, _ = tiny_log(12, 3)
    with pytest.raises(InvalidInputError, match="were shown in fewer than ten rows"):
        estimate_propensities(log)


def test_open_windows_by_hand() -> None:
    """Three followed for 10, 5 and 1 days: a reward after 4 days was visible for two of three, one after 12 never counts."""
    w = world(n=3)
    as_of = datetime(2026, 3, 11, tzinfo=UTC)
    at = np.array(["2026-03-01", "2026-03-06", "2026-03-10"], dtype="datetime64[us]")
    log = replace(w.log, table=replace(w.log.table, at=at), reward=np.array([0.0, 1.0, 1.0]))
    window = RewardWindow(10, as_of)
    delay = np.array([np.nan, 4.0, 0.5])
    weighed = inverse_censoring(log, window, delay)
    np.testing.assert_allclose(weighed.reward, [0.0, 1.5, 1.0])
    closed = matured(log.with_reward(np.ones(3)), window, np.array([12.0, 4.0, 0.5]))
    assert len(closed) == 1
    assert closed.reward.tolist() == [0.0]
    with pytest.raises(InvalidInputError, match="no row has been followed for the whole window of 11 days"):
        inverse_censoring(log, RewardWindow(11, as_of), delay)
    with pytest.raises(InvalidInputError, match="as_of has no time zone"):
        RewardWindow(10, datetime(2026, 3, 11))


def test_weighted_rewards_have_a_mean_and_no_quantiles(tmp_path: Path) -> None:
    """Money weighed for open windows goes beyond what anyone paid: no quantiles are made of it, wherever the log has been since."""
    w = world(n=400)
    at = np.datetime64("2026-03-01", "us") + np.arange(400) * np.timedelta64(1, "h")
    money = np.where(w.log.reward > 0, 10.0 * (1 + np.arange(400) % 2), 0.0)
    log = replace(w.log, table=replace(w.log.table, at=at, subjects=np.arange(400).astype(np.str_)), reward=money)
    window = RewardWindow(10, datetime(2026, 3, 17, 16, tzinfo=UTC))
    delay = np.where(money > 0, np.arange(400) % 10, np.nan)
    weighed = inverse_censoring(log, window, delay)
    assert weighed.reward.max() > 20.0
    variants = np.repeat(["a", "b"], 200)
    assert log.probabilities is not None
    mixed = balanced(replace(weighed, variants=variants), {"a": log.probabilities, "b": log.probabilities})
    write_parquet(weighed, tmp_path / "log.parquet")
    for one in (
        weighed,
        weighed.take(slice(1, None)),
        concatenate([weighed, log]),
        mixed,
        read_parquet(tmp_path / "log.parquet"),
    ):
        panel = evaluate(one, {"c": Uniform()}, n_resamples=10, fit_reward=None, estimators=[InversePropensity()])
        assert panel.distributions == {}
        assert {c.name: c.status for c in panel.log_checks}["drift of the reward"] == "not known"
        assert panel.to_json()["over_time"]["c"] == []
        assert panel.notes[-1].startswith("No quantiles: rewards that came stand for others not seen yet")
    with pytest.raises(InvalidInputError, match="read the log without is_weighted=True"):
        worst_mean(weighed, Uniform(), share=0.1)
    over_time = evaluate_sequences(weighed, Uniform(), n_resamples=5)
    assert over_time.distribution is None
    assert over_time.logged_distribution is None
    closed = evaluate(matured(log, window, delay), {"c": Uniform()}, n_resamples=10, fit_reward=None)
    assert closed.distributions["c"].curve[-1][1] == 20.0


def test_a_reward_without_a_delay_is_refused() -> None:
    """When a reward came is not known: it may have come too late, and is neither counted nor taken for none."""
    w = world(n=3)
    at = np.full(3, np.datetime64("2026-03-01", "us"))
    log = replace(w.log, table=replace(w.log.table, at=at), reward=np.array([3.0, 0.0, 2.0]))
    for close in (matured, inverse_censoring):
        with pytest.raises(InvalidInputError, match="2 rows have a reward and no delay, the first at 0"):
            close(log, RewardWindow(1, datetime(2026, 3, 11, tzinfo=UTC)), np.full(3, np.nan))
