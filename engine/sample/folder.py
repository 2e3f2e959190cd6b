"""Where the sample lies: beside the real store and never in it, so that it can be thrown away whole."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.jobs import children
from engine.jobs.children import Job
from engine.jobs.kept import whole
from engine.sample.content import Language
from policies.errors import StateError

State = Literal["none", "filling", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class Filling:
    """How far it is.

    Parameters
    ----------
    share
        Done, in [0, 1].
    text
        What is being made, or the last words of what failed.
    """

    state: State
    share: float = 0.0
    text: str = ""


class SampleFolder:
    """The sample under a home folder: made by a process of its own, moved into place when it is whole.

    Attributes
    ----------
    path
        A service's data folder, once it is there.
    draft
        Where it is made.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "sample"
        self.draft = home / "sample.draft"
        self._log = self.draft / "log"
        self._job: subprocess.Popen[bytes] | None = None

    def state(self) -> Filling:
        """How it stands."""
        if (self.path / "nextoffer.db").exists():
            return Filling("ready", 1.0)
        if self._job is None:
            return Filling("none")
        if self._job.poll() is None:
            return Filling("filling", *read_progress(self.draft))
        words = children.last_line(self._log) if self._log.exists() else ""
        return Filling("failed", 0.0, words or f"exit code {self._job.returncode}")

    def begin(self, language: Language) -> None:
        """Start filling it in another process; nothing where that has happened already."""
        if self.state().state in ("ready", "filling"):
            return
        shutil.rmtree(self.draft, ignore_errors=True)
        self.draft.mkdir(parents=True)
        arguments = ["--home", str(self.path.parent), "--language", language]
        self._job = children.start(Job("sample", "engine.sample", arguments), log=self._log)

    def remove(self) -> None:
        """Throw it away, or stop filling it.

        Raises
        ------
        StateError
            If there is none.
        """
        if self.state().state == "none":
            raise StateError("there is no sample to remove")
        self.stop()
        self._job = None
        for folder in (self.path, self.draft):
            shutil.rmtree(folder, ignore_errors=True)

    def stop(self) -> None:
        """End a filling that has not ended."""
        if self._job is not None:
            children.stop(self._job)


def write_progress(draft: Path, share: float, text: str) -> None:
    """Say how far it is; whole or not at all."""
    with whole(draft / "progress.json") as part:
        part.write_text(json.dumps({"share": share, "text": text}), encoding="utf-8")


def read_progress(draft: Path) -> tuple[float, str]:
    """How far it is."""
    try:
        found = json.loads((draft / "progress.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return 0.0, ""
    return float(found["share"]), str(found["text"])
