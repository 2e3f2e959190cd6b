"""The contract suites over everything that is registered, saving to disk included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from policies.artifact import load_artifact, save_artifact
from policies.boltzmann import boltzmann
from policies.contract import ContractError, check_learner, check_policy, check_reward_model
from policies.epsilon import epsilon_greedy
from policies.features import FeatureSpace
from policies.fixed import FixedOrder, IncumbentRules, MostPopular, Uniform, fit_incumbent
from policies.greedy import greedy
from policies.linear import LinTS, LinUCB
from policies.logistic import LogisticThompson
from policies.protocols import LearningRewardModel, OnlineLearner, PolicyTraits, SaveablePolicy, SaveableRewardModel
from policies.records import DecisionTable, FloatArray, InteractionBatch, Offer, OfferId, OfferSet
from policies.registry import GROUP, REWARD_MODEL_GROUP, load_policy, load_reward_model
from policies.reward_models import CrossedRidgeRewardModel, RidgeRewardModel
from policies.shared_linear import SharedLinTS, SharedLinUCB
from policies.softmax_linear import SoftmaxLinear
from policies.squarecb import squarecb
from policies.thompson import BetaThompson, GaussianThompson
from policies.vw import VowpalWabbit
from policies.windowed import Windowed
from tests.policies.graphs import policy_graph, reward_graph
from tests.policies.worlds import batch, table

SPACE = FeatureSpace.fit(table())
SLOTS = FeatureSpace.fit(
    replace(table(), columns={**table().columns, "slot": np.asarray(["hero", "side", "foot"])[np.arange(41) % 3]})
)

LEARNERS: dict[str, Callable[[], OnlineLearner]] = {
    "most_popular": lambda: MostPopular(half_life=20, prior_mean=0.5),
    "greedy": lambda: _learning(greedy(RidgeRewardModel(SPACE))),
    "epsilon_greedy": lambda: _learning(epsilon_greedy(CrossedRidgeRewardModel(SPACE), epsilon=0.3, decay=10)),
    "boltzmann": lambda: _learning(boltzmann(RidgeRewardModel(SPACE, half_life=15))),
    "squarecb": lambda: _learning(squarecb(CrossedRidgeRewardModel(SPACE, half_life=30))),
    "beta_thompson": lambda: BetaThompson(half_life=30),
    "gaussian_thompson": lambda: GaussianThompson(noise_deviation=0.4),
    "linucb": lambda: LinUCB(SPACE),
    "linucb, forgetting": lambda: LinUCB(SPACE, half_life=25),
    "lints": lambda: LinTS(SPACE),
    "lints, forgetting": lambda: LinTS(SPACE, half_life=25),
    "linucb, learnt prior": lambda: LinUCB(SPACE, learns_prior=True),
    "shared_linucb": lambda: SharedLinUCB(SPACE),
    "shared_lints": lambda: SharedLinTS(SPACE, scale=0.2, n_nodes=256),
    "logistic_thompson": lambda: LogisticThompson(SPACE),
    "windowed": lambda: Windowed(LinTS(SPACE), window=2_500, n_parts=3),
    "windowed, vw": lambda: Windowed(VowpalWabbit(SPACE, bits=12), window=2_500, n_parts=2),
    "vw": lambda: VowpalWabbit(SPACE),
    "vw, epsilon": lambda: VowpalWabbit(SPACE, explorer="epsilon"),
    "vw, softmax": lambda: VowpalWabbit(SPACE, explorer="softmax"),
    "vw, slots": lambda: VowpalWabbit(SLOTS, form="ccb"),
    "vw, slots, softmax": lambda: VowpalWabbit(SLOTS, form="ccb", explorer="softmax"),
    "vw, regcb": lambda: VowpalWabbit(SPACE, explorer="regcb"),
}
FIXED: dict[str, Callable[[], SaveablePolicy]] = {
    "uniform": Uniform,
    "fixed_order": lambda: FixedOrder(("o2", "o4")),
    "fixed_order, as given": FixedOrder,
    "incumbent_rules": lambda: fit_incumbent(batch(400), stage_column="stage"),
    "incumbent_rules, written": lambda: IncumbentRules("stage", {"new": ("o3",)}, ("o1", "o2")),
    "greedy, fitted once": lambda: greedy(_fitted_onnx()),
    "softmax_linear": lambda: SoftmaxLinear(
        SPACE, np.random.default_rng(0).normal(size=(SPACE.context_width + 1, SPACE.offer_width + 1))
    ),
    "onnx": lambda: _onnx_policy("softmax"),
    "onnx, greedy": lambda: _onnx_policy("greedy"),
}


def _fitted_onnx() -> SaveableRewardModel:
    from policies.onnx_policy import OnnxRewardModel

    return OnnxRewardModel(reward_graph(SPACE), SPACE)


REWARD_MODELS: dict[str, Callable[[], SaveableRewardModel]] = {
    "ridge": lambda: RidgeRewardModel(SPACE),
    "crossed_ridge": lambda: CrossedRidgeRewardModel(SPACE),
    "onnx": _fitted_onnx,
}


def _learning(policy: object) -> OnlineLearner:
    assert isinstance(policy, OnlineLearner)
    return policy


def _onnx_policy(form: str) -> SaveablePolicy:
    from policies.onnx_policy import OnnxPolicy

    return OnnxPolicy(policy_graph(SPACE, n_offers=5), SPACE, table().offers.ids, form=form)  # type: ignore[arg-type]


def _registered_here(group: str) -> set[str]:
    return {point.name for point in entry_points(group=group) if point.value.startswith("policies.")}


def test_everything_registered_is_judged_here() -> None:
    """A kind that this package registers and that is not in this file's tables is a hole in the suite."""
    assert {name.split(",")[0] for name in (*LEARNERS, *FIXED)} == _registered_here(GROUP)
    assert set(REWARD_MODELS) == _registered_here(REWARD_MODEL_GROUP)


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_keep_the_contract(name: str) -> None:
    """Every learner learns, resumes from a save, and keeps the policy contract afterwards."""
    check_learner(LEARNERS[name], batch())


