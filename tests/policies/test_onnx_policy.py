"""Networks served through ONNX Runtime against numpy on the same weights."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from policies.boltzmann import softmax
from policies.errors import ArtifactError, InvalidInputError
from policies.features import FeatureSpace
from policies.onnx_policy import OnnxPolicy, OnnxRewardModel
from policies.records import Offer, OfferId, OfferSet
from tests.policies.graphs import policy_graph, policy_weights, reward_graph, reward_weights
from tests.policies.worlds import table

SPACE = FeatureSpace.fit(table())


def test_probabilities_are_the_softmax_of_the_networks_logits() -> None:
    """Recomputed in numpy from the graph's weights, to float32."""
    t = table(13, seed=5)
    policy = OnnxPolicy(policy_graph(SPACE, n_offers=5), SPACE, t.offers.ids)
    logits = SPACE.encode_contexts(t) @ policy_weights(SPACE, n_offers=5)
    assert policy.probabilities(t) == pytest.approx(softmax(logits, t.eligible), abs=1e-5)


def test_an_offer_the_network_never_met_gets_nothing_and_a_row_of_strangers_is_shared() -> None:
    """Only offers it was trained on are scored; where none of them may be shown, all eligible ones share."""
    t = table(3)
    offers = OfferSet([*t.offers, Offer(OfferId("new")), Offer(OfferId("newer"))])
    eligible = np.asarray([[True] * 7, [True] * 6 + [False], [False] * 5 + [True, True]])
    p = OnnxPolicy(policy_graph(SPACE, n_offers=5), SPACE, t.offers.ids).probabilities(
        replace(t, offers=offers, eligible=eligible)
    )
    assert p[:2, 5:].sum() == 0
    assert p[2].tolist() == [0, 0, 0, 0, 0, 0.5, 0.5]


def test_expected_rewards_are_the_networks() -> None:
    """Every pair, recomputed in numpy."""
    t = table(13, seed=5)
    a, b = reward_weights(SPACE)
    logits = (SPACE.encode_contexts(t) @ a)[:, None] + (SPACE.encode_offers(t.offers) @ b)[None, :]
    model = OnnxRewardModel(reward_graph(SPACE), SPACE)
    assert model.expected_reward(t) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def test_bytes_that_are_no_graph_or_the_wrong_one_are_refused() -> None:
    """Damage and a graph with other inputs are told apart."""
    with pytest.raises(ArtifactError, match="cannot be loaded"):
        OnnxRewardModel(b"not a graph", SPACE)
    with pytest.raises(ArtifactError, match=r"expected \['context', 'offers'\]"):
        OnnxRewardModel(policy_graph(SPACE, n_offers=5), SPACE)
    with pytest.raises(InvalidInputError, match="softmax"):
        OnnxPolicy(policy_graph(SPACE, n_offers=5), SPACE, table().offers.ids, form="max")  # type: ignore[arg-type]


def test_importing_every_policy_loads_no_framework() -> None:
    """The vocabulary and all policies load without VW, ONNX Runtime, torch, pandas or a web framework."""
    code = (
        "import sys, pkgutil, importlib, policies\n"
        "for m in pkgutil.iter_modules(policies.__path__): importlib.import_module('policies.' + m.name)\n"
        "heavy = {'vowpal_wabbit_next', 'onnxruntime', 'torch', 'tensorflow', 'ray', 'pandas', 'sklearn', 'fastapi', 'pyspark'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
