"""Run the pages of the documentation as their readers do: each block in order, in one folder, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HOWTO = Path(__file__).parents[1] / "docs" / "howto"
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def run_page(name: str, folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Run every ``sh`` and ``python`` block of a page; what is shown only is marked ``console`` there.

    Returns
    -------
    list
        What each block printed.
    """
    blocks = _BLOCK.findall((HOWTO / name).read_text(encoding="utf-8"))
    assert blocks, f"{name} has no block to run"
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    printed = []
    for kind, text in blocks:
        command = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{name}: this block failed:\n{text}\n{done.stdout}\n{done.stderr}"
        printed.append(done.stdout)
    return printed