@pytest.mark.parametrize("name", [*FIXED, *LEARNERS])
def test_policies_keep_the_contract_before_they_learned_anything(name: str) -> None:
    """A fresh policy can serve: the contract holds with no data and another number of rows."""
    check_policy((FIXED | LEARNERS)[name](), table(7, seed=3))


@pytest.mark.parametrize("name", REWARD_MODELS)
def test_reward_models_keep_the_contract(name: str) -> None:
    """Expected rewards have the shape, are finite, follow their offers, and survive a save."""
    model, t = REWARD_MODELS[name](), table(23)
    if isinstance(model, LearningRewardModel):
        model.learn(batch())
    check_reward_model(model, t)
    again = load_reward_model(model.to_artifact())
    assert np.array_equal(again.expected_reward(t), model.expected_reward(t))


@pytest.mark.parametrize("name", [*FIXED, *LEARNERS])
def test_a_policy_acts_the_same_from_disk(name: str, tmp_path: Path) -> None:
    """Written to disk and read back, a policy gives the same probabilities to the last bit."""
    policy, t = (FIXED | LEARNERS)[name](), table()
    if isinstance(policy, OnlineLearner):
        policy.learn(batch())
    again = load_policy(load_artifact(save_artifact(policy.to_artifact(), tmp_path / "policy")))
    assert np.array_equal(again.probabilities(t), policy.probabilities(t))


