"""Thompson sampling's probabilities against scipy's quadrature, closed forms and plain draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.integrate import quad
from scipy.stats import beta as beta_law
from scipy.stats import norm

from policies.best_of import normal_best_probabilities
from policies.errors import InvalidInputError
from policies.records import DecisionTable, FloatArray, InteractionBatch
from policies.thompson import BetaThompson, GaussianThompson
from tests.policies.worlds import offer_set


def _oracle(mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """One offer at a time with scipy's adaptive quadrature."""
    out = []
    for i, (m, s) in enumerate(zip(mean, deviation, strict=True)):
        others = [(m_j, s_j) for j, (m_j, s_j) in enumerate(zip(mean, deviation, strict=True)) if j != i]

        def integrand(z: float, m: float = m, s: float = s, others: list[tuple[float, float]] = others) -> float:
            return float(norm.pdf(z) * np.prod([norm.cdf((m + s * z - m_j) / s_j) for m_j, s_j in others]))

        cuts = sorted({float(np.clip((m_j - m) / s, -9, 9)) for m_j, _ in others})
        out.append(quad(integrand, -9, 9, points=cuts, limit=400, epsabs=1e-11)[0])
    return np.asarray(out)


@pytest.mark.parametrize(
    ("mean", "deviation"),
    [
        ([0.1, 0.2, 0.15, 0.0], [0.1, 0.1, 0.2, 0.3]),
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
        ([0.5, 0.49], [0.01, 0.5]),
        ([0.3, 0.31, 0.29, 0.1, 0.0], [0.001, 0.002, 1.0, 0.05, 0.4]),
        ([5.0, 0.0, -5.0], [0.1, 0.2, 3.0]),
        ([0.0, 40.0], [1.0, 1e-4]),
    ],
)
def test_normal_probabilities_agree_with_adaptive_quadrature(mean: list[float], deviation: list[float]) -> None:
    """To 1e-8 in a batch and 2e-8 alone, with equal spreads and with spreads a thousandfold apart."""
    m, v = np.asarray([mean, mean]), np.square(np.asarray([deviation, deviation]))
    everything, truth = np.ones(m.shape, dtype=np.bool_), _oracle(np.asarray(mean), np.asarray(deviation))
    assert normal_best_probabilities(m, v, everything)[1] == pytest.approx(truth, abs=1e-8)
    assert normal_best_probabilities(m[:1], v[:1], everything[:1])[0] == pytest.approx(truth, abs=2e-8)


@settings(max_examples=60)
@given(difference=st.floats(-3, 3), a=st.floats(1e-4, 2), b=st.floats(1e-4, 2))
def test_two_normals_have_a_closed_form(difference: float, a: float, b: float) -> None:
    """P(X > Y) is Phi of the difference over the root of the summed variances."""
    ours = normal_best_probabilities(np.asarray([[difference, 0.0]]), np.square([[a, b]]), np.ones((1, 2), np.bool_))
    assert ours[0, 0] == pytest.approx(norm.cdf(difference / np.hypot(a, b)), abs=1e-7)


@settings(max_examples=40)
@given(
    mean=hnp.arrays(np.float64, (3, 4), elements=st.floats(-2, 2)),
    shift=st.floats(-5, 5),
    scale=st.floats(0.01, 100),
)
def test_moving_and_stretching_all_scores_changes_nothing(mean: FloatArray, shift: float, scale: float) -> None:
    """Only the order of the scores matters."""
    deviation = np.asarray([[0.1, 0.5, 1.0, 0.2]] * 3)
    eligible = np.asarray([[True, True, True, True], [True, False, True, True], [False, False, True, False]])
    first = normal_best_probabilities(mean, deviation**2, eligible)
    moved = normal_best_probabilities(mean * scale + shift, (deviation * scale) ** 2, eligible)
    assert moved == pytest.approx(first, abs=1e-7)
    assert first[2].tolist() == [0, 0, 1, 0]


def test_many_rows_in_pieces_equal_them_at_once() -> None:
    """The memory-bounded chunks do not change an answer."""
    rng = np.random.default_rng(0)
    mean, deviation = rng.normal(size=(9_000, 6)), rng.uniform(0.01, 1, size=(9_000, 6))
    eligible = np.ones((9_000, 6), dtype=np.bool_)
    whole = normal_best_probabilities(mean, deviation**2, eligible)
    assert whole[8_000:8_007] == pytest.approx(
        normal_best_probabilities(mean[8_000:8_007], deviation[8_000:8_007] ** 2, eligible[:7]), abs=1e-14
    )


