"""Published tables and real experiments, computed again from the data."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "reproduce"
needs_data = pytest.mark.skipif(
    not os.environ.get("NEXTOFFER_DATA_DIR"),
    reason="NEXTOFFER_DATA_DIR is not set: it names the folder with the data files",
)


def _example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    for known in ("confounded", name):
        sys.modules.pop(known, None)
    module: ModuleType = importlib.import_module(name)
    return module


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", ["hillstrom", "karlan_list"])
def test_confounded_experiments_are_recovered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a confounded log of a real experiment arm means miss the truth, IPS and DR are within three standard errors."""
    example = _example(name, monkeypatch)
    confounded = sys.modules["confounded"]
    assert confounded.holds(example.lines(seed=0), example.ARMS[example.FAVOURED])
    again = example.lines(seed=1)
    assert all(abs(x.off(x.dr, x.dr_error)) <= 3.5 for x in again)


@needs_data
@pytest.mark.slow
def test_open_bandit_sample_without_support_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Thompson log judged for the uniform policy has an effective sample of two rows, and the verdict says so."""
    panel = _example("obd_small", monkeypatch).backward()
    assert panel.verdicts["uniform"].word == "this log cannot answer"
    assert panel.effective_rows["uniform"] == pytest.approx(2, abs=0.5)
    assert panel.largest_weight["uniform"] == pytest.approx(21_739, rel=1e-3)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("task", ["satimage", "pendigits"])
def test_doubly_robust_figure_is_reproduced(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On classification as a bandit DM is biased, IPS and DR are not, and DR errs less than IPS."""
    example = _example("doubly_robust", monkeypatch)
    assert example.holds(example.judge(task, n_draws=10))


@pytest.mark.slow
def test_digits_errors_are_no_larger_than_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative errors of IPS and DR on digits are at most those of the published table, within noise."""
    example = _example("digits", monkeypatch)
    errors = example.relative_errors(n_runs=10)
    for name in ("IPS", "DR"):
        mean, error = np.mean(errors[name]), np.std(errors[name], ddof=1) / np.sqrt(10)
        assert mean - 2 * error <= example.PUBLISHED[name]


def test_howto_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The snippet of the how-to runs as it stands and ends in a recommendation."""
    text = (FOLDER.parents[1] / "docs" / "howto" / "read-an-ope-report.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    exec(compile(code, "read-an-ope-report.md", "exec"), {})
    assert "RECOMMEND" in capsys.readouterr().out