@pytest.mark.parametrize("name", LEARNERS)
def test_learning_in_parts_equals_learning_at_once(name: str) -> None:
    """Cutting a log into pieces does not change what is learned from it."""
    b, t = batch(), table(13, seed=5)
    whole, parts = LEARNERS[name](), LEARNERS[name]()
    whole.learn(b)
    for rows in (slice(0, 1), slice(1, 2), slice(2, 19), slice(19, 19), slice(19, 41)):
        parts.learn(b.take(rows))
    assert parts.probabilities(t) == pytest.approx(whole.probabilities(t), abs=1e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_offers_may_come_and_go(name: str) -> None:
    """A retired offer leaves and a new one enters without a reset, and the rest keep what they knew."""
    learner, b = LEARNERS[name](), batch()
    learner.learn(b)
    kept = [o for o in b.table.offers if o.id != "o1"]
    offers = OfferSet([*kept, Offer(OfferId("new"), {"price_eur": 3.0, "kind": "a", "trial_days": 7.0})])
    eligible = np.ones((len(b), len(offers)), dtype=np.bool_)
    t = DecisionTable(offers, eligible, b.table.columns, b.table.vectors)
    p = learner.probabilities(t)
    assert p.sum(axis=1) == pytest.approx(1.0)
    chosen = np.full(len(b), 4)
    learner.learn(InteractionBatch(t, chosen, np.full(len(b), 0.5), np.ones(len(b))))
    assert learner.probabilities(t)[:, 4].mean() > p[:, 4].mean()


CONTEXTUAL = [n for n in LEARNERS if n.split(",")[0] not in ("most_popular", "beta_thompson", "gaussian_thompson")]


@pytest.mark.parametrize("name", CONTEXTUAL)
def test_contextual_learners_find_who_likes_what(name: str) -> None:
    """After 3,000 interactions the offer liked by the context has more than uniform's share, four errors clear."""
    from tests.policies.worlds import success_rate

    learner, t = LEARNERS[name](), table(500, seed=9)
    learner.learn(batch(3_000, seed=4))
    earned = (learner.probabilities(t) * success_rate(t)).sum(axis=1)
    uniform = (Uniform().probabilities(t) * success_rate(t)).sum(axis=1)
    gain = earned - uniform
    assert gain.mean() > 4 * gain.std() / np.sqrt(len(gain))
    assert gain.mean() > 0.05


@pytest.mark.parametrize("name", LEARNERS)
def test_a_reward_shifts_towards_the_offer_that_earned_it(name: str) -> None:
    """An offer that always earns gets at least as much afterwards as one that never does."""
    learner, t = LEARNERS[name](), table(60, seed=2)
    everyone = replace(t, eligible=np.ones_like(t.eligible))
    chosen = np.arange(60) % 5
    learner.learn(InteractionBatch(everyone, chosen, np.full(60, 0.2), (chosen == 2).astype(np.float64)))
    mean = learner.probabilities(everyone).mean(axis=0)
    assert mean[2] == mean.max()
    assert mean[2] > 0.2


class _Broken:
    """Breaks one rule at a time."""

    name = "broken"

    def __init__(self, fault: str) -> None:
        self.fault = fault
        self.traits = PolicyTraits("monte_carlo", 0) if fault == "nodes" else PolicyTraits()
        self._calls = 0

    def probabilities(self, table: DecisionTable) -> FloatArray:
        p = Uniform().probabilities(table)
        self._calls += 1
        if self.fault == "axis":
            return p.T
        if self.fault == "sum":
            return p * 0.9
        if self.fault == "ineligible":
            return np.full_like(p, 1 / p.shape[1])
        if self.fault == "state":
            p = p * (1 + 0.1 * self._calls * np.arange(p.shape[1]))
            return np.asarray(p / p.sum(axis=1, keepdims=True))
        if self.fault == "batch" and len(table) > 1:
            return FixedOrder(("o1",)).probabilities(table)
        if self.fault == "order":
            return FixedOrder().probabilities(table)
        if self.fault == "inputs":
            next(iter(table.columns.values()))[:1] = "zzz"
        return p


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("axis", "shape"),
        ("sum", "sums to one"),
        ("ineligible", "ineligible offer gets no"),
        ("state", "same state"),
        ("batch", "batch equals its rows"),
        ("order", "reordering"),
        ("nodes", "how many nodes"),
        ("inputs", "left unchanged"),
    ],
)
def test_the_suite_catches_a_policy_that_breaks_a_rule(fault: str, rule: str) -> None:
    """Each rule of the contract is one that a broken policy fails by name."""
    with pytest.raises(ContractError, match=rule if fault != "nodes" else "from how many"):
        check_policy(_Broken(fault), table())
