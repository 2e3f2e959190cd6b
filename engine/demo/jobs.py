"""Run a heavy step as a process of its own, watch it, and say plainly where it failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.errors import NextofferError


class JobError(NextofferError, RuntimeError):
    """A step that is a process of its own ended with an error.

    Attributes
    ----------
    log
        File with everything the step printed.
    """

    def __init__(self, title: str, *, returncode: int, log: Path) -> None:
        self.log = log
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
        super().__init__(
            f"step {title!r} ended with exit code {returncode}; its last words:\n{tail}\nthe whole log is {log}"
        )


@dataclass(frozen=True, slots=True)
class Job:
    """A module of ours run with ``python -m``, alone in its process.

    Parameters
    ----------
    title
        What a person reads while it runs.
    module
        Module with a command line.
    arguments
        Its arguments.
    environment
        Added to ours.
    """

    title: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str]


def start(job: Job, *, log: Path) -> subprocess.Popen[bytes]:
    """Start a job with its output going to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **job.environment}
    with log.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", job.module, *job.arguments],
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
        )


def wait(job: Job, process: subprocess.Popen[bytes], *, log: Path, on_line: Callable[[str], None]) -> None:
    """Wait for a job, handing over its last line now and then.

    Raises
    ------
    JobError
        If it ends with another exit code than 0.
    """
    while process.poll() is None:
        time.sleep(0.3)
        last = _last_line(log)
        if last:
            on_line(last)
    if process.returncode != 0:
        raise JobError(job.title, returncode=process.returncode, log=log)


def run(job: Job, *, log: Path, on_line: Callable[[str], None]) -> None:
    """Start a job and wait for it; it is ended with us if we are interrupted."""
    process = start(job, log=log)
    try:
        wait(job, process, log=log, on_line=on_line)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(timeout=10)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 400))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    return words[-1][:100] if words else ""
