"""coba's environments as logs and our policies as its learners; with coba itself where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from offline_eval.interop.coba import CobaLearner, batch_from_coba
from policies.errors import SchemaError
from policies.features import FeatureSpace
from policies.fixed import Uniform
from policies.linear import LinTS

LOGGED: list[dict[str, Any]] = [
    {"context": (1.0, "de"), "actions": ["a", "b"], "action": "b", "reward": 0.5, "probability": 0.25},
    {"context": (2.0, "at"), "actions": ["b", "c"], "action": "c", "reward": 1.0, "probability": 0.75},
]


def test_logged_interactions_become_a_log() -> None:
    """Contexts are named columns, offers the union of actions, and what a row does not list is not eligible in it."""
    batch = batch_from_coba(LOGGED)
    assert batch.table.offers.ids == ("a", "b", "c")
    assert batch.table.eligible.tolist() == [[True, True, False], [False, True, True]]
    assert batch.chosen.tolist() == [1, 2]
    assert batch.reward.tolist() == [0.5, 1.0]
    assert batch.propensity.tolist() == [0.25, 0.75]
    assert batch.table.columns["x0"].tolist() == [1.0, 2.0]
    assert batch.table.columns["x1"].tolist() == ["de", "at"]


def test_actions_of_features_are_offers_with_features() -> None:
    """Tuples and mappings keep what they are made of."""
    rows = [{**LOGGED[0], "actions": [(1, 0), {"price": 3.0}], "action": {"price": 3.0}}]
    offers = batch_from_coba(rows).table.offers
    assert offers.ids == ("1,0", "price=3.0")
    assert dict(offers[0].features) == {"a0": 1, "a1": 0}
    assert dict(offers[1].features) == {"price": 3.0}


def test_a_simulation_that_was_not_logged_is_refused() -> None:
    """Without a probability there is nothing to weigh by: the message says how to log."""
    with pytest.raises(SchemaError, match=r"no action, probability.*logged"):
        batch_from_coba([{"context": (1.0,), "actions": ["a"], "reward": 1.0}])
    with pytest.raises(SchemaError, match="not among its actions"):
        batch_from_coba([{**LOGGED[0], "action": "z"}])


def test_a_policy_learns_as_a_learner_of_coba() -> None:
    """Asked and told row by row it prefers what pays in each context."""
    rng = np.random.default_rng(0)
    rows = [{**LOGGED[0], "context": (float(x),), "action": "ab"[int(x < 0)]} for x in rng.choice([-1, 1], 50)]
    learner = CobaLearner(LinTS(FeatureSpace.fit(batch_from_coba(rows).table)))
    for x in rng.choice([-1.0, 1.0], 200):
        for action in ("a", "b"):
            learner.learn((x,), action, float((action == "a") == (x > 0)), 0.5)
    assert learner.predict((1.0,), ["a", "b"])["pmf"][0] > 0.9
    assert learner.predict((-1.0,), ["b", "a"])["pmf"][0] > 0.9


@pytest.mark.slow
def test_cobas_own_experiment_runs_it() -> None:
    """Through coba's evaluator a learning policy earns more than uniform on its synthetic environment."""
    coba = pytest.importorskip("coba", reason="coba is not installed; it is a peer of the benchmarks (extra bench)")
    environments = coba.Environments.from_linear_synthetic(500, n_actions=3, n_action_features=0, seed=1)
    first = next(iter(environments[0].read()))
    table = CobaLearner(Uniform())._table(first["context"], first["actions"])
    learners = [CobaLearner(LinTS(FeatureSpace.fit(table))), CobaLearner(Uniform())]
    earned = []
    for learner in learners:
        rows = list(coba.SequentialCB(record=["reward"], seed=1).evaluate(environments[0], learner))
        earned.append(float(np.mean([row["reward"] for row in rows])))
    assert earned[0] > earned[1]
