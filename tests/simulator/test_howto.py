"""The how-to runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "howto" / "run-simulations.md"


@pytest.mark.slow
def test_its_python_runs_and_its_commands_have_their_options() -> None:
    """Every python block runs as it stands, and each option a command line shows is one the command has."""
    text = PAGE.read_text()
    for snippet in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    from api.cli import simulate

    for line in re.findall(r"^nextoffer simulate (.*)$", text, flags=re.MULTILINE):
        name = line.split()[0]
        app = simulate.app[name] if not name.startswith("-") else simulate.app
        app.parse_args(line.split()[0 if app is simulate.app else 1 :], exit_on_error=False, print_error=True)
