"""Steps that leave a file with the hash of their inputs: done once, gone on with after a crash, done again when an input moves."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.store.cold import sync_folder

_MARK = "step.json"


@dataclass(slots=True)
class Steps:
    """The steps of one folder.

    Attributes
    ----------
    done, skipped
        Names of the steps that this run did, and of those that were there already.
    """

    folder: Path
    narrate: Callable[[str], None] = lambda _: None
    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def run(self, name: str, inputs: Mapping[str, Any], work: Callable[[Path], None]) -> tuple[Path, str]:
        """Do a step unless it is there for these inputs.

        Parameters
        ----------
        work
            Fills the folder it is given; the step counts once it has returned, whole or not at all.

        Returns
        -------
        tuple
            The step's folder and the digest of its inputs, which later steps take as one of theirs.
        """
        wanted = digest(inputs)
        folder = self.folder / name
        if is_done(folder, wanted):
            self.skipped.append(name)
            return folder, wanted
        self.narrate(name)
        scratch = self.folder / f".{name}-making"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        start = time.monotonic()
        work(scratch)
        mark = {"step": name, "inputs": wanted, "seconds": round(time.monotonic() - start, 1), "given": dict(inputs)}
        _write(scratch / _MARK, json.dumps(mark, indent=1, default=str))
        gone = self.folder / f".{name}-gone"
        shutil.rmtree(gone, ignore_errors=True)
        if folder.exists():
            folder.rename(gone)
        scratch.rename(folder)
        sync_folder(self.folder)
        shutil.rmtree(gone, ignore_errors=True)
        self.done.append(name)
        return folder, wanted


def is_done(folder: Path, inputs: str) -> bool:
    """Whether a step's folder was made whole from inputs of this digest."""
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    return bool(found.get("inputs") == inputs)


def digest(value: Any) -> str:
    """SHA-256 over plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def _write(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
