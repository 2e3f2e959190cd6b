"""Greedy, epsilon-greedy, Boltzmann and SquareCB over a reward model that is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policies.boltzmann import Boltzmann, softmax
from policies.epsilon import Epsilon
from policies.errors import InvalidInputError
from policies.greedy import Greedy, ScoreRule, greedy, greedy_probabilities
from policies.protocols import OnlineLearner
from policies.records import BoolArray, DecisionTable, FloatArray
from policies.squarecb import SquareCB
from tests.policies.worlds import table

ALL = np.ones((1, 3), dtype=np.bool_)


class Known:
    """A reward model that cannot be saved and does not learn."""

    def expected_reward(self, table: DecisionTable) -> FloatArray:
        return np.tile(np.arange(table.n_offers, dtype=np.float64), (len(table), 1))


def test_ties_are_shared_equally() -> None:
    """Two best offers get a half each, an ineligible third nothing though it scores as high."""
    p = greedy_probabilities(np.asarray([[0.3, 0.3, 0.3, 0.1]]), np.asarray([[True, False, True, True]]))
    assert p.tolist() == [[0.5, 0.0, 0.5, 0.0]]


def test_epsilon_halves_after_its_decay() -> None:
    """0.3 at the start, 0.15 after ``decay`` interactions, never below the minimum."""
    rule, scores = Epsilon(0.3, decay=100, minimum=0.06), np.asarray([[0.0, 1.0, 0.0]])
    off = [rule.distribution(scores, ALL, n_seen=n)[0, 0] * 3 for n in (0, 100, 10**9)]
    assert off == pytest.approx([0.3, 0.15, 0.06])


def test_softmax_by_hand() -> None:
    """Odds of e between scores one temperature apart, over the eligible only."""
    p = Boltzmann(0.5).distribution(np.asarray([[1.0, 0.5, 9.0]]), np.asarray([[True, True, False]]), n_seen=0)
    assert p[0].tolist() == pytest.approx([np.e / (1 + np.e), 1 / (1 + np.e), 0.0])
    assert softmax(np.asarray([[1e9, 0.0]]), np.ones((1, 2), dtype=np.bool_)).tolist() == [[1.0, 0.0]]


def test_squarecb_by_hand() -> None:
    """After 4 interactions gamma is 10 * 2 = 20: gaps 0.1 and 0.5 get 1/5 and 1/13, the best the rest."""
    p = SquareCB().distribution(np.asarray([[0.4, 0.5, 0.0]]), ALL, n_seen=4)
    assert p[0].tolist() == pytest.approx([1 / 5, 1 - 1 / 5 - 1 / 13, 1 / 13])


@given(
    scores=hnp.arrays(np.float64, (2, 5), elements=st.floats(-5, 5)),
    eligible=hnp.arrays(np.bool_, (2, 5)).filter(lambda m: bool(m.any(axis=1).all())),
    rule=st.sampled_from([Greedy(), Epsilon(0.2), Boltzmann(0.1), SquareCB(), SquareCB(1.0, 1.0)]),
    n_seen=st.integers(0, 10**7),
)
def test_every_rule_gives_the_best_offer_the_most(
    scores: FloatArray, eligible: BoolArray, rule: ScoreRule, n_seen: int
) -> None:
    """A distribution over the eligible offers in which a higher expected reward never gets less."""
    p = rule.distribution(scores, eligible, n_seen=n_seen)
    assert p.sum(axis=1) == pytest.approx(1.0)
    assert (p >= 0).all()
    assert (p[~eligible] == 0).all()
    for row in range(2):
        order = np.argsort(scores[row][eligible[row]])
        # Scores closer than the tie tolerance may be shared the other way round.
        clear = np.diff(scores[row][eligible[row]][order]) > 1e-4
        assert (np.diff(p[row][eligible[row]][order])[clear] >= -1e-9).all()


def test_a_policy_learns_exactly_if_its_model_does() -> None:
    """Over a model that was fitted once it is no learner, and says how to save one that cannot be saved."""
    policy = greedy(Known())
    assert not isinstance(policy, OnlineLearner)
    assert policy.probabilities(table(2))[0].tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(InvalidInputError, match="export the model to ONNX"):
        policy.to_artifact()


def test_nonsense_parameters_are_refused() -> None:
    """Each rule names what it got and what it expects."""
    with pytest.raises(InvalidInputError, match="epsilon"):
        Epsilon(0.1, minimum=0.2)
    with pytest.raises(InvalidInputError, match="temperature"):
        Boltzmann(0.0)
    with pytest.raises(InvalidInputError, match="gamma"):
        SquareCB(gamma_scale=0.0)
