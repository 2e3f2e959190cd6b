"""The joined log as files: what is read back is what the store joins; runs go on where they stopped."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from engine.rewards import files
from engine.rewards.files import export_files
from engine.store.retention import retain
from offline_eval.interop.arrow import ParquetLog, read_parquet
from offline_eval.interop.dsjson import read_dsjson
from policies.errors import InvalidInputError, StoreUnavailableError
from policies.records import InteractionBatch
from tests.engine.service_world import START, Clock, exported, open_shop, shop
from tests.engine.store.test_upkeep import LATER, busy

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "dsjson.schema.json").read_text())


def same(found: InteractionBatch, expected: InteractionBatch) -> None:
    """Everything that an estimator reads is equal."""
    assert found.table.offers.ids == expected.table.offers.ids
    assert [dict(o.features) for o in found.table.offers] == [dict(o.features) for o in expected.table.offers]
    for name in (
        "chosen",
        "propensity",
        "reward",
        "decision_ids",
        "policies",
        "variants",
        "phases",
        "variant_probability",
    ):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert np.array_equal(found.table.eligible, expected.table.eligible)
    assert found.table.subjects is not None
    assert found.table.subjects.tolist() == expected.table.subjects.tolist()  # type: ignore[union-attr]
    assert found.table.at.tolist() == expected.table.at.tolist()  # type: ignore[union-attr]
    assert found.table.columns.keys() == expected.table.columns.keys()
    for name, column in found.table.columns.items():
        assert np.array_equal(column, expected.table.columns[name], equal_nan=column.dtype.kind == "f"), name


@pytest.mark.parametrize("form", ["parquet", "dsjson"])
def test_an_export_taken_in_parts_is_the_join(
    tmp_path: Path, form: files.Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs while windows close give the batch that the store gives at once; nothing is written twice."""
    monkeypatch.setattr(files, "STEP", 7)
    clock = Clock()
    out = tmp_path / "out"
    with busy(tmp_path / "home", clock) as service:
        n = 0
        for days in (30.2, 30.6, 90):
            found = export_files(
                service.database, "shop", out, form=form, definition=shop().reward, as_of=START + timedelta(days=days)
            )
            n += found.n_rows
        assert export_files(service.database, "shop", out, form=form, definition=shop().reward, as_of=LATER).n_rows == 0
        expected = exported(service.database, "shop", as_of=LATER)
        assert n == len(expected) == 24
        same(read_parquet(out) if form == "parquet" else read_dsjson(out), expected)
        assert {p.parent.name for p in out.rglob(f"*.{form}")} == {"day=2026-03-01", "day=2026-03-02"}
        with pytest.raises(InvalidInputError, match="export into a new folder"):
            export_files(
                service.database,
                "shop",
                out,
                form="dsjson" if form == "parquet" else "parquet",
                definition=shop().reward,
                as_of=LATER,
            )
    if form == "parquet":
        parts = list(ParquetLog(out).chunks(5))
        assert sum(len(p) for p in parts) == 24
    else:
        for path in out.rglob("*.dsjson"):
            for line in path.read_text().splitlines():
                jsonschema.validate(json.loads(line), SCHEMA)


def test_the_schema_refuses_what_vw_would_misread() -> None:
    """A line without ``_labelIndex``, a nested feature or an unknown field at the top is no export of ours."""
    for change in ({"_labelIndex": None}, {"c": {"context": {"a": {"b": 1}}, "_multi": []}}, {"more": 1}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**change}, SCHEMA)


def test_vowpal_wabbit_learns_from_exported_lines(tmp_path: Path) -> None:
    """The lines go through VW's own dsjson parser and teach it the same as any other."""
    vw = pytest.importorskip(
        "vowpal_wabbit_next", reason="missing tool: vowpal-wabbit-next; pip install 'nextoffer[serve]'"
    )
    clock = Clock()
    with busy(tmp_path / "home", clock) as service:
        export_files(service.database, "shop", tmp_path / "out", form="dsjson", definition=shop().reward, as_of=LATER)
    workspace = vw.Workspace(["--cb_explore_adf", "--squarecb", "-q", "co", "--quiet"])
    parser = vw.DSJsonFormatParser(workspace)
    n = 0
    for path in sorted((tmp_path / "out").rglob("*.dsjson")):
        for line in path.read_text().splitlines():
            example = parser.parse_json(line)
            answer = workspace.predict_then_learn_one(example)
            n += 1
            assert len(answer) == len(json.loads(line)["p"])
    assert n == 24


def test_later_features_and_offers_are_in_the_later_files(tmp_path: Path) -> None:
    """A feature and an offer that appear between two runs are there for the rows that have them; a feature of two types is named."""
    clock = Clock()
    with open_shop(tmp_path / "home", clock=clock) as service:
        from engine.decisions.requests import DecisionRequest

        for i in range(4):
            service.decide(DecisionRequest("shop", f"u{i}", {"x": 1.0}, id=f"d{i}"))
        export_files(service.database, "shop", tmp_path / "out", definition=shop().reward, as_of=clock.forward(days=31))
        service.put_placement(shop(4))
        for i in range(4, 8):
            service.decide(DecisionRequest("shop", f"u{i}", {"x": "many", "new": 2.0}, id=f"d{i}"))
        found = export_files(
            service.database, "shop", tmp_path / "out", definition=shop().reward, as_of=clock.forward(days=31)
        )
    assert found.mixed == ("x",)
    batch = read_parquet(tmp_path / "out")
    assert batch.table.offers.ids == ("a", "b", "c", "d")
    assert np.array_equal(batch.table.columns["x"], [1.0] * 4 + [np.nan] * 4, equal_nan=True)
    assert np.array_equal(batch.table.columns["new"], [np.nan] * 4 + [2.0] * 4, equal_nan=True)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    """Nothing is written beside files of somebody else, and a full disk is a sentence."""
    clock = Clock()
    (tmp_path / "mine.txt").write_text("mine")
    with busy(tmp_path / "home", clock) as service:
        with pytest.raises(InvalidInputError, match="not empty"):
            export_files(service.database, "shop", tmp_path, definition=shop().reward, as_of=LATER)
        with pytest.raises(StoreUnavailableError, match="cannot write"):
            export_files(
                service.database, "shop", tmp_path / "mine.txt" / "under", definition=shop().reward, as_of=LATER
            )
        retain(service.database, what="events", days=1, now=LATER, cold=tmp_path / "cold")
        assert (
            export_files(service.database, "shop", tmp_path / "out", definition=shop().reward, as_of=LATER).n_rows == 24
        )
