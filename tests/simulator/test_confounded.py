"""The confounded log misleads whoever trusts it, and only its propensities are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import InvalidInputError
from policies.records import InteractionBatch
from simulator.confounded import HiddenHand, confounded_log
from simulator.scenarios.car_subscription import reference


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
