from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.eligibility import Condition, EligibilityRule, eligible_mask, excluded_by
from policies.errors import InvalidInputError
from policies.records import Context, DecisionTable, FeatureValue, SubjectId
from tests.policies.worlds import offer_set

RULES = (
    EligibilityRule("returning-only", (Condition("kind", "==", "b"),), (Condition("stage", "==", "returning"),)),
    EligibilityRule("enough-pages", (Condition("price_eur", ">", 10),), (Condition("pages", ">=", 3),)),
    EligibilityRule("not-o0", (Condition("id", "in", ("o0",)),), (Condition("coupon", "missing"),)),
)


def test_rules_by_hand() -> None:
    """A new visitor with one page and a coupon keeps only what no rule forbids; each reason is the first rule."""
    assert excluded_by(RULES, offer_set(4), {"stage": "new", "pages": 1.0, "coupon": "x"}) == {
        "o0": "not-o0",
        "o1": "returning-only",
        "o3": "returning-only",
        "o2": "enough-pages",
    }
    assert excluded_by(RULES, offer_set(4), {"stage": "returning", "pages": 3}) == {}


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("==", False),
        ("!=", True),
        ("in", False),
        ("not in", True),
        ("<", False),
        (">=", False),
        ("missing", True),
        ("present", False),
    ],
)
def test_a_missing_feature_satisfies_only_what_it_can(operator: str, expected: bool) -> None:
    """Absent, null and nan are the same: only missing, != and not in hold."""
    value: FeatureValue | tuple[FeatureValue, ...] = (1.0,) if "in" in operator.split() else 1.0
    condition = Condition("x", operator, value)  # type: ignore[arg-type]
    found: list[dict[str, FeatureValue]] = [{}, {"x": None}, {"x": float("nan")}]
    assert [condition.holds(f) for f in found] == [expected] * 3


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["new", "returning", None]),
            st.one_of(st.none(), st.integers(0, 6)),
            st.sampled_from([None, "x"]),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_a_mask_of_many_contexts_equals_one_at_a_time(
    rows: list[tuple[str | None, int | None, str | None]],
) -> None:
    """The columns and the single context give the same eligible set."""
    offers = offer_set(5)
    features = [{"stage": s, "pages": p, "coupon": c} for s, p, c in rows]
    t = DecisionTable.from_contexts(offers, [Context(SubjectId("s"), f) for f in features])
    mask = eligible_mask(RULES, offers, t.columns, n=len(t))
    single = [[o not in excluded_by(RULES, offers, f) for o in offers.ids] for f in features]
    assert np.array_equal(mask, np.asarray(single))


def test_unknown_operators_and_single_values_for_lists_are_refused() -> None:
    """A rule that cannot be meant is refused when it is made."""
    with pytest.raises(InvalidInputError, match="unknown"):
        Condition("x", "=~", 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="expected a list"):
        Condition("x", "in", "abc")
