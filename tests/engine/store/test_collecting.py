"""Collections that nobody has to wait for."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from engine.store.collecting import collect_rarely

collect_rarely()
assert gc.get_freeze_count() > 0
before = gc.get_stats()[2]["collections"]
kept = []
for i in range(300_000):  # what caches hold grows: tuples of their own, seen by the collector
    kept.append([i])
print(gc.get_stats()[2]["collections"] - before)
"""


def test_what_caches_hold_is_not_looked_through_while_they_grow() -> None:
    """After 300,000 new objects no full collection has run."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) == 0
