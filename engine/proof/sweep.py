"""Worlds one after the other, each kept as a file when it is done, so that an interrupted run goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def kept(
    folder: Path,
    jobs: Sequence[tuple[str, Callable[[], dict[str, Any]]]],
    *,
    on_done: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Results of all jobs in their order; those that lie in the folder are read, the others are run and written.

    Parameters
    ----------
    jobs
        Name of each result and how it is made; a result is plain values.
    on_done
        Called with (done, all).
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for done, (name, run) in enumerate(jobs):
        path = folder / f"{name}.json"
        if path.exists():
            found.append(json.loads(path.read_text(encoding="utf-8")))
        else:
            result = json.loads(json.dumps(run()))
            half = path.with_suffix(".part")
            half.write_text(json.dumps(result), encoding="utf-8")
            half.replace(path)  # whole or not at all
            found.append(result)
        if on_done is not None:
            on_done(done + 1, len(jobs))
    return found
