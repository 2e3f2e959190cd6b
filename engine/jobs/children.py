"""Run a heavy step as a process of its own, watch it, and say plainly where it failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from policies.errors import NextofferError

# The arithmetic of one thread: several jobs share a machine, and libraries with threads of their own hang or crawl.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_LOOK_S = 0.3
_ERROR = "error: "


class JobError(NextofferError, RuntimeError):
    """A step that is a process of its own ended with an error, or took too long.

    Attributes
    ----------
    log
        File with everything the step printed.
    """

    def __init__(self, title: str, *, how: str, log: Path) -> None:
        self.log = log
        super().__init__(f"step {title!r} {how}: {_last_words(log)}\nthe whole log is {log}")


@dataclass(frozen=True, slots=True)
class Job:
    """A module of ours run with ``python -m``, alone in its process.

    Parameters
    ----------
    title
        What a person reads where it fails.
    module
        Module with a command line.
    arguments
        Its arguments.
    environment
        Added to ours.
    longest_s
        It is killed after so many seconds: a framework that hangs must not hang what waits for it.
    """

    title: str
    module: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    longest_s: float = float("inf")

    @property
    def command(self) -> list[str]:
        """What is run."""
        return [sys.executable, "-m", self.module, *self.arguments]


def start(job: Job, *, log: Path) -> subprocess.Popen[bytes]:
    """Start a job with its output going to a file; whoever starts it ends it (``stop``)."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **_ONE_THREAD, **job.environment}
    with log.open("wb") as sink:
        return subprocess.Popen(
            job.command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a job that has not ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(job: Job, process: subprocess.Popen[bytes], *, log: Path, on_line: Callable[[str], None]) -> None:
    """Wait for a job, handing over its last line whenever it is another one.

    Raises
    ------
    JobError
        If it ends with another exit code than 0, or takes longer than it may.
    """
    ends_at, told = time.monotonic() + job.longest_s, ""
    while process.poll() is None:
        if time.monotonic() > ends_at:
            process.kill()
            process.wait()
            raise JobError(job.title, how=f"was ended after {job.longest_s:g} s", log=log)
        time.sleep(_LOOK_S)
        line = last_line(log)
        if line and line != told:
            on_line(line)
        told = line
    if process.returncode != 0:
        raise JobError(job.title, how=f"failed with exit code {process.returncode}", log=log)


@contextmanager
def running(job: Job, *, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a job beside what is done meanwhile; it is ended with us if we are interrupted."""
    process = start(job, log=log)
    try:
        yield process
    finally:
        stop(process)


def run(job: Job, *, log: Path, on_line: Callable[[str], None] = lambda _: None) -> None:
    """Start a job and wait for it; it is ended with us if we are interrupted."""
    with running(job, log=log) as process:
        wait(job, process, log=log, on_line=on_line)


def run_in_front(module: str, arguments: Sequence[str]) -> int:
    """Run a module in a process of its own that talks to the person itself; return its exit code."""
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


def last_line(log: Path) -> str:
    """Last line of a log that says something, shortened; "" where there is none."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 400))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")
    words = [line.strip() for line in lines if line.strip()]
    return words[-1][:100] if words else ""


def _last_words(log: Path) -> str:
    """The sentence of an error that was raised on purpose, else the end of the log."""
    lines = log.read_text(errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.startswith(_ERROR)), None)
    return said.removeprefix(_ERROR) if said is not None else "its last words:\n" + "\n".join(lines[-15:])
