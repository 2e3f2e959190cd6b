"""Reward models from logged interactions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.models.metrics import expit
from engine.models.onnx_graphs import run_graph
from engine.training.reward import KINDS, Kind, fit_reward_model
from offline_eval.reward_models import cross_fit
from policies.artifact import load_artifact, save_artifact
from policies.errors import InvalidInputError, UnknownNameError
from policies.protocols import RewardModel
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from policies.registry import load_reward_model

PRICE = np.array([4.0, 6.0, 9.0, 12.0])
OFFERS = OfferSet([Offer(OfferId(f"plan_{i}"), {"price": p, "trial": i % 2 == 0}) for i, p in enumerate(PRICE)])


def world(n: int, *, seed: int = 0) -> tuple[InteractionBatch, FloatArray]:
    """Interactions under a uniform log, and the true probability of each offer in each row."""
    rng = np.random.default_rng(seed)
    thrifty = np.asarray(["yes", "no", ""])[rng.integers(0, 3, size=n)]
    visits = rng.gamma(2.0, 3.0, size=n)
    steep = np.where(thrifty == "yes", 0.35, 0.05)
    truth = expit(0.4 - steep[:, None] * (PRICE[None] - 4.0) + 0.05 * (visits[:, None] - 6.0))
    table = DecisionTable(
        OFFERS,
        np.ones((n, 4), dtype=np.bool_),
        {"thrifty": thrifty, "visits": visits},
        {"sequence": rng.normal(size=(n, 3)).astype(np.float32)},
        subjects=np.asarray([f"s{i}" for i in rng.integers(0, n // 2, size=n)]),
    )
    chosen = rng.integers(0, 4, size=n)
    reward = (rng.random(n) < truth[np.arange(n), chosen]).astype(np.float64)
    return InteractionBatch(table, chosen, np.full(n, 0.25), reward), truth


@pytest.mark.parametrize("kind", KINDS)
def test_fit_finds_the_truth_and_survives_saving(kind: Kind, tmp_path: Path) -> None:
    """Within 0.06 of the true probabilities where the constant is 0.17 away; the saved graph answers the same."""
    batch, _ = world(6000)
    fresh, truth = world(1500, seed=1)
    model = fit_reward_model(batch, kind=kind, seed=2)
    assert isinstance(model, RewardModel)
    found = model.expected_reward(fresh.table)
    assert found.shape == (1500, 4)
    error = np.sqrt(np.mean((found - truth) ** 2))
    assert error < 0.06 < np.sqrt(np.mean((batch.reward.mean() - truth) ** 2))
    back = load_reward_model(load_artifact(save_artifact(model.to_artifact(), tmp_path / "model")))
    np.testing.assert_array_equal(back.expected_reward(fresh.table), found)
    # The offer's column follows the offer, and a row alone is a row of the batch.
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(back.expected_reward(fresh.table.permute_offers(order)), found[:, order], atol=1e-6)
    np.testing.assert_allclose(back.expected_reward(fresh.table.take(np.array([5]))), found[5:6], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_rewards_in_money_keep_their_unit(kind: Kind) -> None:
    """A reward that is no probability is estimated in its own unit: each offer's mean within 4 standard errors of the log."""
    batch, truth = world(6000, seed=3)
    money = batch.with_reward(batch.reward * PRICE[batch.chosen])
    model = fit_reward_model(money, kind=kind, seed=0)
    found = model.expected_reward(batch.table)
    shown = np.bincount(batch.chosen, minlength=4)
    spread = np.array([money.reward[batch.chosen == offer].std() for offer in range(4)])
    assert (np.abs(found.mean(axis=0) - (truth * PRICE).mean(axis=0)) < 4 * spread / np.sqrt(shown)).all()


def test_trees_in_the_graph_equal_lightgbm() -> None:
    """Trees of onnxmltools between our pairing and reshaping give LightGBM's own predictions for every pair."""
    import lightgbm

    from engine.models.onnx_graphs import boosted_graph

    rng = np.random.default_rng(0)
    context, offers = rng.normal(size=(11, 3)).astype(np.float32), rng.normal(size=(5, 2)).astype(np.float32)
    x = rng.normal(size=(2000, 5)).astype(np.float32)
    y = (rng.random(2000) < expit((x[:, 0] * x[:, 3] + x[:, 4]).astype(np.float64))).astype(np.float64)
    settings = {"objective": "binary", "num_leaves": 9, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(settings, lightgbm.Dataset(x, label=y), num_boost_round=30)
    graph = boosted_graph(booster, widths=(3, 2), is_binary=True, calibrator=None)
    pairs = np.concatenate([np.repeat(context, 5, axis=0), np.tile(offers, (11, 1))], axis=1)
    np.testing.assert_allclose(run_graph(graph, context, offers), booster.predict(pairs).reshape(11, 5), atol=1e-6)


def test_cross_fitting_never_scores_a_subject_with_a_model_that_saw_it() -> None:
    """Where reward is a coin flipped once a subject, cross-fitted estimates carry none of it; in-sample ones do."""
    rng = np.random.default_rng(4)
    batch, _ = world(1200, seed=4)
    assert batch.table.subjects is not None
    names, member = np.unique(batch.table.subjects, return_inverse=True)
    coin = (rng.random(len(names)) < 0.5).astype(np.float64)
    # A feature that identifies the subject, so that a model that saw the subject could know its coin.
    table = DecisionTable(
        OFFERS, batch.table.eligible, {"id_like": member.astype(np.float64)}, subjects=batch.table.subjects
    )
    flipped = InteractionBatch(table, batch.chosen, batch.propensity, coin[member])
    row = np.arange(len(batch))
    fitted = cross_fit(flipped, partial(fit_reward_model, kind="lightgbm"), seed=0)
    apart = fitted.expected_reward(table, fitted.folds)[row, batch.chosen]
    model = fit_reward_model(flipped, kind="lightgbm", seed=0).expected_reward(table)[row, batch.chosen]
    assert abs(np.corrcoef(apart, flipped.reward)[0, 1]) < 0.1
    assert np.corrcoef(model, flipped.reward)[0, 1] > 0.2


def test_what_cannot_be_fitted_is_refused() -> None:
    """Too few interactions, a constant reward and an unknown kind each get a sentence."""
    batch, _ = world(200)
    with pytest.raises(InvalidInputError, match="at least 50"):
        fit_reward_model(batch.take(np.arange(20)))
    with pytest.raises(InvalidInputError, match="between 0 and 0"):
        fit_reward_model(batch.with_reward(np.zeros(200)))
    with pytest.raises(UnknownNameError, match="lightgbm"):
        fit_reward_model(batch, kind="lightgmb")  # type: ignore[arg-type]  # what a person may type


def test_a_log_of_one_subject_is_fitted_without_holding_anybody_out() -> None:
    """Nobody can be held out, so nothing is calibrated; the rewards are learned all the same."""
    batch, _ = world(400)
    table = DecisionTable(OFFERS, batch.table.eligible, batch.table.columns, subjects=np.full(400, "only"))
    one = InteractionBatch(table, batch.chosen, batch.propensity, batch.reward)
    model = fit_reward_model(one, kind="logistic")
    assert model.facts["calibration"] == "none"
    assert model.facts["held_out"]["rows"] == 400
