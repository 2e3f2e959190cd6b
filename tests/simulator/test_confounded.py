"""The confounded log misleads whoever trusts it, and only its propensities are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from api.cli.simulated_logs import log
from policies.errors import InvalidInputError
from policies.records import InteractionBatch
from simulator.confounded import HiddenHand, confounded_log
from simulator.logs import load_log
from simulator.scenarios.car_subscription import OFFERS, reference


def _ips_of_first_visits(batch: InteractionBatch, offer: str) -> tuple[float, float]:
    rows = batch.table.columns["n_visits"] == 0
    shown = batch.chosen[rows] == batch.table.offers.index_of(offer)
    weighted = shown * batch.reward[rows] / batch.propensity[rows]
    return float(weighted.mean()), float(weighted.std() / np.sqrt(rows.sum()))


def test_believed_propensities_mislead_and_true_ones_do_not() -> None:
    """Clicks on the deep discount: weighting by what the site believes overstates the truth beyond four errors, by the truth not."""
    scenario, n, seed = reference(), 25_000, 5
    believed, honest = confounded_log(scenario, n_subjects=n, seed=seed)
    np.testing.assert_array_equal(believed.chosen, honest.chosen)
    from simulator.exact import visit_odds
    from simulator.world import Subjects

    deal = scenario.offers.index_of("compact_deal")
    truth = visit_odds(scenario, Subjects.draw(scenario, np.arange(n), seed=seed)).click[:, deal].mean()
    wrong, wrong_error = _ips_of_first_visits(believed, "compact_deal")
    right, right_error = _ips_of_first_visits(honest, "compact_deal")
    assert wrong - truth > 4 * wrong_error
    assert abs(right - truth) < 4 * right_error


def test_without_strength_nothing_is_hidden() -> None:
    """At strength nought what the site believes is what happened."""
    believed, honest = confounded_log(reference(), n_subjects=500, seed=1, strength=0.0)
    np.testing.assert_allclose(believed.propensity, honest.propensity, atol=1e-12)


def test_the_hidden_hand_needs_names() -> None:
    """A table without subjects is refused."""
    _, honest = confounded_log(reference(), n_subjects=200, seed=1)
    from dataclasses import replace

    with pytest.raises(InvalidInputError, match="by name"):
        HiddenHand(reference(), seed=1, strength=1.0).probabilities(replace(honest.table, subjects=None))


def test_the_command_states_what_the_site_believes(tmp_path: Path) -> None:
    """A confounded log gives estimators one distribution per stage, and keeps the true one where they do not look."""
    assert log(out=tmp_path / "log", subjects=500, confounded=2.0, reward="clicked") == 0
    told = pq.read_table(tmp_path / "log" / "decisions.parquet")
    visitors = [
        (o, p)
        for o, p, s in zip(*(told[c].to_pylist() for c in ("offer", "propensity", "stage")), strict=True)
        if s == "visitor"
    ]
    assert len(set(visitors)) == 7
    run = load_log(tmp_path / "log", OFFERS)
    true = run.probabilities[np.arange(len(run.chosen)), run.chosen]
    assert len(np.unique(np.round(true, 9))) > 100
    with pytest.raises(InvalidInputError, match="has no policy"):
        log(out=tmp_path / "other", subjects=50, policy="suv_deal", confounded=2.0)
