"""The prediction ledger."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from engine.gate.forecasts import Forecast, forecasts_of, foretell, settle, track_record
from policies.errors import InvalidInputError
from tests.engine.service_world import START, open_shop

LIFT = Forecast("lift", "shop", "p@1", START, 0.02, 0.01, 0.03, {"metric": "kept"})


def test_a_forecast_is_written_once_and_settled_once(tmp_path: Path) -> None:
    """The same forecast again is no second row; what came is filled in once and not before it was foretold."""
    later = START + timedelta(days=40)
    with open_shop(tmp_path) as service:
        database = service.database
        assert foretell(database, [LIFT, replace(LIFT, value=0.015)]) == 2
        assert foretell(database, [replace(LIFT, made_at=later)]) == 0
        assert {f.made_at for f in forecasts_of(database, is_open=True)} == {START}
        with pytest.raises(InvalidInputError, match="what is known is no forecast"):
            settle(database, LIFT, at=START - timedelta(days=1), actual=0.02)
        assert settle(database, LIFT, at=later, actual=0.025, standard_error=0.004)
        assert not settle(database, LIFT, at=later, actual=0.0)
        (done,) = forecasts_of(database, is_open=False)
        assert (done.actual, done.is_inside, done.id) == (0.025, True, LIFT.id)


def test_the_record_counts_coverage_agreement_and_signs_by_hand() -> None:
    """Three lifts: one inside, one outside but within its own error, one with the wrong sign and far off; one void, one open."""
    came = [(0.028, 0.0), (0.034, 0.005), (-0.01, 0.002)]
    done = [replace(LIFT, resolved_at=START, actual=a, actual_standard_error=e) for a, e in came]
    rows = [*done, replace(LIFT, resolved_at=START, note="stopped"), LIFT]
    record = next(r for r in track_record(rows) if r.kind == "lift")
    assert (record.n_open, record.n_resolved, record.n_void) == (1, 3, 1)
    assert (record.n_inside, record.n_agree, record.n_right_sign) == (1, 2, 2)
    assert record.mean_error == pytest.approx((-0.008 - 0.014 + 0.03) / 3)
    assert record.mean_absolute_error == pytest.approx((0.008 + 0.014 + 0.03) / 3)
    assert record.to_json()["coverage"] == pytest.approx(1 / 3)


def test_a_forecast_without_an_order_is_refused() -> None:
    """An interval that does not hold its value, or is not finite, is no forecast."""
    with pytest.raises(InvalidInputError, match="expected finite numbers in order"):
        replace(LIFT, low=0.5)
