from __future__ import annotations

import numpy as np
import pytest

from policies.errors import InvalidInputError, SchemaError
from policies.fixed import FixedOrder, IncumbentRules, MostPopular, fit_incumbent, stage_names
from policies.records import DecisionTable, InteractionBatch
from tests.policies.worlds import batch, offer_set, table


def _shown(policy: IncumbentRules | FixedOrder, t: DecisionTable) -> list[str]:
    p = policy.probabilities(t)
    assert set(np.unique(p)) <= {0.0, 1.0}
    return [t.offers.ids[i] for i in p.argmax(axis=1)]


def test_the_first_eligible_offer_of_the_list_is_shown() -> None:
    """The list decides, then the ids; never the order in which offers are given."""
    t = DecisionTable(
        offer_set(4).permuted([2, 0, 3, 1]),
        np.asarray([[True, True, True, True], [False, True, True, True], [False, True, False, True]]),
    )
    assert _shown(FixedOrder(("o2", "o3")), t) == ["o2", "o3", "o0"]


def test_the_incumbent_by_hand() -> None:
    """Two stages, three offers, unequal propensities: the self-normalised means decide in each stage."""
    stage = np.asarray(["new"] * 5 + ["old"] * 4)
    chosen = np.asarray([0, 0, 1, 1, 2, 0, 1, 1, 2])
    propensity = np.asarray([0.5, 0.25, 0.25, 0.25, 0.5, 0.5, 0.2, 0.8, 0.25])
    reward = np.asarray([1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0])
    t = DecisionTable(offer_set(3), np.ones((9, 3), dtype=np.bool_), columns={"stage": stage})
    rules = fit_incumbent(InteractionBatch(t, chosen, propensity, reward), stage_column="stage", min_shown=1)
    # new: o0 (2*1 + 4*0)/6 = 1/3, o1 4/8 = 1/2, o2 0; old: o0 0, o1 (5*0 + 1.25*1)/6.25 = 0.2, o2 1
    assert rules.orders == {"new": ("o1", "o0", "o2"), "old": ("o2", "o1", "o0")}
    assert {v.offer: v.value for v in rules.evidence["new"]} == pytest.approx({"o0": 1 / 3, "o1": 0.5, "o2": 0.0})
    # overall: o0 2/8, o1 (4 + 1.25)/14.25, o2 4/6
    assert {v.offer: v.value for v in rules.evidence[""]} == pytest.approx(
        {"o0": 0.25, "o1": 5.25 / 14.25, "o2": 4 / 6}
    )
    assert rules.default == ("o2", "o1", "o0")


def test_the_next_best_steps_in_where_the_best_may_not_be_shown() -> None:
    """Eligibility is respected per row, and an unknown stage follows the default."""
    rules = IncumbentRules("stage", {"new": ("o1", "o2")}, ("o2", "o0"))
    t = DecisionTable(
        offer_set(3),
        np.asarray([[True, True, True], [True, False, True], [True, False, False], [True, True, True]]),
        columns={"stage": np.asarray(["new", "new", "new", "elsewhere"])},
    )
    assert _shown(rules, t) == ["o1", "o2", "o0", "o2"]


def test_a_stage_with_few_showings_follows_the_overall_order() -> None:
    """Under min_shown an offer is not ranked by its stage's luck."""
    b = batch(400)
    rules = fit_incumbent(b, stage_column="stage", min_shown=1_000)
    assert rules.orders == {}
    assert set(rules.default) == set(b.table.offers.ids)


def test_the_incumbent_finds_the_truth_on_a_large_log() -> None:
    """With 20,000 uniform decisions split by a stage that decides the best offer, each stage gets its own."""
    t = table(20_000, seed=7)
    rng = np.random.default_rng(0)
    rate = np.where((t.columns["stage"] == "new")[:, None], [0.1, 0.5, 0.2, 0.1, 0.1], [0.1, 0.1, 0.2, 0.1, 0.4])
    chosen = np.asarray([rng.choice(np.flatnonzero(e)) for e in t.eligible])
    reward = (rng.random(len(t)) < rate[np.arange(len(t)), chosen]).astype(np.float64)
    rules = fit_incumbent(InteractionBatch(t, chosen, 1 / t.eligible.sum(axis=1), reward), stage_column="stage")
    assert rules.orders["new"][0] == "o1"
    assert rules.orders["returning"][0] == "o4"
    value = next(v for v in rules.evidence["new"] if v.offer == "o1")
    assert abs(value.value - 0.5) < 4 * value.standard_error


def test_a_numeric_stage_is_named_without_a_fraction() -> None:
    """Stage 2.0 is "2"."""
    t = DecisionTable(offer_set(3), np.ones((2, 3), dtype=np.bool_), columns={"stage": np.asarray([2.0, np.nan])})
    assert stage_names(t, "stage").tolist() == ["2", "nan"]


def test_a_missing_stage_column_is_named() -> None:
    """A stage column that is not in the log is an error that lists what is."""
    with pytest.raises(
        SchemaError, match=r"'stag' is not in the table; expected one of \['days_since', 'pages', 'stage'\]"
    ):
        fit_incumbent(batch(), stage_column="stag")


def test_popularity_fades_by_hand() -> None:
    """With half-life 1 three observations weigh 1/4, 1/2 and 1; the prior never fades."""
    t = DecisionTable(offer_set(2), np.ones((3, 2), dtype=np.bool_))
    policy = MostPopular(half_life=1.0, prior_mean=0.5, prior_weight=1.0)
    policy.learn(InteractionBatch(t, np.asarray([0, 1, 0]), np.ones(3), np.asarray([1.0, 1.0, 0.0])))
    assert policy.mean_reward("o0") == pytest.approx((0.25 + 0.5) / (1.25 + 1.0))
    assert policy.mean_reward("o1") == pytest.approx((0.5 + 0.5) / (0.5 + 1.0))
    assert policy.mean_reward("never seen") == 0.5


def test_nonsense_parameters_are_refused() -> None:
    """A negative half-life says what was expected."""
    with pytest.raises(InvalidInputError, match="half_life"):
        MostPopular(half_life=-1)
