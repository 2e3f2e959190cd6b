"""Facts become one number per decision: by hand, whatever order they come in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.rewards.definition import RewardDefinition, RewardTerm
from policies.errors import InvalidInputError

FACTS = [("buy", 30, "b", 2.0), ("buy", 10, "a", 5.0), ("refund", 40, "c", 4.0), ("noise", 1, "d", 100.0)]


@pytest.mark.parametrize(("aggregation", "expected"), [("sum", 5.0), ("first", 3.0), ("last", 0.0), ("max", 3.0)])
def test_facts_of_a_kind_are_aggregated_then_weighted_then_added(aggregation: str, expected: float) -> None:
    """Buys 5 then 2 and a refund of 4 at weight -0.5, by hand."""
    terms = (RewardTerm("buy"), RewardTerm("refund", -0.5))
    definition = RewardDefinition(terms, window_s=60, aggregation=aggregation)  # type: ignore[arg-type]
    assert definition.number(FACTS) == expected


@given(order=st.permutations(FACTS), aggregation=st.sampled_from(["sum", "first", "last", "max"]))
def test_the_order_in_which_facts_come_does_not_matter(
    order: list[tuple[str, int, str, float]], aggregation: str
) -> None:
    """Late, early or shuffled: the same facts give the same number."""
    definition = RewardDefinition((RewardTerm("buy"), RewardTerm("refund", -0.5)), aggregation=aggregation)  # type: ignore[arg-type]
    assert definition.number(order) == definition.number(FACTS)


def test_a_decision_without_facts_has_the_default() -> None:
    """Silence is the default, a fact worth zero is not silence."""
    definition = RewardDefinition((RewardTerm("buy"),), default=-1.0)
    assert definition.number([("noise", 1, "d", 1.0)]) == -1.0
    assert definition.number([("buy", 1, "d", 0.0)]) == 0.0


@pytest.mark.parametrize(
    "arguments",
    [
        {"terms": ()},
        {"terms": (RewardTerm("a"), RewardTerm("a"))},
        {"window_s": 0.0},
        {"window_s": float("nan")},
        {"aggregation": "mean"},
    ],
)
def test_a_definition_that_means_nothing_is_refused(arguments: dict[str, object]) -> None:
    """Empty, repeated, without a window, or of an unknown aggregation."""
    with pytest.raises(InvalidInputError, match=r"reward definition|unknown"):
        RewardDefinition(**arguments)  # type: ignore[arg-type]


def test_a_definition_survives_json() -> None:
    """Written down and read back it is equal."""
    definition = RewardDefinition((RewardTerm("buy", 2.0), RewardTerm("refund", -0.5)), 60.0, 0.25, "max")
    assert RewardDefinition.from_json(definition.to_json()) == definition
