"""Collections that nobody has to wait for."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
import sqlalchemy
from engine.store.collecting import leave_out_what_is_loaded

before = len(gc.get_objects())
leave_out_what_is_loaded()
print(before, len(gc.get_objects()))
"""


def test_what_is_loaded_is_looked_through_once() -> None:
    """Later collections have next to nothing to look at."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, after = (int(word) for word in done.stdout.split())
    assert before > 20_000
    assert after < 200
