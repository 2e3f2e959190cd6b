"""``nextoffer benchmark``: hand over to ``benchmarks/NAME.py`` of the checkout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from policies.errors import InvalidInputError, UnknownNameError


def benchmark(name: str, /, *extra: str, json: Path | None = None, quick: bool = False) -> int:
    """Run a benchmark against its baselines, interleaved in the same run.

    Parameters
    ----------
    name
        Which one, such as serving, ledger, learning, ope, simulator.
    extra
        Passed on, after ``--``.
    json
        Write the figures here.
    quick
        At most a minute: proves that it works, judges only what that size can judge.
    """
    root = Path(__file__).resolve().parents[2]
    folder = root / "benchmarks"
    known = sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    if not known:
        raise InvalidInputError(
            f"benchmarks are not installed with the package and {folder} does not exist; run from a checkout of the repository"
        )
    module = name.replace("-", "_")
    if module not in known:
        raise UnknownNameError("benchmark", name, known)
    arguments = [*(["--json", str(json.resolve())] if json else []), *(["--quick"] if quick else []), *extra]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with subprocess.Popen(command, cwd=root, env=environment) as running:
        before = signal.signal(signal.SIGTERM, lambda *_: running.terminate())  # it ends what it has started
        try:
            return running.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
