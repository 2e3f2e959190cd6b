"""Steps that are processes of their own: watched, ended with us, and plain about what went wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.jobs import children
from engine.jobs.children import Job, JobError, run_in_front


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that can be run with ``python -m``; its content is the test's."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "a_step_of_a_test.py"


def test_a_step_hands_over_its_lines_and_its_error(tmp_path: Path, module: Path) -> None:
    """While it runs its last line is told; the error it raised on purpose is in ours, else the end of its log."""
    log, told = tmp_path / "logs" / "step.log", list[str]()
    module.write_text("import os, time\nprint('half', os.environ['OMP_NUM_THREADS'], flush=True)\ntime.sleep(0.8)")
    children.run(Job("half", module.stem, []), log=log, on_line=told.append)
    assert told == ["half 1"]
    module.write_text("import sys\nprint('error: no data', file=sys.stderr)\nprint('bye')\nsys.exit(3)")
    with pytest.raises(JobError, match="step 'fit' failed with exit code 3: no data\nthe whole log is ") as failed:
        children.run(Job("fit", module.stem, []), log=log)
    assert failed.value.log == log
    module.write_text("1 / 0")
    with pytest.raises(JobError, match=r"its last words:(.|\n)*ZeroDivisionError"):
        children.run(Job("fit", module.stem, []), log=log)
    assert run_in_front(module.stem, []) == 1


def test_a_step_ends_when_it_hangs_and_when_we_do(tmp_path: Path, module: Path) -> None:
    """It is killed after its longest time, and ended where what runs beside it fails."""
    log = tmp_path / "step.log"
    module.write_text("import time\ntime.sleep(60)")
    with pytest.raises(JobError, match=re.escape("step 'hang' was ended after 0.1 s")):
        children.run(Job("hang", module.stem, [], longest_s=0.1), log=log)
    with pytest.raises(KeyboardInterrupt), children.running(Job("beside", module.stem, []), log=log) as process:
        raise KeyboardInterrupt
    assert process.returncode is not None
