from __future__ import annotations

import hmac
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from policies.errors import InvalidInputError, NoEligibleOfferError, ProbabilityError
from policies.fixed import FixedOrder, Uniform
from policies.protocols import PolicyTraits
from policies.records import DecisionTable, FloatArray
from policies.sampling import decide, draw, uniform_for, with_explore_share
from tests.policies.worlds import offer_set, table


class Given:
    """Answers what it is told to."""

    name = "given"
    traits = PolicyTraits()

    def __init__(self, answer: FloatArray) -> None:
        self._answer = answer

    def probabilities(self, table: DecisionTable) -> FloatArray:
        return self._answer


def test_draw_inverts_the_cumulative_distribution_by_hand() -> None:
    """Three rows worked out: 0.25 | 0.25..0.75 | 0.75..1, and the borders belong to the next offer."""
    p = np.asarray([[0.25, 0.5, 0.25]] * 5)
    assert draw(p, np.asarray([0.0, 0.24, 0.25, 0.75, 0.999])).tolist() == [0, 0, 1, 2, 2]


@given(
    weights=hnp.arrays(np.float64, (4, 3), elements=st.sampled_from([0.0, 1e-12, 0.1, 1.0])).filter(
        lambda w: bool((w.sum(axis=1) > 0).all())
    ),
    u=hnp.arrays(np.float64, 4, elements=st.floats(0, 1, exclude_max=True)),
)
def test_draw_never_lands_on_zero_probability(weights: FloatArray, u: FloatArray) -> None:
    """An offer of probability zero is never drawn, whatever the uniform."""
    p = weights / weights.sum(axis=1, keepdims=True)
    assert (p[np.arange(4), draw(p, u)] > 0).all()


@given(share=st.floats(0, 1))
def test_explore_share_by_hand(share: float) -> None:
    """Two of three offers eligible, all mass on one: it keeps 1 - share/2, the other gets share/2, the third nothing."""
    p = with_explore_share(np.asarray([[1.0, 0.0, 0.0]]), np.asarray([[True, True, False]]), share)
    assert p[0].tolist() == pytest.approx([1 - share / 2, share / 2, 0.0], abs=1e-12)


def test_what_is_logged_is_what_was_drawn_from() -> None:
    """Propensity is the drawn offer's entry of the logged distribution, whose rows sum to one."""
    t = table()
    draws = decide(FixedOrder(("o3",)), t, uniforms=np.random.default_rng(0).random(len(t)))
    assert np.array_equal(draws.propensity, draws.probabilities[np.arange(len(t)), draws.chosen])
    assert draws.probabilities.sum(axis=1) == pytest.approx(1.0)
    assert (draws.probabilities[t.eligible] > 0).all()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ([[0.5, 0.6, 0.0]], "sum to 1"),
        ([[1.5, -0.5, 0.0]], "negative"),
        ([[float("nan"), 0.5, 0.5]], "non-finite"),
        ([[0.0, 0.0, 1.0]], "not eligible"),
        ([[1.0, 0.0]], "shape"),
    ],
)
def test_an_answer_that_is_no_distribution_is_refused(answer: list[list[float]], text: str) -> None:
    """A policy that answers nonsense is stopped before anything is drawn, and named."""
    t = DecisionTable(offer_set(3), np.asarray([[True, True, False]]))
    with pytest.raises(ProbabilityError, match=text) as caught:
        decide(Given(np.asarray(answer)), t, uniforms=np.zeros(1))
    assert "'given'" in str(caught.value)


def test_a_row_without_an_eligible_offer_names_the_subject() -> None:
    """Nothing to show is an error that says for whom and what to do."""
    t = DecisionTable(offer_set(3), np.zeros((1, 3), dtype=np.bool_), subjects=np.asarray(["u17"]))
    text = "subject 'u17' has no eligible offer; add a fallback offer to the catalogue or widen its eligibility rule"
    with pytest.raises(NoEligibleOfferError, match=re.escape(text)):
        decide(Uniform(), t, uniforms=np.zeros(1))


@pytest.mark.parametrize(("uniforms", "share"), [(np.zeros(2), 0.1), (np.zeros(1), -0.1), (np.zeros(1), 1.5)])
def test_wrong_uniforms_or_share_are_refused(uniforms: FloatArray, share: float) -> None:
    """One uniform per decision, and a share in [0, 1]."""
    t = DecisionTable(offer_set(3), np.ones((1, 3), dtype=np.bool_))
    with pytest.raises(InvalidInputError):
        decide(Uniform(), t, uniforms=uniforms, explore_share=share)


@given(secret=st.binary(min_size=1, max_size=8), placement=st.text(max_size=8), decision=st.text(max_size=8))
def test_the_uniform_of_a_decision_is_fixed_and_below_one(secret: bytes, placement: str, decision: str) -> None:
    """The same id gives the same number in [0, 1)."""
    u = uniform_for(secret, placement, decision)
    assert 0.0 <= u < 1.0
    assert u == uniform_for(secret, placement, decision)


@given(secret=st.binary(min_size=1, max_size=150), decision=st.text(max_size=80))
def test_the_uniform_is_made_by_hmac(secret: bytes, decision: str) -> None:
    """It is the first 53 bits of HMAC-SHA-256 under the secret, as Python's own ``hmac`` computes it, whatever the secret's length."""
    digest = hmac.digest(secret, f"home\x00{decision}".encode(), "sha256")
    assert uniform_for(secret, "home", decision) == (int.from_bytes(digest, "big") >> 203) / 2**53


def test_uniforms_of_many_decisions_are_uniform() -> None:
    """Kolmogorov-Smirnov over 5,000 ids does not reject at 1e-4."""
    from scipy.stats import kstest

    assert kstest([uniform_for(b"secret", "home", f"d{i}") for i in range(5_000)], "uniform").pvalue > 1e-4
