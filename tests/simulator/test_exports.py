"""The raw files are dirty in the counted ways, and clean up to the truth beside them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from api.cli.simulated_logs import raw
from engine.sources.description import load_source
from policies.errors import InvalidInputError
from simulator.exports import Mess, export_raw
from simulator.rollouts import rollout
from simulator.scenarios.car_subscription import reference
from tests.simulator.test_site import Uniform


def test_raw_files_clean_up_to_the_truth(tmp_path: Path) -> None:
    """Without their copies, in order of happening and with browsers tied by the truth, the events are the decisions."""
    run = rollout(reference(), Uniform(), n_subjects=300, seed=4)
    counts = export_raw(run, tmp_path, seed=1, mess=Mess(duplicated=0.1, late=0.1))
    events = [json.loads(line) for line in (tmp_path / "web_analytics.jsonl").read_text().splitlines()]
    assert len(events) == counts["events"] + counts["events_duplicated"]
    received = [e["received_at"] for e in events]
    assert received == sorted(received)
    happened = [e["timestamp"] for e in events]
    assert happened != sorted(happened)
    unique = {e["event_id"]: e for e in events}
    assert len(unique) == counts["events"]
    truth = pq.read_table(tmp_path / "truth" / "decisions.parquet").to_pylist()
    owner = {row["anonymous_id"]: row["subject"] for row in truth}
    visits = sorted((owner[e["anonymous_id"]], e["timestamp"]) for e in unique.values() if e["type"] == "visit")
    assert [v[0] for v in visits] == sorted(row["subject"] for row in truth)
    clicks = sum(e["type"] == "click" for e in unique.values())
    assert clicks == sum(row["clicked"] for row in truth) > 0


def test_customers_know_only_the_browsers_that_were_stitched(tmp_path: Path) -> None:
    """Browsers of events that no customer row names are those counted as unstitched; billing holds every contract."""
    run = rollout(reference(), Uniform(), n_subjects=400, seed=4)
    counts = export_raw(run, tmp_path, seed=2)
    with (tmp_path / "customers.csv").open(newline="") as file:
        customers = list(csv.DictReader(file))
    known = {b for c in customers for b in c["anonymous_ids"].split(";")}
    events = [json.loads(line) for line in (tmp_path / "web_analytics.jsonl").read_text().splitlines()]
    unknown = {e["anonymous_id"] for e in events} - known
    assert len(unknown) == counts["unstitched_browsers"] > 0
    with (tmp_path / "billing.csv").open(newline="") as file:
        contracts = {row["customer_no"]: row for row in csv.DictReader(file)}
    assert len(contracts) == counts["contracts"] == int(run.subjects.subscribed.sum())
    left = sum(row["cancelled_on"] != "" for row in contracts.values())
    assert left == int((run.subjects.cancelled_day >= 0).sum())


def test_one_seed_one_mess(tmp_path: Path) -> None:
    """The same rollout and seed give the same files byte for byte; no mess gives no dirt."""
    run = rollout(reference(), Uniform(), n_subjects=150, seed=4)
    for name in ("a", "b"):
        export_raw(run, tmp_path / name, seed=3)
    for file in ("web_analytics.jsonl", "customers.csv", "billing.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    clean = export_raw(run, tmp_path / "c", seed=3, mess=Mess(0.0, 0.0, 0.0, 0.0, 0.0))
    dirt = (
        "events_duplicated",
        "events_late",
        "event_values_missing",
        "customer_values_missing",
        "unstitched_browsers",
    )
    assert [clean[name] for name in dirt] == [0, 0, 0, 0, 0]
    assert np.isclose(clean["events"], len(run.chosen) + run.rewards["clicked"].sum())


def test_a_share_above_one_is_refused() -> None:
    """Shares outside [0, 1] are refused by name."""
    with pytest.raises(InvalidInputError, match="late"):
        Mess(late=1.5)


def test_the_files_are_described_for_the_builder_of_sequences(tmp_path: Path) -> None:
    """``source.toml`` is the described source of the examples for the reference people, and names other people's traits."""
    run = rollout(reference(), Uniform(), n_subjects=60, seed=4)
    export_raw(run, tmp_path / "reference", seed=3)
    example = Path(__file__).parents[2] / "examples" / "sources" / "simulator_exports.toml"
    assert (tmp_path / "reference" / "source.toml").read_text() == example.read_text()
    assert raw(out=tmp_path / "other", scenario="retention-tabular", setting=0.9, subjects=60) == 0
    source = load_source(tmp_path / "other" / "source.toml")
    assert source.tables["customers"].columns == {
        "customer_no": "string", "anonymous_ids": "string", "segment": "string"
    }  # fmt: skip
