from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.allocation import (
    HOLDOUT_SEED,
    Allocator,
    Id,
    Seed,
    Split,
    Trial,
    Variant,
    bucket,
    bucket_ranges,
    choose_range,
    equal_weights,
    fnv1a32,
    layer_seed,
)
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


@given(seed=st.text(max_size=20), value=st.text(max_size=20))
def test_a_seed_hashed_once_gives_the_same_bucket(seed: str, value: str) -> None:
    """Whatever the length of an id and its alphabet, cutting it once for many splits changes no bucket."""
    assert Seed.of(seed).bucket(Id.of(value)) / 10_000 == bucket(seed, value)


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


@pytest.mark.parametrize(
    ("weights", "coverage", "floats"),
    [
        ((5_000, 5_000), 0.8, [0.5, 0.5]),
        (equal_weights(3), 1.0, [1 / 3] * 3),
        ((1_000, 2_500, 6_500), 0.8, [0.1, 0.25, 0.65]),
    ],
    ids=["half", "thirds", "unequal"],
)
def test_the_growthbook_client_puts_ten_thousand_ids_where_we_do(
    weights: tuple[int, ...], coverage: float, floats: list[float]
) -> None:
    """Its SDK and our split agree on every id, plain, non-ASCII and beyond the basic plane, at part coverage too."""
    growthbook = pytest.importorskip("growthbook", reason="missing tool: growthbook; pip install 'nextoffer[test]'")
    keys = [f"v{i}" for i in range(len(weights))]
    split = Split("spring", tuple(Variant(k, w, "p") for k, w in zip(keys, weights, strict=True)), coverage)
    book = growthbook.GrowthBook()
    experiment = growthbook.Experiment(
        key="spring",
        variations=keys,
        weights=floats,
        coverage=coverage,
        hashVersion=2,
        seed="spring",
        hashAttribute="id",
    )
    for i in range(10_000):
        subject = (f"visitor-{i}", f"посетитель {i}", f"訪問者{i}", f"😀{i}", f"é{i}\u0301")[i % 5]
        book.set_attributes({"id": subject})
        result = book.run(experiment)
        mine = split.assign(subject)
        assert (mine.key if mine else None) == (result.value if result.inExperiment else None)


@pytest.mark.slow
def test_layers_are_independent_of_each_other_and_of_experiments() -> None:
    """Slots of any two layers, and slots and variants, show no dependence in 60,000 subjects (chi-square, p > 1e-4)."""
    from scipy.stats import chi2_contingency

    rng = np.random.default_rng(7)
    ids = [
        f"{a:08x}-{b:04x}" for a, b in zip(rng.integers(0, 2**32, 60_000), rng.integers(0, 2**16, 60_000), strict=True)
    ]
    seeds = [
        layer_seed("prices"),
        layer_seed("layout"),
        layer_seed("a"),
        layer_seed("b"),
        "prices",
        "spring",
        HOLDOUT_SEED,
    ]
    tenths = {s: np.array([Seed.of(s).bucket(Id.of(i)) // 1_000 for i in ids]) for s in seeds}
    for one, two in combinations(seeds, 2):
        table = np.bincount(tenths[one] * 10 + tenths[two], minlength=100).reshape(10, 10)
        assert chi2_contingency(table).pvalue > 1e-4, (one, two)


def test_an_allocator_is_its_splits_slots_and_holdout() -> None:
    """Positions for many splits at once are those of each split alone, inside its slots, outside the holdout."""
    splits = [Split(f"e{i}", (Variant("a", 3_000, "p"), Variant("b", 7_000, "p")), 0.9) for i in range(4)]
    trials = [
        Trial(splits[0]),
        Trial(splits[1], "l", (0, 5_000)),
        Trial(splits[2], "l", (5_000, 10_000)),
        Trial(splits[3]),
    ]
    allocator = Allocator(trials, holdout_bp=500, memory=50)
    n_held = 0
    for i in [*range(2_000), *range(100)]:  # the hundred come again when they are forgotten
        found = allocator.positions(f"ü{i}")
        slot = round(bucket(layer_seed("l"), f"ü{i}") * 10_000)
        is_held = bucket(HOLDOUT_SEED, f"ü{i}") < 0.05
        n_held += is_held
        for trial, position in zip(trials, found, strict=True):
            alone = trial.split.assign(f"ü{i}")
            is_in = not is_held and (not trial.layer or trial.slots[0] <= slot < trial.slots[1])
            assert (None if position is None else trial.split.variants[position]) == (alone if is_in else None)
    assert 60 < n_held < 160
