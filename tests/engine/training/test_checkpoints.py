"""A fit that was cut off goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.models.linear import RidgeLogistic
from engine.models.propensity import FitReport
from engine.training.fit_one import fit_one
from policies.errors import InvalidInputError
from tests.engine.models.tables import decision_points

DATA = decision_points(500, seed=4)


def test_a_fit_that_was_cut_off_ends_as_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in its third fold and called again, only what was missing is fitted, and the files are those of an unbroken fit."""
    fitted: list[int] = []
    plain = RidgeLogistic.fit

    def counted(self: RidgeLogistic, *parts: object) -> FitReport:
        fitted.append(len(fitted))
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return plain(self, *parts)  # type: ignore[arg-type]  # the two parts go through as they came

    monkeypatch.setattr(RidgeLogistic, "fit", counted)
    with pytest.raises(KeyboardInterrupt):
        fit_one(DATA, tmp_path / "cut", name="logistic", seed=1, n_folds=4)
    assert not (tmp_path / "cut" / "report.json").exists()
    with pytest.raises(InvalidInputError, match="another seed"):
        fit_one(DATA, tmp_path / "cut", name="logistic", seed=2, n_folds=4)
    with pytest.raises(InvalidInputError, match="another data"):
        fit_one(DATA.take(np.arange(400)), tmp_path / "cut", name="logistic", seed=1, n_folds=4)
    fit_one(DATA, tmp_path / "cut", name="logistic", seed=1, n_folds=4)
    assert len(fitted) == 2 + 1 + 2
    fit_one(DATA, tmp_path / "whole", name="logistic", seed=1, n_folds=4)
    cut, whole = (pq.read_table(tmp_path / n / "predictions.parquet") for n in ("cut", "whole"))
    assert cut.equals(whole)
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("cut", "whole")]
    assert reports[0]["history"] == reports[1]["history"]
    served = [
        sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n / "served").rglob("*")) for n in ("cut", "whole")
    ]
    assert served[0] == served[1]
