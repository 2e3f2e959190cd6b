"""Claims of processes over a store: one owner at a time, and nothing but the store beneath them."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from engine.store.ownership import FileOwnership


def test_a_version_has_one_owner_and_gets_another_when_that_one_dies(tmp_path: Path) -> None:
    """A claim of a living process stands; of a killed one it is free at once."""
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from engine.store.ownership import FileOwnership
        print(FileOwnership(Path({str(tmp_path)!r})).claim("vw@1"), flush=True)
        time.sleep(60)
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline().strip() == "True"
        mine = FileOwnership(tmp_path)
        assert not mine.claim("vw@1")
        assert mine.claim("vw@2")
        other.kill()
        other.wait()
        assert mine.claim("vw@1")
        mine.close()


def test_claims_and_keepers_know_no_learner() -> None:
    """Who looks after experiments loads nothing that learns, so decisions, experiments and learning stay in one order."""
    program = (
        "import sys, engine.experiments.keeper as k\nprint([m for m in sys.modules if m.startswith('engine.learner')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
