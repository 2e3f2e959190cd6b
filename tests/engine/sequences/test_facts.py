"""Facts that a simulator is fitted to."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from engine.sequences.facts import clustered_logistic, fit_response, fit_visits, fit_weibull, visit_gaps


def _counts(gaps: np.ndarray, width: int = 367) -> np.ndarray:
    return np.bincount(np.minimum(gaps, width - 1), minlength=width)


def test_visit_days_become_gaps() -> None:
    """Days before the end of the data, falling, become gaps between visits and one open gap to the end."""
    people = pa.table({"subject": ["a", "b"], "visit_days": [[9, 6, 5], [3]]})
    gaps = visit_gaps(people)
    assert {(r, int(d)): int(gaps.observed[r, d]) for r, d in np.argwhere(gaps.observed)} == {(0, 3): 1, (0, 1): 1}
    assert [(int(r), int(d)) for r, d in np.argwhere(gaps.censored)] == [(0, 5), (1, 3)]


def test_weibull_is_recovered_from_whole_days_and_open_gaps() -> None:
    """Maximum likelihood on days rounded up, a third of them cut off, finds the shape and scale that made them."""
    rng = np.random.default_rng(5)
    days = np.ceil(12.0 * rng.weibull(0.8, 60_000)).astype(int)
    cut = np.where(rng.random(len(days)) < 0.6, rng.integers(1, 20, len(days)), 10_000)
    is_open = days > cut
    shape, scale = fit_weibull(_counts(days[~is_open]), _counts(cut[is_open]))
    # Standard errors at this size are about 0.004 and 0.1.
    assert shape == pytest.approx(0.8, abs=0.02)
    assert scale == pytest.approx(12.0, abs=0.5)


def test_hazard_counts_who_was_at_risk() -> None:
    """Of gaps of 1 and 3 days and two open after 2: 1 of 4 returns on day 1, none of 3 on day 2, the only one left on day 3."""
    people = pa.table({"subject": ["a", "b"], "visit_days": [[6, 5, 2], [2]]})
    # a: gaps 1 and 3, open 2; b: open 2.
    fitted = fit_visits(visit_gaps(people), np.random.default_rng(0))
    assert [round(h["value"], 6) for h in fitted["hazard"][:3]] == [0.25, 0.0, 1.0]
    assert fitted["return_within"]["1"]["estimate"] == pytest.approx(0.25)


def test_response_intervals_respect_subjects() -> None:
    """Ten copies of each person's answer are no more information: the interval stays as wide as with one copy."""
    rng = np.random.default_rng(1)
    answers = (rng.random(300) < 0.3).astype(float)

    def width(copies: int) -> float:
        table = pa.table(
            {
                "subject": np.repeat([f"s{i}" for i in range(300)], copies).tolist(),
                "offer_type": ["A"] * (300 * copies),
                "label": np.repeat(answers, copies),
                "is_matured": [True] * (300 * copies),
            }
        )
        found = fit_response(table, np.random.default_rng(2))["A"]
        assert found["estimate"] == pytest.approx(answers.mean())
        return float(found["high"] - found["low"])

    assert width(10) == pytest.approx(width(1), rel=1e-9)


def test_clustered_errors_match_independent_rows() -> None:
    """With one row a cluster the sandwich agrees with the errors of repeated samples."""
    rng = np.random.default_rng(3)
    estimates, errors = [], []
    for _ in range(60):
        x = np.stack([np.ones(800), rng.normal(size=800)], axis=1)
        label = (rng.random(800) < 1 / (1 + np.exp(-(-1 + 0.7 * x[:, 1])))).astype(float)
        b, se = clustered_logistic(x, label, np.arange(800))
        estimates.append(b)
        errors.append(se)
    # The spread of 60 estimates is known within 9 %.
    assert np.mean(errors, axis=0) == pytest.approx(np.std(estimates, axis=0, ddof=1), rel=0.3)
    assert np.mean(estimates, axis=0) == pytest.approx([-1, 0.7], abs=0.05)