def _learned(successes: list[int], failures: list[int], policy: BetaThompson | GaussianThompson) -> DecisionTable:
    k = len(successes)
    chosen = np.repeat(np.arange(k), np.add(successes, failures))
    reward = np.concatenate([np.repeat([1.0, 0.0], [s, f]) for s, f in zip(successes, failures, strict=True)])
    t = DecisionTable(offer_set(k), np.ones((len(chosen), k), dtype=np.bool_))
    policy.learn(InteractionBatch(t, chosen, np.full(len(chosen), 1 / k), reward))
    return t.take(slice(0, 1))


@pytest.mark.parametrize(
    ("successes", "failures"),
    [
        ([3, 1, 0], [5, 9, 0]),
        ([0, 0, 0, 2], [40, 3, 0, 2]),
        ([900, 12], [9_100, 88]),
        ([5_000, 5_050], [95_000, 94_950]),
    ],
)
def test_beta_probabilities_agree_with_adaptive_quadrature(successes: list[int], failures: list[int]) -> None:
    """To 1e-7, from no data at all to a hundred thousand trials."""
    policy = BetaThompson()
    p = policy.probabilities(_learned(successes, failures, policy))[0]
    laws = [beta_law(1 + s, 1 + f) for s, f in zip(successes, failures, strict=True)]
    for i, law in enumerate(laws):

        def integrand(q: float, law: object = law, i: int = i) -> float:
            x = law.ppf(q)  # type: ignore[attr-defined]
            return float(np.prod([other.cdf(x) for j, other in enumerate(laws) if j != i]))

        assert p[i] == pytest.approx(quad(integrand, 0, 1, limit=400, epsabs=1e-10)[0], abs=1e-7)


def test_gaussian_posterior_by_hand() -> None:
    """One offer seen four times with mean 0.5, one never: two normals with known moments."""
    policy = GaussianThompson(prior_mean=0.1, prior_deviation=1.0, noise_deviation=0.5)
    p = policy.probabilities(_learned([2, 0], [2, 0], policy))[0]
    precision = 1 + 4 / 0.25
    mean, variance = (0.1 + 2 / 0.25) / precision, 1 / precision
    assert p[0] == pytest.approx(norm.cdf((mean - 0.1) / np.sqrt(variance + 1)), abs=1e-9)


def test_thompson_probabilities_match_plain_thompson_draws() -> None:
    """100,000 posterior draws name each offer the best as often as its probability says."""
    policy = BetaThompson()
    p = policy.probabilities(_learned([3, 1, 4], [5, 9, 20], policy))[0]
    rng = np.random.default_rng(0)
    draws = rng.beta([4, 2, 5], [6, 10, 21], size=(100_000, 3)).argmax(axis=1)
    counts = np.bincount(draws, minlength=3)
    assert (np.abs(counts / 100_000 - p) < 4 * np.sqrt(p * (1 - p) / 100_000)).all()


def test_forgetting_lets_an_old_favourite_go() -> None:
    """With a half-life the offer that stopped earning loses to the one that earns now; without, it does not."""
    chosen = np.asarray([0] * 200 + [0] * 20 + [1] * 20)
    reward = np.asarray([1.0] * 200 + [0.0] * 20 + [1.0] * 20)
    t = DecisionTable(offer_set(2), np.ones((240, 2), dtype=np.bool_))
    b = InteractionBatch(t, chosen, np.full(240, 0.5), reward)
    keeps, forgets = BetaThompson(prior_failures=20.0), BetaThompson(prior_failures=20.0, half_life=10)
    keeps.learn(b)
    forgets.learn(b)
    assert keeps.probabilities(t)[0, 0] > 0.9
    assert forgets.probabilities(t)[0, 1] > 0.9


def test_rewards_that_are_no_shares_are_refused() -> None:
    """Euros in a success counter are refused before anything is learned, and the text says where to go."""
    t = DecisionTable(offer_set(2), np.ones((3, 2), dtype=np.bool_))
    policy = BetaThompson()
    with pytest.raises(InvalidInputError, match="gaussian_thompson"):
        policy.learn(InteractionBatch(t, np.zeros(3, dtype=np.int64), np.ones(3), np.asarray([1.0, 9.9, 0.0])))
    assert policy.probabilities(t)[0].tolist() == pytest.approx([0.5, 0.5])
