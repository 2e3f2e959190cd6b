"""Small decision problems for the tests; never the same size on two axes."""

from __future__ import annotations

import numpy as np

from policies.fixed import Uniform
from policies.records import DecisionTable, InteractionBatch, Offer, OfferId, OfferSet
from policies.sampling import decide


def offer_set(k: int = 5) -> OfferSet:
    """Offers with a number, a text and, for one, a missing feature."""
    return OfferSet(
        [
            Offer(
                OfferId(f"o{i}"),
                {"price_eur": 5.0 * i + 4.9, "kind": "ab"[i % 2], "trial_days": None if i == 1 else 7.0 * i},
            )
            for i in range(k)
        ]
    )


def table(n: int = 41, *, k: int = 5, seed: int = 0) -> DecisionTable:
    """Contexts of text, numbers with gaps and a vector; about a fifth of the offers not eligible."""
    rng = np.random.default_rng(seed)
    eligible = rng.random((n, k)) < 0.8
    eligible[:, 0] |= ~eligible.any(axis=1)
    eligible[0] = True
    return DecisionTable(
        offer_set(k),
        eligible,
        columns={
            "stage": np.asarray(rng.choice(["new", "returning", ""], n)),
            "pages": rng.normal(size=n),
            "days_since": np.where(rng.random(n) < 0.2, np.nan, rng.exponential(size=n)),
        },
        vectors={"sequence": rng.normal(size=(n, 3)).astype(np.float32)},
        subjects=np.asarray([f"s{i}" for i in range(n)]),
    )


def batch(n: int = 41, *, k: int = 5, seed: int = 0) -> InteractionBatch:
    """Uniformly logged; the first offer is liked where ``pages`` is high, the last where it is low."""
    t = table(n, k=k, seed=seed)
    rng = np.random.default_rng(seed + 1)
    draws = decide(Uniform(), t, uniforms=rng.random(n), explore_share=0.0)
    rate = success_rate(t)[np.arange(n), draws.chosen]
    reward = (rng.random(n) < rate).astype(np.float64)
    return InteractionBatch(t, draws.chosen, draws.propensity, reward, draws.probabilities)


def success_rate(t: DecisionTable) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """True rate of each pair, shape ``(n, k)``; belongs to the offer's id, not to its place."""
    pages = t.columns["pages"]
    out = np.full(t.eligible.shape, 0.2)
    out[:, t.offers.index_of("o0")] = 1 / (1 + np.exp(-2 * pages))
    out[:, t.offers.index_of(f"o{t.n_offers - 1}")] = 1 / (1 + np.exp(2 * pages))
    return out
