"""The leakage audit, on planted leaks and on real tables."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from engine.models.dataset import SequenceDataset
from engine.models.metrics import expit, roc_auc
from engine.training.audit import audit_text, leakage_audit, out_of_fold
from engine.training.fit_one import subject_folds
from policies.errors import InvalidInputError


def data_file(name: str) -> Path:
    """A file of the research data: skip where no folder is given, fail where the file is not in it."""
    folder = os.environ.get("NEXTOFFER_DATA_DIR")
    if not folder:
        pytest.skip("NEXTOFFER_DATA_DIR is not set; it names the folder with the public research data")
    path = Path(folder) / name
    assert path.is_file(), f"{path} is missing; fetch it again, see its source in the data folder's README"
    return path


def planted(n: int = 1500, *, leak: bool, seed: int = 0) -> SequenceDataset:
    """Labels that follow three honest columns a little, and one column computed from the label where ``leak``."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(size=(3, n))
    label = (rng.random(n) < expit(-1.0 + 0.7 * honest.sum(axis=0))).astype(np.float64)
    last = label + 0.4 * rng.normal(size=n) if leak else rng.normal(size=n)
    columns = {f"agg_{i}": column for i, column in enumerate((*honest, last))}
    return SequenceDataset.from_columns(columns, label=label, subject=np.asarray([f"s{i // 2}" for i in range(n)]))


@pytest.mark.slow
def test_planted_leak_is_named_and_honest_columns_are_not() -> None:
    """A column computed from the label is the one suspect; without it there is none."""
    found = leakage_audit(planted(leak=True))
    assert list(found["suspects"]) == ["agg_3"]
    assert "SUSPECT agg_3" in audit_text(found)
    assert not leakage_audit(planted(leak=False))["suspects"]


def test_recognised_subjects_show_as_the_gap_of_random_folds() -> None:
    """Where a subject's rows share their label and look alike, random folds flatter and the gap says by how much."""
    rng = np.random.default_rng(1)
    who = np.repeat(np.arange(300), 5)
    label = (rng.random(300) < 0.4).astype(np.float64)[who]
    columns = {"agg_a": rng.normal(size=300)[who], "agg_b": rng.normal(size=300)[who]}
    data = SequenceDataset.from_columns(columns, label=label, subject=who.astype(np.str_))
    gap = leakage_audit(data)["random_folds"]
    assert gap["gap"] > 0.2
    assert gap["gap_low"] > 0.1


def test_too_little_is_refused() -> None:
    """Forty rows cannot be audited."""
    with pytest.raises(InvalidInputError, match="cannot be audited"):
        leakage_audit(planted(40, leak=False))


@pytest.mark.slow
def test_online_shoppers_names_page_values() -> None:
    """On real sessions: 0.92 AUC or more with PageValues, 0.76 to 0.80 without, and the audit names it by itself."""
    table = pacsv.read_csv(data_file("online_shoppers/online_shoppers_intention.csv.gz"))
    data = SequenceDataset.from_columns(
        {f"agg_{name}": _column(table, name) for name in table.column_names if name != "Revenue"},
        label=_column(table, "Revenue"),
        subject=np.arange(table.num_rows).astype(np.str_),
    )
    found = leakage_audit(data)
    assert 0.92 <= found["roc_auc"] < 0.95
    assert 0.76 <= found["columns"]["agg_PageValues"]["without"] <= 0.80
    assert list(found["suspects"]) == ["agg_PageValues"]


@pytest.mark.slow
def test_coupon_scenarios_group_by_respondent() -> None:
    """Rows of one respondent follow each other: grouped folds give about 0.76, random ones about 0.83."""
    table = pacsv.read_csv(
        data_file("in_vehicle_coupon/in-vehicle-coupon-recommendation.csv.gz"),
        convert_options=pacsv.ConvertOptions(strings_can_be_null=True),
    )
    about = [
        "gender",
        "age",
        "maritalStatus",
        "has_children",
        "education",
        "occupation",
        "income",
        "Bar",
        "CoffeeHouse",
    ]
    about += ["CarryAway", "RestaurantLessThan20", "Restaurant20To50"]
    key = np.stack([_column(table, name).astype(np.str_) for name in about], axis=1)
    respondent = np.cumsum(np.append(True, (key[1:] != key[:-1]).any(axis=1)))
    data = SequenceDataset.from_columns(
        {f"agg_{name}": _column(table, name) for name in table.column_names if name != "Y"},
        label=_column(table, "Y"),
        subject=respondent.astype(np.str_),
    )
    grouped = roc_auc(data.label, out_of_fold(data, subject_folds(data.subject, n_folds=4, seed=0), seed=0))
    at_random = np.random.default_rng(0).permutation(len(data)) % 4
    flattered = roc_auc(data.label, out_of_fold(data, at_random, seed=0))
    assert grouped == pytest.approx(0.758, abs=0.02)
    assert flattered == pytest.approx(0.827, abs=0.02)


def _column(table: pa.Table, name: str) -> np.ndarray:
    kind = table[name].type
    if pa.types.is_string(kind):
        return np.asarray([v or "" for v in table[name].to_pylist()], dtype=np.str_)
    return np.asarray([np.nan if v is None else float(v) for v in table[name].to_pylist()], dtype=np.float64)
