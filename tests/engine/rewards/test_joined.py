"""The join of decisions with what came of them, against a brute-force one."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from engine.decisions.requests import DecisionAnswer, DecisionRequest, OutcomeRequest, RewardRequest
from engine.offers.placement import CatalogueOffer
from policies.errors import InvalidInputError
from tests.engine.service_world import START, Clock, exported, offer, open_shop, shop

WINDOW = timedelta(days=30)


def brute_force(
    answers: list[DecisionAnswer],
    rewards: list[RewardRequest],
    outcomes: list[OutcomeRequest],
    *,
    as_of: datetime,
) -> dict[str, float]:
    """Number of each matured decision by going through everything."""
    weights = {"subscribed": 1.0, "refund": -0.5}
    totals: dict[str, float] = {a.decision.id: 0.0 for a in answers if a.decision.at + WINDOW <= as_of}
    at: dict[str, datetime] = {a.decision.id: a.decision.at for a in answers}
    for r in rewards:
        assert r.at is not None
        if r.decision in totals and r.at <= as_of and r.at <= at[r.decision] + WINDOW:
            totals[r.decision] += weights.get(r.kind, 0.0) * r.value
    for o in outcomes:
        assert o.at is not None
        before = [a.decision for a in answers if a.decision.subject == o.subject and a.decision.at <= o.at]
        if before and o.at <= as_of:
            last = max(before, key=lambda d: d.at)
            if o.at <= last.at + WINDOW and last.id in totals:
                totals[last.id] += weights.get(o.kind, 0.0) * o.value
    return totals


@pytest.mark.parametrize("seed", [0, 1])
def test_the_join_equals_brute_force_and_ignores_the_order_of_arrival(tmp_path: Path, seed: int) -> None:
    """Random decisions, rewards and outcomes, sent shuffled, late and twice, give the numbers of the plain reading."""
    rng = random.Random(seed)

    def moment(days: float) -> datetime:
        return START + timedelta(days=rng.uniform(0, days))

    requests = [
        DecisionRequest("shop", f"u{rng.randrange(9)}", {"x": rng.random()}, id=f"d{i}", at=moment(40))
        for i in range(50)
    ]
    rewards = [
        RewardRequest(
            f"d{rng.randrange(50)}",
            rng.choice(["subscribed", "refund", "noise"]),
            float(rng.randrange(4)),
            id=f"r{i}",
            at=moment(80),
            must_join=False,
        )
        for i in range(60)
    ]
    outcomes = [
        OutcomeRequest(
            f"u{rng.randrange(11)}",
            rng.choice(["subscribed", "refund"]),
            float(rng.randrange(4)),
            id=f"o{i}",
            at=moment(80),
        )
        for i in range(60)
    ]
    with open_shop(tmp_path) as service:
        late = rng.sample(rewards, 30)
        service.reward_many(late)  # some rewards come before their decision
        answers = service.decide_many(requests)
        service.reward_many(rng.sample(rewards, len(rewards)))
        service.outcome_many(rng.sample(outcomes, len(outcomes)))
        for days in (35, 60, 120):
            as_of = START + timedelta(days=days)
            batch = exported(service.database, "shop", as_of=as_of)
            assert batch.decision_ids is not None
            expected = brute_force(answers, rewards_after(rewards, requests), outcomes, as_of=as_of)
            found = dict(zip(batch.decision_ids.tolist(), batch.reward.tolist(), strict=True))
            assert found == pytest.approx(expected)
            assert 0 < len(found) <= 50


def rewards_after(rewards: list[RewardRequest], requests: list[DecisionRequest]) -> list[RewardRequest]:
    """All of them: a reward stamped before its decision (a clock that runs behind) still counts."""
    known = {r.id for r in requests}
    return [r for r in rewards if r.decision in known]


def test_an_export_carries_what_was_drawn_from(tmp_path: Path) -> None:
    """Offers, eligibility, the whole distribution, context, phase and policy of each row are those of its decision."""
    with open_shop(tmp_path) as service:
        answers = [
            service.decide(
                DecisionRequest("shop", f"u{i}", {"x": float(i), "c": "de"}, exclude=("b",) if i % 2 else ())
            )
            for i in range(7)
        ]
        batch = exported(service.database, "shop", as_of=START + WINDOW)
    assert batch.table.offers.ids == ("a", "b", "c")
    assert batch.table.eligible[:, 1].tolist() == [i % 2 == 0 for i in range(7)]
    for i, answer in enumerate(answers):
        d = answer.decision
        assert batch.table.offers.ids[batch.chosen[i]] == d.offer
        assert batch.propensity[i] == d.propensity
        assert batch.probabilities is not None
        assert batch.probabilities[i][batch.table.eligible[i]].tolist() == list(d.probabilities)
    assert batch.table.columns["x"].tolist() == [float(i) for i in range(7)]
    assert batch.policies is not None
    assert set(batch.policies.tolist()) == {str(answers[0].decision.policy)}


def test_only_seen_decisions_with_a_closed_window_are_exported(tmp_path: Path) -> None:
    """Open windows are unknown, not zero; a decision that was never seen is no exposure."""
    clock = Clock()
    with open_shop(tmp_path, clock=clock) as service:
        with pytest.raises(InvalidInputError, match="no decision of placement 'shop'"):
            exported(service.database, "shop", as_of=clock.now)
        service.decide(DecisionRequest("shop", "u1", id="seen"))
        service.decide(DecisionRequest("shop", "u1", id="unseen", is_activated=False))
        service.decide(DecisionRequest("shop", "u1", id="activated", is_activated=False))
        service.activate("activated")
        clock.forward(days=1)
        service.decide(DecisionRequest("shop", "u1", id="young"))
        batch = exported(service.database, "shop", as_of=START + WINDOW)
        assert batch.decision_ids is not None
        assert sorted(batch.decision_ids.tolist()) == ["activated", "seen"]


def test_a_changed_catalogue_is_joined_unless_an_offer_means_two_things(tmp_path: Path) -> None:
    """New offers extend the set; other features under an old id would be read as the old ones, and are refused."""
    with open_shop(tmp_path) as service:
        service.decide(DecisionRequest("shop", "u1"))
        service.put_placement(shop(5))
        service.decide(DecisionRequest("shop", "u2"))
        batch = exported(service.database, "shop", as_of=START + WINDOW)
        assert batch.table.eligible.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
        service.put_placement(replace(shop(), offers=(CatalogueOffer(offer("a", 77.0)),)))
        service.decide(DecisionRequest("shop", "u3"))
        with pytest.raises(InvalidInputError, match="offer 'a' has features"):
            exported(service.database, "shop", as_of=START + WINDOW)


@pytest.mark.slow
def test_naive_means_of_the_export_recover_the_offers_rates(tmp_path: Path) -> None:
    """Weighting the export by its propensities gives each offer's true rate within three standard errors."""
    rates = {"a": 0.2, "b": 0.5, "c": 0.8}
    rng = np.random.default_rng(3)
    with open_shop(tmp_path, placements=[replace(shop(), explore_share=0.6)]) as service:
        answers = service.decide_many([DecisionRequest("shop", f"u{i}", id=f"d{i}") for i in range(1_500)])
        bought = [a.decision.id for a in answers if rng.random() < rates[a.decision.offer]]
        service.reward_many([RewardRequest(d, "subscribed") for d in bought])
        batch = exported(service.database, "shop", as_of=START + WINDOW)
    for j, name in itertools.islice(enumerate(batch.table.offers.ids), 3):
        terms = (batch.chosen == j) / batch.propensity * batch.reward
        assert abs(terms.mean() - rates[name]) < 3 * terms.std() / np.sqrt(len(batch))
