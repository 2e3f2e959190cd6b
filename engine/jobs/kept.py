"""Results of long work, each a file that is there whole or not at all, so that an interrupted run goes on where it was.

``Kept`` is for results of one piece of work: they are never made again, and a folder that was begun with something else is
refused. Where an input may move and a step is then to be done again, see ``engine.jobs.steps``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from policies.errors import InvalidInputError

_OF = "of.json"


class Kept:
    """Finished results below one folder.

    Parameters
    ----------
    of
        What they are results of, as plain values: data, seed, options. Kept beside them.

    Raises
    ------
    InvalidInputError
        If the folder was begun with something else.
    """

    def __init__(self, folder: Path, *, of: Mapping[str, Any]) -> None:
        self._folder = folder
        path, wanted = folder / _OF, json.loads(json.dumps(dict(of)))
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with whole(path) as scratch:
                scratch.write_text(json.dumps(wanted), encoding="utf-8")
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        differing = sorted(name for name in {*before, *wanted} if before.get(name) != wanted.get(name))
        if differing:
            raise InvalidInputError(
                f"{folder} was begun with another {', '.join(differing)}; go on with the same data and options, or choose another folder"
            )

    def path(self, name: str, *, suffix: str = ".json") -> Path:
        """Where a result lies, once it is there."""
        return self._folder / f"{quote(name, safe=' =')}{suffix}"

    def get(self, name: str) -> dict[str, Any] | None:
        """A result in plain values; None where it is not finished."""
        path = self.path(name)
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def put(self, name: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a result and return it as it will be read."""
        text = json.dumps(dict(result))
        with whole(self.path(name)) as scratch:
            scratch.write_text(text, encoding="utf-8")
        read: dict[str, Any] = json.loads(text)
        return read

    def all_of(
        self,
        jobs: Sequence[tuple[str, Callable[[], Mapping[str, Any]]]],
        *,
        on_done: Callable[[int, int], None] = lambda *_: None,
    ) -> list[dict[str, Any]]:
        """Results of all jobs in their order; those that are there are read, the others are run and kept.

        Parameters
        ----------
        jobs
            Name of each result and how it is made.
        on_done
            Called with (done, all).
        """
        found = []
        for done, (name, run) in enumerate(jobs):
            there = self.get(name)
            found.append(self.put(name, run()) if there is None else there)
            on_done(done + 1, len(jobs))
        return found


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A file to write that takes its place when the block is over, and not if it fails."""
    scratch = path.with_name(f".{os.getpid()}-{path.name}")  # two processes may be about the same result
    yield scratch
    with scratch.open("rb+") as file:
        os.fsync(file.fileno())  # or a power cut could leave the name with nothing in it
    scratch.replace(path)
