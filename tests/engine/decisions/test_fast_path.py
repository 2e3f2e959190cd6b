"""What a server does for one decision equals what a notebook does for a table, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store.facts import to_us
from policies.errors import NoEligibleOfferError, ProbabilityError
from policies.features import FeatureSpace
from policies.protocols import PolicyTraits
from policies.records import Context, DecisionOfOne, DecisionTable, FeatureValue, FloatArray, SubjectId
from policies.sampling import decide
from tests.engine.service_world import START, offer, shop


class Told:
    """A policy that gives the probabilities it was told."""

    name = "told"
    traits = PolicyTraits()

    def __init__(self, p: FloatArray) -> None:
        self.p = p

    def probabilities(self, table: DecisionTable) -> FloatArray:
        """As told."""
        return self.p[: len(table)]


@pytest.mark.parametrize("k", [1, 2, 7, 8, 9, 20, 129, 200])
def test_one_decision_is_drawn_as_a_table_of_many(k: int) -> None:
    """Same probabilities, same choice, for any number of offers and any eligible set."""
    from policies.records import OfferSet

    rng = np.random.default_rng(k)
    offers = OfferSet([offer(f"o{i}") for i in range(k)])
    for trial in range(40):
        eligible = rng.random((1, k)) < (1.0 if trial % 2 else 0.6)
        eligible[0, rng.integers(k)] = True
        raw = np.where(eligible, rng.dirichlet(np.full(k, 0.3)) + 1e-12, 0.0)
        raw /= raw.sum()
        u, share = rng.random(), float(rng.choice([0.0, 0.05, 0.4]))
        one = decide(Told(raw), DecisionTable(offers, eligible), uniforms=np.asarray([u]), explore_share=share)
        two = decide(
            Told(np.repeat(raw, 2, axis=0)),
            DecisionTable(offers, np.repeat(eligible, 2, axis=0)),
            uniforms=np.asarray([u, u]),
            explore_share=share,
        )
        assert one.probabilities.tolist() == two.probabilities[:1].tolist()
        assert (one.chosen[0], one.propensity[0]) == (two.chosen[0], two.propensity[0])


@pytest.mark.parametrize(
    "p", [[[0.5, 0.5, 0.5]], [[1.5, -0.5, 0.0]], [[np.nan, 0.5, 0.5]], [[0.5, 0.5]], [[0.0, 0.0, 0.0]]]
)
def test_one_decision_from_a_broken_policy_is_refused(p: list[list[float]]) -> None:
    """Whatever is no distribution over three offers is an error, also on the fast path."""
    table = DecisionTable(shop().offer_set, np.ones((1, 3), dtype=np.bool_))
    with pytest.raises(ProbabilityError):
        decide(Told(np.asarray(p)), table, uniforms=np.asarray([0.5]))
    blocked = DecisionTable(shop().offer_set, np.asarray([[True, False, True]]))
    with pytest.raises(ProbabilityError, match="not eligible"):
        decide(Told(np.asarray([[0.2, 0.3, 0.5]])), blocked, uniforms=np.asarray([0.5]))
    nothing = DecisionTable(shop().offer_set, np.zeros((1, 3), dtype=np.bool_))
    with pytest.raises(NoEligibleOfferError):
        decide(Told(np.asarray([[0.2, 0.3, 0.5]])), nothing, uniforms=np.asarray([0.5]))


@given(
    features=st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.none() | st.booleans() | st.floats(-1e9, 1e9) | st.integers(-(10**9), 10**9) | st.text("abc", max_size=3),
        max_size=5,
    ),
    vector=st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=4),
)
def test_a_table_of_one_is_the_table_of_its_context(features: dict[str, FeatureValue], vector: list[float]) -> None:
    """Columns, vectors, subject and time are those that ``from_contexts`` builds, and so is what a model sees."""
    eligible = np.asarray([[True, False, True]])
    offers = shop().offer_set
    vectors = {"sequence": tuple(vector)}
    fast = DecisionOfOne(
        offers, allowed=[True, False, True], subject="u1", features=features, vectors=vectors, at_us=to_us(START)
    )
    slow = DecisionTable.from_contexts(offers, [Context(SubjectId("u1"), features, vectors, START)], eligible=eligible)
    assert list(fast.columns) == list(slow.columns)
    for name, column in slow.columns.items():
        assert fast.columns[name].dtype.kind == column.dtype.kind
        assert np.array_equal(fast.columns[name], column, equal_nan=column.dtype.kind == "f")
    assert np.array_equal(fast.vectors["sequence"], slow.vectors["sequence"])
    assert (fast.subjects, fast.at, fast.offers) == (slow.subjects, slow.at, slow.offers)
    space = FeatureSpace.fit(slow)
    row = space.encode_contexts(fast)[0]
    positions, values = space.sparse_row(fast)
    assert positions == row.nonzero()[0].tolist()
    assert np.asarray(values, dtype=np.float32).tolist() == row[positions].tolist()
    twice = slow.take(np.asarray([0, 0]))
    assert space.encode_contexts(fast).tolist() == space.encode_contexts(twice)[:1].tolist()
