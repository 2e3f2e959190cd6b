"""Run what a hand-over runs: static checks, then pytest in one process per heavy framework.

Keras, PyTorch, RLlib and Spark each keep threads, a JVM or a cluster alive and disagree about forks and
eager mode, so their tests run in processes of their own, one after the other. The quick set has nothing heavy: its files are
spread over two processes, with the static checks beside them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = [
    "policies",
    "simulator",
    "offline_eval",
    "engine",
    "api",
    "clients",
    "tests",
    "benchmarks",
    "examples",
    "scripts",
]
HEAVY = ["torch", "tensorflow", "spark", "rllib"]
NO_TESTS_COLLECTED = 5

Step = tuple[str, list[str]]


def main() -> int:
    """Run the chosen set and return 0 if all of it passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--check", action="store_true", help="lint, types, import order and the quick tests")
    group.add_argument("--all", action="store_true", help="everything")
    options, pytest_args = parser.parse_known_args()
    python = [sys.executable, "-m"]
    static: list[Step] = [
        ("format", [*python, "ruff", "format", "--check", "--quiet", *PACKAGES]),
        ("lint", [*python, "ruff", "check", "--quiet", *PACKAGES]),
        ("import order", [str(Path(sys.executable).parent / "lint-imports"), "--no-logo"]),
        ("types", [*python, "mypy"]),
        ("dependencies", [sys.executable, "scripts/audit_dependencies.py"]),
    ]
    light = " and ".join(f"not {marker}" for marker in HEAVY)
    pytest = [*python, "pytest", "-q", *pytest_args]
    if options.check:
        quick = [*pytest, "-n", "2", "--dist", "loadfile", "-m", f"{light} and not slow"]
        lanes = [static, [("quick tests", quick)]]
    else:
        heavy = [(f"tests ({marker})", [*pytest, "-m", marker]) for marker in HEAVY]
        lanes = [[*static, ("tests", [*pytest, "-m", light]), *heavy]]
    with ThreadPoolExecutor(len(lanes)) as pool:
        failed = [name for names in pool.map(_run_lane, lanes) for name in names]
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall steps passed", flush=True)  # noqa: T201
    return 1 if failed else 0


def _run_lane(steps: list[Step]) -> list[str]:
    """Run steps one after the other; the names of those that failed."""
    return [name for name, command in steps if not _run(name, command)]


def _run(name: str, command: list[str]) -> bool:
    print(f"== {name}", flush=True)  # noqa: T201
    started = time.monotonic()
    # One thread per library: two cores are shared with servers that the tests start.
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ}
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    ok = code == 0 or ("pytest" in command and code == NO_TESTS_COLLECTED)
    print(f"== {name}: {'ok' if ok else f'FAILED (exit {code})'} in {time.monotonic() - started:.0f} s", flush=True)  # noqa: T201
    return ok


if __name__ == "__main__":
    sys.exit(main())
