"""A log of anybody's own, read as the rollout that it is."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api.cli.simulated_logs import own_log as own_log_command
from api.cli.simulated_sites import calibrate
from policies.errors import InvalidInputError, SchemaError
from policies.fixed import Uniform
from policies.records import IntArray, Offer, OfferId, OfferSet
from simulator.logs import load_log
from simulator.own_log import offers_of, own_log, read_table, site_with
from simulator.rollouts import Rollout, rollout
from simulator.scenarios.car_subscription import OFFERS, reference
from simulator.site import DAY, START


def tables_of(run: Rollout) -> tuple[pa.Table, pa.Table]:
    """Decisions and contracts of a rollout as a company would have them, in no order."""
    shuffled = np.random.default_rng(1).permutation(len(run.row))
    columns = {
        n: pa.array(c) for n, c in run.table.columns.items() if n in ("stage", "searched_class", "age", "deal_share")
    }
    decisions = pa.table(
        {
            "subject": pa.array(run.table.subjects),
            "at": pa.array(run.table.at).cast(pa.timestamp("us", tz="UTC")),
            "offer": pa.array(np.asarray(run.table.offers.ids)[run.chosen]),
            "clicked": pa.array(run.rewards["clicked"].astype(np.int64)),
            "propensity": pa.array(run.probabilities[np.arange(len(run.row)), run.chosen]),
            **columns,
        }
    )
    names = np.full(len(run.subjects.n_visits), "", dtype="U16")
    names[run.row] = run.table.subjects
    signed, left = run.subjects.signed_day, run.subjects.cancelled_day
    has = np.flatnonzero(signed >= 0)

    def evening(days: IntArray) -> pa.Array:
        return pa.array(START + (days + 1) * DAY - np.timedelta64(1, "s"), mask=days < 0).cast(
            pa.timestamp("us", tz="UTC")
        )

    contracts = pa.table(
        {"subject": pa.array(names[has]), "signed_at": evening(signed[has]), "cancelled_at": evening(left[has])}
    )
    return decisions.take(pa.array(shuffled)), contracts


@pytest.fixture(scope="module")
def run() -> Rollout:
    """A log of the reference site."""
    return rollout(reference(), Uniform(), n_subjects=1_200, visit_days=10, seed=2)


def test_two_tables_say_what_the_rollout_said(run: Rollout) -> None:
    """Visits, contracts, their ends and visits counted so far come back, whatever the order of the rows."""
    until = datetime.fromisoformat(str(START)).replace(tzinfo=UTC) + (run.last_day + 1) * (
        datetime(2026, 1, 2) - datetime(2026, 1, 1)
    )
    read = own_log(*tables_of(run), reference(), until=until)
    assert read.last_day in (run.last_day, run.last_day + 1)
    order = np.lexsort((run.day, run.row))
    for name in ("row", "day", "chosen"):
        np.testing.assert_array_equal(getattr(read, name), getattr(run, name)[order])
    for name in ("clicked", "subscribed", "kept_30d"):
        np.testing.assert_array_equal(read.rewards[name], run.rewards[name][order])
    for name in ("signed_day", "cancelled_day", "kept_30d"):
        np.testing.assert_array_equal(getattr(read.subjects, name), getattr(run.subjects, name))
    np.testing.assert_array_equal(read.table.columns["n_visits"], run.table.columns["n_visits"][order])
    np.testing.assert_array_equal(read.table.eligible, run.table.eligible[order])
    np.testing.assert_allclose(read.probabilities.sum(axis=1), 1.0)


def test_what_is_not_told_is_censored(run: Rollout) -> None:
    """Cut at a day, the tables give contracts and cancellations up to then and nothing later."""
    cut = own_log(*tables_of(run), reference(), until=datetime.fromisoformat(str(START + 12 * DAY)).replace(tzinfo=UTC))
    assert cut.day.max() <= 12
    assert cut.subjects.signed_day.max() < 12
    whole = run.subjects.cancelled_day
    assert (cut.subjects.cancelled_day >= 0).sum() == ((whole >= 0) & (whole < 12)).sum()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "searched_class"}, "no column searched_class"),
        ({"propensity": 0.0}, "column propensity has 0 in one of"),
        ({"clicked": 3}, "column clicked has 3; expected 0 or 1"),
        ({"offer": "boat"}, "the log shows 'boat'"),
        ({"at": "today"}, "column at has type string; expected timestamps"),
        ({"offer": "loyal_care"}, "which was not eligible"),
        ({"subject": None}, "column subject of the decisions is missing in"),
    ],
    ids=lambda c: str(c)[:30],
)
def test_what_cannot_be_is_refused_in_a_sentence(run: Rollout, change: dict[str, object], message: str) -> None:
    """A missing column, an impossible number or an unknown offer is named."""
    decisions, contracts = tables_of(run)
    for name, value in change.items():
        if name == "drop":
            decisions = decisions.drop_columns([str(value)])
        else:
            decisions = decisions.set_column(
                decisions.column_names.index(name),
                name,
                pa.array([value] * decisions.num_rows, type=pa.string() if value is None else None),
            )
    with pytest.raises(InvalidInputError, match=message):
        own_log(decisions, contracts, reference())


def test_contracts_that_end_before_they_begin_are_refused(run: Rollout) -> None:
    """A cancellation before its signing is a mistake of the file, and so is a contract without a moment of signing."""
    decisions, contracts = tables_of(run)
    swapped = contracts.rename_columns(["subject", "cancelled_at", "signed_at"]).filter(
        pa.compute.is_valid(contracts["cancelled_at"])
    )
    with pytest.raises(InvalidInputError, match="cancelled before they are signed"):
        own_log(decisions, swapped, reference())
    with pytest.raises(SchemaError, match="column signed_at of the contracts is missing"):
        own_log(decisions, contracts.rename_columns(["subject", "cancelled_at", "signed_at"]), reference())


def test_offers_that_the_laws_cannot_read_are_named(tmp_path: Path) -> None:
    """An offer of an unknown class, without a price, or a catalogue without a car cannot be fitted; a broken file is said to be one."""
    suv = OFFERS[OFFERS.index_of("suv_deal")]
    boat = Offer(OfferId("boat"), {**suv.features, "car_class": "boat"})
    with pytest.raises(InvalidInputError, match="'boat' has car_class 'boat'; expected one of city"):
        site_with("harbour", OfferSet([suv, boat]))
    bare = Offer(OfferId("bare"), {"car_class": "suv"})
    with pytest.raises(InvalidInputError, match="'bare' has no discount_pct"):
        site_with("bare", OfferSet([bare]))
    with pytest.raises(InvalidInputError, match="none of its offers is a car"):
        site_with("walk", OfferSet([OFFERS[OFFERS.index_of("no_offer")]]))
    (tmp_path / "offers.json").write_text("[{}]")
    with pytest.raises(InvalidInputError, match="no list of offers"):
        offers_of(tmp_path / "offers.json")
    with pytest.raises(InvalidInputError, match="there is no file"):
        read_table(tmp_path / "nothing.parquet")
    with pytest.raises(InvalidInputError, match="cannot be read as Parquet"):
        read_table(tmp_path / "offers.json")


@pytest.mark.slow
def test_from_own_files_to_a_fitted_world(run: Rollout, tmp_path: Path) -> None:
    """The command takes two files and own offers; the fit is that of the rollout, and the world keeps the offers."""
    decisions, contracts = tables_of(run)
    pq.write_table(decisions.drop_columns(["propensity"]), tmp_path / "d.parquet")
    pq.write_table(contracts, tmp_path / "c.parquet")
    mine = [{"id": o.id, "features": {**o.features, "margin_eur": 7.0}} for o in OFFERS]
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    assert (
        own_log_command(
            decisions=tmp_path / "d.parquet",
            contracts=tmp_path / "c.parquet",
            offers=tmp_path / "mine.json",
            out=tmp_path / "log",
        )
        == 0
    )
    assert json.loads((tmp_path / "log" / "log.json").read_text())["in_simulation"] is False
    assert calibrate(log=tmp_path / "log", out=tmp_path / "fit", policy=("suv_care",), members=2, subjects=300) == 0
    told = json.loads((tmp_path / "fit" / "calibration.json").read_text())
    assert told["n_visitors"] == 1_200
    margins = [v for v in told["values"] if v["outcome"] == "margin_eur"]
    assert 0 <= margins[0]["mean"] <= 7.0
    with pytest.raises(InvalidInputError, match="weights need one"):
        calibrate(log=tmp_path / "log", out=tmp_path / "fit", weighted=True)
    site = site_with("mine", offers_of(tmp_path / "mine.json"))
    assert load_log(tmp_path / "log", replace(site).offers).policy == "logged"
