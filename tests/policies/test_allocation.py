from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allocation import Split, Variant, bucket, bucket_ranges, choose_range, equal_weights, fnv1a32
from policies.errors import InvalidInputError

FOLDER = Path(__file__).parent / "vectors"
PUBLIC: dict[str, Any] = json.loads((FOLDER / "growthbook.json").read_text())
OWN: dict[str, Any] = json.loads((FOLDER / "non_ascii.json").read_text())


@pytest.mark.parametrize(
    ("seed", "value", "version", "expected"), [v for v in PUBLIC["hash"] + OWN["hash"] if v[3] is not None]
)
def test_bucket_agrees_with_growthbook(seed: str, value: str, version: int, expected: float) -> None:
    """Our hash is GrowthBook's, on its public vectors and on ids outside ASCII."""
    assert bucket(seed, value, version=version) == expected  # type: ignore[arg-type]


@given(seed=st.text(max_size=20), value=st.text(max_size=20))
def test_bucket_agrees_with_the_real_client(seed: str, value: str) -> None:
    """For any text GrowthBook's own Python client computes the same bucket."""
    core = pytest.importorskip("growthbook.core", reason="missing tool: growthbook")
    assert bucket(seed, value) == core.gbhash(seed, value, 2)


@pytest.mark.parametrize(("name", "arguments", "expected"), PUBLIC["getBucketRange"])
def test_bucket_ranges_agree_with_growthbook(name: str, arguments: list[Any], expected: list[list[float]]) -> None:
    """Ranges of buckets are GrowthBook's wherever its input is one that we accept."""
    n, coverage, weights = arguments
    if weights is not None and len(weights) != n:
        pytest.skip("the number of variants is the number of weights here; the two cannot disagree")
    if weights is not None and abs(sum(weights) - 1) > 1e-9:
        with pytest.raises(InvalidInputError):
            bucket_ranges([round(w * 10_000) for w in weights])
        return
    if not 0 <= coverage <= 1:
        with pytest.raises(InvalidInputError):
            bucket_ranges(equal_weights(n), coverage=coverage)
        return
    basis_points = equal_weights(n) if weights is None else [round(w * 10_000) for w in weights]
    ours = bucket_ranges(basis_points, coverage=coverage)
    # A basis point is the finest step there is: equal thirds differ from the floats by less than one bucket.
    assert [b for r in ours for b in r] == pytest.approx([b for r in expected for b in r], abs=1e-4)


@pytest.mark.parametrize(("name", "position", "ranges", "expected"), PUBLIC["chooseVariation"])
def test_choose_range_agrees_with_growthbook(
    name: str, position: float, ranges: list[tuple[float, float]], expected: int
) -> None:
    """The range a bucket falls in is GrowthBook's; -1 there is None here."""
    assert choose_range(position, ranges) == (None if expected == -1 else expected)


@pytest.mark.parametrize("n", range(1, 13))
def test_equal_weights_place_every_bucket_as_equal_floats_do(n: int) -> None:
    """Each of the 10,000 buckets falls to the variant that GrowthBook's float ranges give it to."""
    ours = bucket_ranges(equal_weights(n))
    floats = [(i / n, (i + 1) / n) for i in range(n)]
    assert all(choose_range(b / 10_000, ours) == choose_range(b / 10_000, floats) for b in range(10_000))


@given(
    weights=st.lists(st.integers(0, 4000), min_size=1, max_size=5).filter(lambda w: 0 < sum(w) <= 10_000),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    subject=st.text(max_size=12),
)
def test_raising_the_coverage_only_adds_subjects(weights: list[int], low: float, high: float, subject: str) -> None:
    """A subject that took part keeps its variant when the coverage grows."""
    weights = [*weights, 10_000 - sum(weights)]
    low, high = sorted((low, high))
    variants = tuple(Variant(f"v{i}", w, "p") for i, w in enumerate(weights))
    before = Split("seed", variants, low).assign(subject)
    assert before is None or Split("seed", variants, high).assign(subject) == before


def test_weights_that_do_not_sum_are_refused_with_the_equal_split() -> None:
    """Weights that leave a gap are refused, and the text shows a split that would do."""
    with pytest.raises(InvalidInputError, match=r"sum to 9999.*\[3334, 3333, 3333\]"):
        bucket_ranges([3333, 3333, 3333])


def test_shares_of_a_split_match_its_weights() -> None:
    """Over 40,000 subjects each variant's share lies within four standard errors of its weight."""
    split = Split("x", (Variant("a", 7000, "p"), Variant("b", 2000, "p"), Variant("c", 1000, "p")))
    n = 40_000
    keys = [v.key for v in map(split.assign, (f"u{i}" for i in range(n))) if v is not None]
    for variant in split.variants:
        p = variant.weight_bp / 10_000
        assert abs(keys.count(variant.key) / n - p) < 4 * (p * (1 - p) / n) ** 0.5


def test_fnv_of_the_empty_text_is_the_offset_basis() -> None:
    """The published constant of 32-bit FNV-1a."""
    assert fnv1a32("") == 0x811C9DC5
    assert fnv1a32("a") == 0xE40C292C
